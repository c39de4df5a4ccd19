"""Trossen WidowX AI, follower arm: ranges, velocity and torques as its controller reports them.

The maker publishes no limit of acceleration or jerk; 5 rad/s² and 100 rad/s³ are cautious choices of ours.
"""

from __future__ import annotations

from pathlib import Path

from latent_mpc.robots.robot import RobotSpec

GRIPPER_TRAVEL_M = 0.044  # of each finger


def wxai() -> RobotSpec:
    """The spec of a WidowX AI follower arm, as in `wxai.xml`; home is over the table, tool down."""
    return RobotSpec(
        name="wxai",
        joint_names=tuple(f"joint_{index}" for index in range(6)),
        q_low_rad=(-3.0543, 0.0, 0.0, -1.5707, -1.5707, -3.1415),
        q_high_rad=(3.0543, 3.1415, 2.3561, 1.5707, 1.5707, 3.1415),
        velocity_rad_s=(3.14,) * 6,
        acceleration_rad_s2=(5.0,) * 6,
        jerk_rad_s3=(100.0,) * 6,
        torque_nm=(27.0, 27.0, 27.0, 7.0, 7.0, 7.0),
        home_rad=(0.0, 1.5, 1.2, -1.2708, 0.0, 0.0),
        gripper_width_m=2 * GRIPPER_TRAVEL_M,
        mjcf=Path(__file__).with_name("wxai.xml"),
        control_hz=100.0,
    )

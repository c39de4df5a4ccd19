"""Universal Robots UR5e: limits by the maker's data sheet, where it gives them.

Positions ±360° (the elbow ±180°, past which the forearm lies in the upper arm), velocities 180°/s, torques 150 and
28 N m. The maker publishes no limit of acceleration or jerk; 5 rad/s² and 100 rad/s³ are cautious choices of ours.
Frame B is the controller's base frame, as on the pendant; the arm at zero lies along -x, and home turns it to +x, tool
down.
"""

from __future__ import annotations

import math
from pathlib import Path

from latent_mpc.robots.robot import RobotSpec


def ur5e() -> RobotSpec:
    """The spec of a UR5e with a parallel gripper 85 mm wide, as in `ur5e.xml`."""
    q_high = tuple(round(turns * math.pi, 4) for turns in (2, 2, 1, 2, 2, 2))
    return RobotSpec(
        name="ur5e",
        joint_names=(
            "shoulder_pan_joint",
            "shoulder_lift_joint",
            "elbow_joint",
            "wrist_1_joint",
            "wrist_2_joint",
            "wrist_3_joint",
        ),
        q_low_rad=tuple(-q for q in q_high),
        q_high_rad=q_high,
        velocity_rad_s=(math.pi,) * 6,
        acceleration_rad_s2=(5.0,) * 6,
        jerk_rad_s3=(100.0,) * 6,
        torque_nm=(150.0, 150.0, 150.0, 28.0, 28.0, 28.0),
        home_rad=(math.pi, -1.8, 1.8, -math.pi / 2, -math.pi / 2, 0.0),
        gripper_width_m=0.085,
        mjcf=Path(__file__).with_name("ur5e.xml"),
        control_hz=100.0,
    )

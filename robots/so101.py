"""SO-101 and SO-100: five joints and a jaw, each a Feetech STS3215; called alike, with links a little different.

Zero of every joint is the middle of its range, forearm level, the hand pointing forwards; `so101.xml` and `so100.xml`
hold the kinematics. Limits: the range of the published models; 19.5 kg cm and 52 rpm of the servo's data sheet at
7.4 V, the speed reduced to what it keeps up under load. The jaw turns: its opening, 0 to 1, is linear in the angle.
SO-100's published models differ in their ranges by a tenth of a radian, so its range here is what all of them have.
"""

from __future__ import annotations

import math
from pathlib import Path

from latent_mpc.robots.calibration import Servo
from latent_mpc.robots.robot import RobotSpec

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
RANGE_RAD = (1.9199, 1.7453, 1.69, 1.6581, 2.7925)  # to either side
JAW_RAD = 1.9199  # from closed to open
JAW_M = 0.0813  # from the jaw's axis to its tip

SO101_SERVOS = (
    *(Servo(name, i + 1, 2 * RANGE_RAD[i]) for i, name in enumerate(JOINTS)),
    Servo("gripper", 6, JAW_RAD, torque_limit=500),  # half: it holds an object for long without tripping
)
SO100_RANGE_RAD = (2.0, 1.7, 1.5708, 1.77, 2.7925)
SO100_JAW_RAD = 2.2
SO100_SERVOS = (
    *(Servo(name, i + 1, 2 * SO100_RANGE_RAD[i]) for i, name in enumerate(JOINTS)),
    Servo("gripper", 6, SO100_JAW_RAD, torque_limit=500),
)
SERVOS = {"so101": SO101_SERVOS, "so100": SO100_SERVOS}  # by the arm's name

# What a person sees when a joint turns in the positive, and in the negative direction.
MOTIONS = {
    "shoulder_pan": ("to the arm's own right", "to the arm's own left"),
    "shoulder_lift": ("forwards and down", "backwards and up"),
    "elbow_flex": ("down", "up"),
    "wrist_flex": ("down", "up"),
    "wrist_roll": ("anticlockwise, seen from behind the hand", "clockwise, seen from behind the hand"),
}


def so101() -> RobotSpec:
    """The arm that follows, as published by TheRobotStudio."""
    return _spec("so101", RANGE_RAD, JAW_RAD)


def so100() -> RobotSpec:
    """Its predecessor."""
    return _spec("so100", SO100_RANGE_RAD, SO100_JAW_RAD)


def _spec(name: str, range_rad: tuple[float, ...], jaw_rad: float) -> RobotSpec:
    return RobotSpec(
        name=name,
        joint_names=JOINTS,
        q_low_rad=tuple(-q for q in range_rad),
        q_high_rad=range_rad,
        velocity_rad_s=(3.0,) * 5,
        acceleration_rad_s2=(15.0,) * 5,
        jerk_rad_s3=(150.0,) * 5,
        torque_nm=(1.9,) * 5,
        home_rad=(0.0, -0.2, 0.3, 1.4708, 0.0),
        gripper_width_m=2 * JAW_M * math.sin(jaw_rad / 2),
        mjcf=Path(__file__).with_name(f"{name}.xml"),
    )

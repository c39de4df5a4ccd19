"""The Franka Emika Panda (FER) and the Franka Research 3: the same links, other limits. Limits: the maker's."""

from __future__ import annotations

import math
from pathlib import Path

from latent_mpc.robots.robot import RobotSpec

MODEL = Path(__file__).parents[1] / "envs" / "panda.xml"


def panda(mjcf: Path = MODEL) -> RobotSpec:
    """The Panda's spec; `mjcf` is a model of it with joints joint1 to joint7 and the site "tcp"."""
    return RobotSpec(
        name="panda",
        joint_names=tuple(f"joint{i}" for i in range(1, 8)),
        q_low_rad=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
        q_high_rad=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
        velocity_rad_s=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
        acceleration_rad_s2=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
        jerk_rad_s3=(7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0),
        torque_nm=(87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0),
        home_rad=(0.0, 0.10, 0.0, -2.35, 0.0, 2.45, math.pi / 4),
        gripper_width_m=0.08,
        mjcf=mjcf,
    )


def fr3(mjcf: Path = MODEL) -> RobotSpec:
    """The Research 3's spec; `mjcf` as the Panda's, whose links it has.

    Its limits of velocity depend on position: up to 2.62 (5.26, 4.18, 5.26 at the wrist) rad/s in the middle of ranges
    up to 2.9007, 1.8361, 2.9007, -3.0770 to -0.1169, 2.8763, 0.4398 to 4.6216, 3.0508 rad, and less towards their ends.
    Here are those that the maker publishes for who wants constant ones: they hold everywhere in this smaller range.
    """
    return RobotSpec(
        name="fr3",
        joint_names=tuple(f"joint{i}" for i in range(1, 8)),
        q_low_rad=(-2.3476, -1.5454, -2.4937, -2.7714, -2.5100, 0.7773, -2.7045),
        q_high_rad=(2.3476, 1.5454, 2.4937, -0.4226, 2.5100, 4.2841, 2.7045),
        velocity_rad_s=(2.0, 1.0, 1.5, 1.25, 3.0, 1.5, 3.0),
        acceleration_rad_s2=(10.0,) * 7,
        jerk_rad_s3=(5000.0,) * 7,
        torque_nm=(87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0),
        home_rad=(0.0, 0.10, 0.0, -2.35, 0.0, 2.45, math.pi / 4),
        gripper_width_m=0.08,
        mjcf=mjcf,
    )

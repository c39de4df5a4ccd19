"""The Franka Emika Panda (FER). Limits: the maker's datasheet; a Franka Research 3 has others."""

from __future__ import annotations

import math
from pathlib import Path

from latent_mpc.robots.robot import RobotSpec


def panda(mjcf: Path) -> RobotSpec:
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

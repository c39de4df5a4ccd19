"""Arms by name, for drivers that take a spec."""

from __future__ import annotations

from collections.abc import Callable

from latent_mpc.robots.panda import fr3, panda
from latent_mpc.robots.robot import RobotSpec
from latent_mpc.robots.so101 import so100, so101
from latent_mpc.robots.ur5e import ur5e
from latent_mpc.robots.wxai import wxai
from latent_mpc.types import UnknownNameError

SPECS: dict[str, Callable[[], RobotSpec]] = {
    "fr3": fr3,
    "panda": panda,
    "so100": so100,
    "so101": so101,
    "ur5e": ur5e,
    "wxai": wxai,
}


def make_spec(name: str) -> RobotSpec:
    """An arm's spec, with the model that comes along. Raises UnknownNameError."""
    if name not in SPECS:
        raise UnknownNameError("arm", name, list(SPECS))
    return SPECS[name]()

"""Drivers by name; a vendor's package is imported only when its driver is made."""

from __future__ import annotations

import importlib
from typing import Any

from latent_mpc.robots.robot import Driver
from latent_mpc.robots.specs import make_spec
from latent_mpc.types import InvalidInputError, UnknownNameError

# name -> (module, class, the extra that installs what it needs)
DRIVERS = {
    "feetech": ("feetech", "FeetechDriver", None),
    "franka": ("franka", "FrankaDriver", "franka"),
    "lerobot": ("lerobot", "LeRobotDriver", None),
    "mujoco": ("mujoco_driver", "MujocoDriver", None),
    "rosbridge": ("rosbridge", "RosbridgeDriver", "rosbridge"),
    "trossen": ("trossen", "TrossenDriver", "trossen"),
    "ur": ("ur", "URDriver", "ur"),
}


def make_driver(name: str, **options: Any) -> Driver:
    """A driver by name, not connected yet.

    Args:
        name: a key of `DRIVERS`. **options: the arguments of its class; `spec` may be a key of `SPECS`.
    Raises:
        UnknownNameError: no such driver or spec. InvalidInputError: its package is missing, or it has no such option.
    """
    if name not in DRIVERS:
        raise UnknownNameError("driver", name, list(DRIVERS))
    if isinstance(spec := options.get("spec"), str):
        options["spec"] = make_spec(spec)
    module, cls, extra = DRIVERS[name]
    try:
        driver = getattr(importlib.import_module(f"latent_mpc.robots.{module}"), cls)
    except ImportError as error:
        hint = f"; pip install 'latent-mpc[{extra}]'" if extra else ""
        raise InvalidInputError(f"driver {name!r}: {error}{hint}") from error
    try:
        return driver(**options)
    except TypeError as error:
        raise InvalidInputError(f"driver {name!r}: {error}") from error

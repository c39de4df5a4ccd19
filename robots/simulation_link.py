"""The slots between a simulated robot and everybody else, and the link by which another process attaches to them.

    command   the controller's driver → a setpoint under an arming      state  → a reading
    cut       whoever takes the torque off → armings up to which        frame  → an image and the arm at its capture
    control   the owner → faults, coordinates to place                  truth  → what only a simulation knows

Arming n ends for good when `cut` holds n or more: a controller that awakes late cannot undo a stop. A setpoint that was
sent before that is nobody's fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.slots import Slot
from latent_mpc.robots.world import SimulationConfig


def state_dtype(joints: int) -> np.dtype:
    """A reading: `time_s` on the simulation's clock, `sent_s` monotonic; `arming` is the last one known."""
    numbers = [(name, "f8", (joints,)) for name in ("q_rad", "qd_rad_s", "torque_nm")]
    flags = [("armed", "?"), ("arming", "i8"), ("command", "i8"), ("fault", "S120")]
    return np.dtype([("sequence", "i8"), ("time_s", "f8"), ("sent_s", "f8"), *numbers, ("gripper", "f8"), *flags])


def command_dtype(joints: int) -> np.dtype:
    """A setpoint under arming `arming`, or with `stop` the wish to brake; `motion_s` is the controller's clock."""
    head = [("sequence", "i8"), ("sent_s", "f8"), ("motion_s", "f8"), ("arming", "i8"), ("stop", "?")]
    return np.dtype([*head, ("q_rad", "f8", (joints,)), ("gripper", "f8")])


CUT = np.dtype([("arming", "i8"), ("sent_s", "f8")])


def control_dtype(nq: int) -> np.dtype:
    """Faults to have (`frame` as an index of FRAME_FAULTS, `blocked` of the joint, -1 for none), and coordinates to
    take up once whenever `placing` changes."""
    flags = [
        ("frozen", "?"),
        ("nan", "?"),
        ("blocked", "i4"),
        ("protective_stop", "?"),
        ("frame", "i4"),
        ("flash", "?"),
    ]
    return np.dtype([*flags, ("placing", "i8"), ("qpos", "f8", (nq,))])


def truth_dtype(nq: int, nv: int) -> np.dtype:
    counts = [(name, "i8") for name in Violations.__dataclass_fields__]
    times = [(name, "f8") for name in ("time_s", "sent_s", "late_s", "flash_s")]
    return np.dtype(
        [*times, ("placing", "i8"), ("silences", "i8"), ("qpos", "f8", (nq,)), ("qvel", "f8", (nv,)), *counts]
    )


def frame_dtype(joints: int, size: int) -> np.dtype:
    """An image and the robot as of its capture; `motion_s` is NaN before the first setpoint."""
    head = [("sequence", "i8"), ("captured_s", "f8"), ("sent_s", "f8"), ("motion_s", "f8")]
    arm = [("q_rad", "f8", (joints,)), ("gripper", "f8")]
    return np.dtype([*head, *arm, ("height", "i4"), ("width", "i4"), ("image", "u1", (size, size, 3))])


@dataclass(frozen=True)
class Link:
    """What another process needs to attach: the names of the slots, and the sizes of their records."""

    config: SimulationConfig
    nq: int
    nv: int
    names: tuple[str, ...] = ()  # in the order of `dtypes`

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        joints, camera = self.config.spec.num_joints, self.config.camera
        return {
            "state": state_dtype(joints),
            "command": command_dtype(joints),
            "cut": CUT,
            "control": control_dtype(self.nq),
            "truth": truth_dtype(self.nq, self.nv),
            "frame": frame_dtype(joints, camera.size if camera else 1),
        }


class Slots:
    """The six slots of a simulated robot."""

    def __init__(self, link: Link) -> None:
        """Create them, or attach to those that `link` names. Raises InvalidInputError when they are gone."""
        self._slots: list[Slot] = []
        names = link.names or (None,) * len(link.dtypes)
        try:
            for dtype, name in zip(link.dtypes.values(), names, strict=True):
                self._slots.append(Slot(dtype, name))
        except BaseException:
            self.close()
            raise
        self.state, self.command, self.cut, self.control, self.truth, self.frame = self._slots

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(slot.name for slot in self._slots)

    def close(self) -> None:
        for slot in self._slots:
            slot.close()

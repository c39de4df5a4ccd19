"""Between a drive and its planner's process: what that is given, and what it shows. Without torch.

view slot:   image, goal, subgoal | energies now and along the plan | waypoints | times | complaint
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latent_mpc.robots.camera import Camera, Frame, Image
from latent_mpc.robots.channels import MAX_WAYPOINTS, TEXT, Ports, text_bytes
from latent_mpc.robots.robot import RobotSpec, TimedPlan
from latent_mpc.robots.slots import Slot
from latent_mpc.types import WorkspaceSpec

if TYPE_CHECKING:
    from latent_mpc.agent import Trace

STEPS = 32  # of a predicted energy, at most


def view_dtype(size: int) -> np.dtype:
    """What people watch; `pictured` says whether there is a subgoal's picture, the frame of play nearest to it."""
    images = [(name, "u1", (size, size, 3)) for name in ("image", "goal", "subgoal")]
    counts = [(name, "i8") for name in ("frame", "plan", "plans", "count", "steps")]
    numbers = [(name, "f8") for name in ("energy", "surprise", "think_s", "age_s", "at_s")]
    curves = [("position_m", "f8", (MAX_WAYPOINTS, 3)), ("predicted", "f8", STEPS)]
    return np.dtype([*images, ("pictured", "?"), *counts, *numbers, *curves, ("complaint", f"S{TEXT}")])


@dataclass(frozen=True)
class Charge:
    """What the planner's process is given; every function picklable.

    Attributes:
        weights: of the agent. goal_image: uint8 (size, size, 3). seed: of the sampling.
        make_camera: () -> camera, not connected.
        ports: of the controller. view: name of the slot. spec: of the arm. workspace: where plans keep the tool.
        owner: the process to end with. log: folder of the run, to keep the frames in; None for none.
    """

    weights: str | Path
    goal_image: Image
    seed: int
    make_camera: Callable[[], Camera]
    ports: Ports
    view: str
    spec: RobotSpec
    workspace: WorkspaceSpec
    owner: int
    log: Path | None = None


class View:
    """Writes the view slot."""

    def __init__(self, charge: Charge) -> None:
        size = charge.goal_image.shape[0]
        self._slot, self._record = Slot(view_dtype(size), charge.view), np.zeros((), view_dtype(size))
        self._record["goal"] = charge.goal_image
        self._slot.write(self._record)

    def show(
        self,
        frame: Frame,
        plan: TimedPlan | None,
        trace: Trace | None,
        surprise: float,
        now_s: float,
        complaint: str,
        subgoal: Image | None = None,
    ) -> None:
        """What was seen at `now_s`, and what came of it; a subgoal's picture stays until there is another."""
        r = self._record
        r["frame"], r["at_s"], r["age_s"] = frame.sequence, now_s, now_s - frame.captured_s
        if frame.image.shape == r["image"].shape:
            r["image"] = frame.image
        r["surprise"], r["complaint"] = surprise, text_bytes(complaint)
        if plan is not None:
            r["plan"], r["count"], r["think_s"] = plan.sequence, len(plan.times_s), time.monotonic() - now_s
            r["position_m"][: len(plan.times_s)] = plan.position_m
            r["plans"] += 1
        if trace is not None:
            energies = trace.predicted_energy[:STEPS]
            r["energy"], r["steps"] = trace.goal_energy, len(energies)
            r["predicted"][: len(energies)] = energies
        if subgoal is not None:
            r["subgoal"], r["pictured"] = subgoal, True
        self._slot.write(r)

    def complain(self, complaint: str) -> None:
        """Before any frame: why there will be none."""
        self._record["complaint"] = text_bytes(complaint)
        self._slot.write(self._record)

    def close(self) -> None:
        self._slot.close()

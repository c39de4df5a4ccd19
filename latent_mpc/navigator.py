"""The planner's process: frames and the controller's status in, timed plans out; torch lives here, no device does.

    newest frame → sound? → arm as of the frame → pilot → plan slot;      what it saw and thinks → view slot

A hanging planner is nobody's danger: its plans expire, and the controller stops the arm. The view is what people watch.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from latent_mpc.agent import AgentConfig, Trace, load_agent
from latent_mpc.frame_log import FrameLog
from latent_mpc.pilot import Pilot, Sight
from latent_mpc.robots.camera import Camera, Frame
from latent_mpc.robots.channels import MAX_WAYPOINTS, TEXT, Phase, PlannerPort, Ports, Status, text_bytes
from latent_mpc.robots.controller import LIVE
from latent_mpc.robots.frame_check import FrameCheck, FrameLimits
from latent_mpc.robots.kinematics import Kinematics, ToolPose
from latent_mpc.robots.robot import Array, RobotSpec, TimedPlan
from latent_mpc.robots.slots import Slot
from latent_mpc.tool_guardrails import GuardrailConfig
from latent_mpc.types import LatentMPCError, WorkspaceSpec

POLL_S = 0.002
MOVED_RAD = 0.01  # of a joint between frames: a camera sees that
REMEMBERED = 400  # statuses, to know the arm as of a frame
STEPS = 32  # of a predicted energy, at most


def view_dtype(size: int) -> np.dtype:
    """What people watch: the image and the goal, energies now and along the plan, waypoints, times, complaints."""
    return np.dtype(
        [
            ("image", "u1", (size, size, 3)),
            ("goal", "u1", (size, size, 3)),
            ("frame", "i8"),
            ("plan", "i8"),
            ("plans", "i8"),
            ("count", "i8"),
            ("position_m", "f8", (MAX_WAYPOINTS, 3)),
            ("energy", "f8"),
            ("predicted", "f8", STEPS),
            ("steps", "i8"),
            ("surprise", "f8"),
            ("think_s", "f8"),
            ("age_s", "f8"),
            ("at_s", "f8"),
            ("complaint", f"S{TEXT}"),
        ]
    )


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
    goal_image: NDArray[np.uint8]
    seed: int
    make_camera: Callable[[], Camera]
    ports: Ports
    view: str
    spec: RobotSpec
    workspace: WorkspaceSpec
    owner: int
    log: Path | None = None


def navigate(charge: Charge) -> None:
    """Plan until the process is told to end, or its owner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's
    torch.set_num_threads(1)
    guardrails = GuardrailConfig.within(charge.workspace)
    agent = load_agent(charge.weights, config=AgentConfig(guardrails=guardrails))
    agent.reset(charge.goal_image, seed=charge.seed)
    pilot, forward = Pilot(agent), Kinematics(charge.spec).pose
    port, view, camera = PlannerPort(charge.ports), View(charge), charge.make_camera()
    check = FrameCheck(FrameLimits(charge.goal_image.shape[:2], reference=charge.goal_image))
    log = None if charge.log is None else FrameLog(charge.log, charge.goal_image)
    past: deque[Status] = deque(maxlen=REMEMBERED)
    last, seen_rad = -1, None
    camera.connect()
    try:
        while os.getppid() == charge.owner:
            now_s, frame = time.monotonic(), camera.read()
            if (status := port.status()) is not None:
                past.append(status)
            if frame is None or not past or frame.sequence == last:
                if frame is not None and past and now_s - frame.captured_s > check.limits.max_age_s:
                    view.show(frame, None, None, pilot.surprise, now_s, check.judge(frame, now_s, False) or "")
                time.sleep(POLL_S)
                continue
            last = frame.sequence
            status = past[-1]
            moving = status.phase is Phase.RUNNING
            q_rad = status.tick["q_rad"] if frame.q_rad is None else frame.q_rad
            moved = seen_rad is not None and bool(np.abs(q_rad - seen_rad).max() > MOVED_RAD)
            seen_rad = q_rad
            complaint, plan = check.judge(frame, now_s, moved) or "", None
            if not complaint and status.phase in LIVE:
                try:
                    sight = sighted(frame, past, forward, charge.spec)
                    if not moving:
                        pilot.forget()
                    if (plan := pilot.plan(sight, time.monotonic(), partial(_motion_s, port))) is not None:
                        port.send(plan)
                except LatentMPCError as error:
                    complaint = str(error)
            view.show(frame, plan, agent.trace, pilot.surprise, now_s, complaint)
            if log is not None:
                log.add(frame, np.nan if plan is None or agent.trace is None else agent.trace.goal_energy)
    finally:
        camera.close()
        port.close()
        view.close()
        if log is not None:
            log.close()


def sighted(frame: Frame, past: deque[Status], forward: Callable[[Array], ToolPose], spec: RobotSpec) -> Sight:
    """A frame, and the arm when it was taken: as the camera says, or as the controller's statuses remember it.

    Raises:
        InvalidInputError: the frame is older than what is remembered.
    """
    if frame.q_rad is not None and frame.gripper is not None and frame.motion_s is not None:
        q_rad, gripper, motion_s = frame.q_rad, frame.gripper, frame.motion_s
    else:
        motion_s = past[-1].motion_at(frame.captured_s)
        tick = min((s.tick for s in past), key=lambda tick: abs(float(tick["now_s"]) - frame.captured_s))
        q_rad, gripper = tick["q_rad"], float(tick["gripper"])
    pose = forward(q_rad)
    width_m = gripper * spec.gripper_width_m
    return Sight(frame.image, frame.sequence, motion_s, pose.position_m, pose.yaw_rad, width_m)


def _motion_s(port: PlannerPort) -> float:
    """The motion clock now; 0 before the controller has said anything."""
    status = port.status()
    return 0.0 if status is None else status.motion_s


class View:
    """Writes the view slot."""

    def __init__(self, charge: Charge) -> None:
        size = charge.goal_image.shape[0]
        self._slot, self._record = Slot(view_dtype(size), charge.view), np.zeros((), view_dtype(size))
        self._record["goal"] = charge.goal_image
        self._slot.write(self._record)

    def show(
        self, frame: Frame, plan: TimedPlan | None, trace: Trace | None, surprise: float, now_s: float, complaint: str
    ) -> None:
        """What was seen at `now_s`, and what came of it."""
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
        self._slot.write(r)

    def close(self) -> None:
        self._slot.close()

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
from functools import partial

import numpy as np
import torch

from latent_mpc.agent import Agent, Trace, load_agent
from latent_mpc.every_frame import EveryFrame
from latent_mpc.frame_log import FrameLog
from latent_mpc.navigator_link import Charge, View
from latent_mpc.pilot import Pilot, PilotConfig
from latent_mpc.robots.camera import Image
from latent_mpc.robots.channels import Phase, PlannerPort, Status
from latent_mpc.robots.controller import LIVE
from latent_mpc.robots.frame_check import FrameCheck, FrameLimits
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.shipped import weights_folder
from latent_mpc.sight import MOVED_RAD, POLL_S, REMEMBERED, sighted
from latent_mpc.types import LatentMPCError
from latent_mpc.world_model.gallery import load_gallery


def navigate(charge: Charge) -> None:
    """Plan until the process is told to end, or its owner is gone; what it cannot go on with, the view says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's
    torch.set_num_threads(1)
    view = View(charge)
    try:
        _navigate(charge, view)
    except LatentMPCError as error:
        view.complain(str(error))
        raise SystemExit(1) from error
    finally:
        view.close()


def _navigate(charge: Charge, view: View) -> None:
    agent = load_agent(charge.weights, workspace=charge.workspace)
    agent.reset(charge.goal_image, seed=charge.seed)
    pilot, forward = Pilot(agent, PilotConfig(speed_m_s=charge.workspace.speed_m_s)), Kinematics(charge.spec).pose
    port, camera, illustrate = PlannerPort(charge.ports), EveryFrame(charge.make_camera()), _illustrator(charge, agent)
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
            subgoal = None if plan is None or agent.trace is None else illustrate(agent.trace)
            view.show(frame, plan, agent.trace, pilot.surprise, now_s, complaint, subgoal)
            if log is not None:
                energy = np.nan if plan is None or agent.trace is None else agent.trace.goal_energy
                for each in camera.taken(frame.sequence):
                    log.add(each, energy if each.sequence == frame.sequence else np.nan)
    finally:
        camera.close()
        port.close()
        if log is not None:
            log.close()


def _motion_s(port: PlannerPort) -> float:
    """The motion clock now; 0 before the controller has said anything."""
    status = port.status()
    return 0.0 if status is None else status.motion_s


def _illustrator(charge: Charge, agent: Agent) -> Callable[[Trace], Image | None]:
    """Pictures the subgoal of a trace: the frame of play nearest to it, or the goal where the plan goes straight there.

    There is no picture where the weights come without frames of play.
    """
    try:
        gallery = load_gallery(weights_folder(charge.weights), agent.model)
    except LatentMPCError:
        return lambda trace: None

    def picture(trace: Trace) -> Image:
        if trace.subgoal is None:
            return charge.goal_image
        return gallery.nearest(torch.from_numpy(trace.subgoal), agent.subgoal_energy)

    return picture

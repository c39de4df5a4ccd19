"""Play of an arm, recorded as the dataset that `pretrain` and `train` read: `latent-mpc robot play`.

    motion clock m:   the arm wanders (wander.py) by timed plans, through the controller and its gate
    frame k:          the one nearest to m = m_0 + k step_s, with the arm as of that frame
    action k:         [Δ position / step_m, Δ yaw / step_yaw_rad] from frame k to k + 1, 0.5 − opening that was ordered

So an action is what was executed, in the units of the tabletop environment. The motion clock stands still while the
controller holds the arm, and no frame is due meanwhile. An episode whose camera stalls, or that moved further than an
action can say, is dropped and recorded again; nobody knows where objects are, so there is no truth.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latent_mpc.drive import Stage
from latent_mpc.preview import write_preview
from latent_mpc.robots.camera import Camera, Frame
from latent_mpc.robots.channels import Phase, Status
from latent_mpc.robots.controller import ControllerConfig
from latent_mpc.robots.frame_check import FrameCheck, FrameLimits
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.parts import standard_parts
from latent_mpc.robots.robot import Array, DriverError, TimedPlan
from latent_mpc.robots.splice import Waypoint
from latent_mpc.robots.supervisor import Supervisor
from latent_mpc.sight import MOVED_RAD, POLL_S, REMEMBERED, Sight, sighted
from latent_mpc.types import InvalidInputError
from latent_mpc.wander import Wander, WanderConfig
from latent_mpc.world_model.dataset import (
    DatasetHeader,
    Episode,
    begin_dataset,
    episode_path,
    plain,
    write_episode,
)

ACTION_DIM, PROPRIO_DIM = 5, 6  # as in envs/tabletop.py
SHARE = 0.7  # of an action of 1 that the fastest motion takes: frames come early and late, and servos swing
AHEAD = 6  # steps that a plan holds
SEND_S, LAST_S = 0.3, 1.0  # between plans, and how long each may be followed
RESTART_S = 0.3  # between attempts to get the arm out of HOLD
REST_S, STANDS_RAD_S = 1.0, 0.02
DROPS, DROPPED_S = 5, 0.5  # episodes in a row, and what a camera has to recover after each


@dataclass(frozen=True)
class RobotPlayConfig:
    """What to record.

    Attributes:
        num_episodes: that the dataset shall hold in the end. episode_length: actions of each.
        step_s: of an action. step_m, step_yaw_rad: what an action of 1 means.
        wander: how the arm moves.
    """

    num_episodes: int = 200
    episode_length: int = 50
    step_s: float = 0.2
    step_m: float = 0.06
    step_yaw_rad: float = 0.3
    wander: WanderConfig = field(default_factory=WanderConfig)

    def __post_init__(self) -> None:
        if min(self.num_episodes, self.episode_length) < 1:
            raise InvalidInputError(f"num_episodes and episode_length must be at least 1, got {self}")
        if not min(self.step_s, self.step_m, self.step_yaw_rad) > 0:
            raise InvalidInputError(f"step_s, step_m and step_yaw_rad must be positive, got {self}")


def record(stage: Stage, config: RobotPlayConfig, *, name: str, out: Path, seed: int = 0, progress: bool = True) -> str:
    """Let the arm play until `out` holds `num_episodes` episodes; returns what to tell the person.

    The arm moves by itself. Ctrl-C stops it, drops the episode under way and raises KeyboardInterrupt; the same call
    goes on.

    Args:
        name: of the arm, for the header. out: the dataset's folder; made when missing.
        seed: of the motion; episode i draws from `SeedSequence(seed, spawn_key=(i,))`.
    Raises:
        InvalidInputError: `out` holds a dataset made with other settings, or the workspace is too small.
        DriverError: arm or camera failed; finished episodes are kept.
        OSError: the disk refused; likewise.
    """
    camera = stage.make_camera()
    camera.connect()
    try:
        frame = camera.read()
        assert frame is not None  # connect waited for one
        begin_dataset(out, _header(stage, config, name, seed, frame))
        missing = [i for i in range(config.num_episodes) if not episode_path(out, i).exists()]
        make_parts = partial(standard_parts, workspace=stage.workspace)
        supervisor = Supervisor(stage.make, make_parts, ControllerConfig(latency_s=stage.lag_s))
        player = _Player(stage, config, supervisor, camera, frame.image.shape[:2])
        with supervisor, tqdm(missing, "play", unit="episode", disable=not progress) as bar:
            supervisor.arm(timeout_s=20.0)
            try:
                for index in bar:
                    write_episode(out, index, player.episode(np.random.SeedSequence(seed, spawn_key=(index,))))
            finally:
                _come_to_rest(supervisor)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished episodes are kept in {out}; the same command goes on") from None
    finally:
        camera.close()
    write_preview(out, config.step_s)
    hours = config.num_episodes * config.episode_length * config.step_s / 3600
    return f"{out}: {config.num_episodes} episodes, {hours:.2f} h of play; next: latent-mpc pretrain --data {out}"


def _come_to_rest(supervisor: Supervisor) -> None:
    """Hold the arm until it stands, at most REST_S: without torque it would swing on."""
    end_s = time.monotonic() + REST_S
    with contextlib.suppress(DriverError):
        supervisor.hold()
        while time.monotonic() < end_s and np.abs(supervisor.status().tick["qd_rad_s"]).max() > STANDS_RAD_S:
            time.sleep(POLL_S)


def actions_between(sights: list[Sight], openings: list[float], config: RobotPlayConfig) -> NDArray[np.float32]:
    """Actions (T, 5) that lead from each of T + 1 sights to the next.

    Args:
        openings: ordered in each step, (T,), 0 to 1.
    """
    move = np.diff([sight.position_m for sight in sights], axis=0) / config.step_m
    turn = np.diff(np.unwrap([sight.yaw_rad for sight in sights])) / config.step_yaw_rad
    return np.column_stack([move, turn, 0.5 - np.array(openings)]).astype(np.float32)


class _Player:
    """Keeps the arm moving, and gathers episodes."""

    def __init__(
        self, stage: Stage, config: RobotPlayConfig, supervisor: Supervisor, camera: Camera, size: tuple[int, int]
    ) -> None:
        """size: of the frames, (H, W)."""
        speed_m_s = min(SHARE * config.step_m / config.step_s, stage.workspace.speed_m_s)
        self._way = Wander(stage.workspace, speed_m_s * config.step_s, SHARE * config.step_yaw_rad, config.wander)
        self._config, self._supervisor, self._camera = config, supervisor, camera
        self._spec = supervisor.spec
        self._forward = Kinematics(self._spec).pose
        self._check = FrameCheck(FrameLimits(size))
        self._past: deque[Status] = deque(maxlen=REMEMBERED)
        self._sent_s = self._begun_s = -math.inf
        self._last, self._sequence, self._first = -1, 0, 0  # frame, plan, step at which the way begins
        self._seen_rad: Array | None = None

    def episode(self, sequence: np.random.SeedSequence) -> Episode:
        """Play one episode. Raises DriverError."""
        self._way.seed(np.random.default_rng(sequence))
        for _ in range(DROPS):
            found = self._attempt()
            if isinstance(found, str):
                tqdm.write(f"an episode is dropped: {found}")
                time.sleep(DROPPED_S)
                continue
            sights, action = found
            return Episode(
                image=np.stack([sight.image for sight in sights]),
                proprio=np.stack([sight.observation()["proprio"] for sight in sights]),
                action=action,
                seed=int(sequence.generate_state(1)[0]),
            )
        raise DriverError(f"{DROPS} episodes in a row were dropped; the last one: {found}")

    def _attempt(self) -> tuple[list[Sight], NDArray[np.float32]] | str:
        """The sights and actions of an episode, or why they are none."""
        c, first = self._config, -1
        sights: list[Sight] = []
        openings: list[float] = []
        before: Sight | None = None
        while len(sights) <= c.episode_length:
            frame = self._next_frame()
            if isinstance(frame, str):
                return frame
            sight = sighted(frame, self._past, self._forward, self._spec)
            if first < 0:
                first = math.ceil(sight.motion_s / c.step_s)
            due_s = (first + len(sights)) * c.step_s
            if sight.motion_s >= due_s:
                near = min((sight, before or sight), key=lambda s: abs(s.motion_s - due_s))
                if abs(near.motion_s - due_s) > c.step_s / 3:
                    return f"no frame within {c.step_s / 3:.3f} s of the one that was due"
                sights.append(near)
                openings.append(self._way.at(first + len(sights) - 1).gripper)
            before = sight
        action = actions_between(sights, openings[:-1], c)
        if (most := float(np.abs(action).max())) > 1:
            return f"the arm moved {most:.2f} times as far in a step as an action can say"
        return sights, action

    def _next_frame(self) -> Frame | str:
        """Keep the arm moving until there is a new frame; what is wrong with the camera, if so. Raises DriverError."""
        while True:
            now_s, frame = time.monotonic(), self._camera.read()
            status = self._supervisor.status()
            self._past.append(status)
            if status.phase in (Phase.STOPPED, Phase.FAULT):
                complaint = self._check.judge(frame, now_s, False)
                camera = f"; camera {complaint}" if complaint else ""
                raise DriverError(f"the arm plays no more: {status.phase.name}, {status.reason}{camera}")
            if frame is not None and now_s - frame.captured_s <= self._check.limits.max_age_s:
                self._move(status, now_s)  # not blindly: without frames the last plan expires, and the arm holds
            if frame is None or frame.sequence == self._last:
                time.sleep(POLL_S)
                continue
            self._last = frame.sequence
            q_rad = status.tick["q_rad"] if frame.q_rad is None else frame.q_rad
            moved = self._seen_rad is not None and bool(np.abs(q_rad - self._seen_rad).max() > MOVED_RAD)
            self._seen_rad = q_rad
            return self._check.judge(frame, now_s, moved) or frame

    def _move(self, status: Status, now_s: float) -> None:
        """Send the next plan when it is time to; out of ARMED and HOLD the way begins anew where the arm is."""
        step_s, motion_s = self._config.step_s, status.motion_s
        if status.phase is not Phase.RUNNING and now_s - self._begun_s > RESTART_S:
            pose = self._forward(status.tick["wanted_rad"])
            here = Waypoint(pose.position_m, pose.yaw_rad, float(status.tick["sent_gripper"]))
            self._first = math.ceil(motion_s / step_s)
            self._way.begin(self._first, here)
            self._begun_s, self._sent_s = now_s, -math.inf
        if now_s - self._sent_s < SEND_S:
            return
        first = max(self._first, math.floor(motion_s / step_s))
        steps = range(first, first + AHEAD + 1)
        way = [self._way.at(step) for step in steps]
        self._sequence = max(self._sequence, status.last_plan) + 1
        self._sent_s = now_s
        plan = TimedPlan(
            sequence=self._sequence,
            observation=self._last,
            times_s=step_s * np.array(steps, np.float64),
            position_m=np.array([w.position_m for w in way]),
            yaw_rad=np.array([w.yaw_rad for w in way]),
            gripper=np.array([w.gripper for w in way], np.float64),
            expires_s=now_s + LAST_S,
        )
        self._supervisor.send(plan)


def _header(stage: Stage, config: RobotPlayConfig, name: str, seed: int, frame: Frame) -> DatasetHeader:
    units = {key: getattr(config, key) for key in ("step_m", "step_yaw_rad")}
    return DatasetHeader(
        env_id=f"robot/{name}",
        env_config=plain(units | {"workspace": asdict(stage.workspace)}),
        play_config=plain(asdict(config.wander)),
        seed=seed,
        image_size=(frame.image.shape[0], frame.image.shape[1]),
        action_dim=ACTION_DIM,
        proprio_dim=PROPRIO_DIM,
        control_dt_s=config.step_s,
    )

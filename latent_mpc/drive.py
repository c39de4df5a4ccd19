"""Drive an arm towards a goal image, in real time: `latent-mpc drive`.

    supervisor (this process)  ─ heartbeat, arm, hold, stop ─►  controller, 100 Hz  ◄─ slots ─►  device or simulation
    planner (its own process)  ─ timed plans ────────────────►      │ status
           ▲ frames ◄─ camera                                       ▼
           └─ view: what it sees and expects ─► the page, the log

Nothing here was tried on a physical arm, and nothing here is safety-rated: a real arm needs a hardware emergency stop.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.navigator_link import Charge, view_dtype
from latent_mpc.robots.camera import Camera, SimulatedCamera
from latent_mpc.robots.channels import Phase, Status
from latent_mpc.robots.controller import ControllerConfig
from latent_mpc.robots.mujoco_driver import MujocoDriver
from latent_mpc.robots.parts import standard_parts
from latent_mpc.robots.robot import Driver, DriverError, RobotSpec
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.slots import Slot
from latent_mpc.robots.supervisor import Supervisor
from latent_mpc.simulated_panda import SERVO_LAG_S, TABLETOP, simulation_config
from latent_mpc.types import InvalidInputError, WorkspaceSpec

READY_S = 90.0  # for the planner's process to load torch and the model on a busy machine
WATCH_S = 0.05


@dataclass(frozen=True)
class Stage:
    """An arm with its camera and its place, before there is a goal.

    Attributes:
        make: () -> driver, not connected; picklable. make_camera: the same of the camera.
        workspace: where the tool may go. lag_s: of the arm behind its setpoints.
    """

    make: Callable[[], Driver]
    make_camera: Callable[[], Camera]
    workspace: WorkspaceSpec
    lag_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Station(Stage):
    """A stage with a goal.

    Attributes:
        goal_image: uint8 (size, size, 3).
        judge: () -> success, called every 0.2 s; None where nobody can tell.
        simulation: behind it, for its truth and its faults; None for a real arm.
    """

    goal_image: NDArray[np.uint8]
    judge: Callable[[], bool] | None = None
    simulation: Simulation | None = None


@dataclass(frozen=True)
class DriveConfig:
    """How to drive.

    Attributes:
        weights: of the agent. seed: of its sampling.
        seconds: until the arm is stopped, at most.
        dry_run: plan and show, but never arm: nothing is sent.
        log: folder for the log of the run; None for none.
    """

    weights: str = "panda-tabletop"
    seed: int = 0
    seconds: float = 60.0
    dry_run: bool = False
    log: Path | None = None

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InvalidInputError(f"seconds must be positive, got {self.seconds}")


@dataclass(frozen=True)
class Report:
    """Of a run.

    Attributes:
        success: as the station's judge saw it; None without one.
        seconds: from the first motion. plans: made. think_ms: (mean, largest) time from a frame to its plan.
        phase, reason: of the controller at the end. period_error_ms: of its ticks: median, 99th percentile, worst.
    """

    success: bool | None
    seconds: float
    plans: int
    think_ms: tuple[float, float]
    phase: str
    reason: str
    period_error_ms: tuple[float, float, float]


@contextlib.contextmanager
def simulated_station(task: str, seed: int, goal_image: NDArray[np.uint8] | None = None) -> Iterator[Station]:
    """A simulated Panda in a process of its own, in the scene that the task's environment has for `seed`.

    Args:
        goal_image: in place of the scene's own goal; then nobody judges.
    """
    env = TabletopEnv(task)
    observation, _ = env.reset(seed=seed)
    with contextlib.ExitStack() as stack:
        stack.callback(env.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulation = stack.enter_context(Simulation(simulation_config(env, folder, seed)))

        def judge() -> bool:
            truth = simulation.truth()
            return env.judge(truth.qpos, truth.qvel)

        yield Station(
            partial(MujocoDriver, simulation.link),
            partial(SimulatedCamera, simulation.link),
            TABLETOP,
            SERVO_LAG_S,
            goal_image=observation["goal_image"] if goal_image is None else goal_image,
            judge=judge if goal_image is None else None,
            simulation=simulation,
        )


class Drive:
    """A supervisor with a planner's process beside it, while the context is entered.

    Attributes:
        supervisor: of the arm.
    """

    def __init__(self, station: Station, config: DriveConfig | None = None) -> None:
        self.station, self.config = station, config or DriveConfig()
        self.supervisor = Supervisor(
            station.make,
            partial(standard_parts, workspace=station.workspace),
            ControllerConfig(latency_s=station.lag_s),
            self.config.log,
        )
        self._stack = contextlib.ExitStack()

    @property
    def spec(self) -> RobotSpec:
        return self.supervisor.spec

    def __enter__(self) -> Drive:
        try:
            self._stack.enter_context(self.supervisor)
            size = self.station.goal_image.shape[0]
            self._view = Slot(view_dtype(size))
            self._stack.callback(self._view.close)
            charge = Charge(
                self.config.weights,
                self.station.goal_image,
                self.config.seed,
                self.station.make_camera,
                self.supervisor.ports,
                self._view.name,
                self.spec,
                self.station.workspace,
                os.getpid(),
                self.config.log,
            )
            self._planner = multiprocessing.get_context("spawn").Process(
                target=_navigate, args=(charge,), name="planner", daemon=True
            )
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits that
            try:
                self._planner.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._stack.callback(self._end_planner)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def view(self) -> NDArray[np.void] | None:
        """What the planner sees and thinks, a record of `view_dtype`; None before its first frame."""
        read = self._view.read()
        return None if read is None or not read[0]["frame"] else read[0]

    def wait_ready(self) -> None:
        """Until the planner has seen a frame.

        Raises:
            DriverError: it ended, or took longer than a loaded machine explains.
        """
        deadline_s = time.monotonic() + READY_S
        while self.view() is None:
            if not self._planner.is_alive():
                read = self._view.read()
                why = "" if read is None else read[0]["complaint"].item().decode(errors="replace")
                code = self._planner.exitcode
                raise DriverError(why or f"the planner ended before its first frame, exit code {code}")
            if time.monotonic() > deadline_s:
                raise DriverError(f"the planner saw no frame within {READY_S:.0f} s")
            time.sleep(WATCH_S)

    def run(
        self, watch: Callable[[Status, NDArray[np.void] | None], None] | None = None, *, stay: bool = False
    ) -> Report:
        """Arm and drive until success, the end of the time, STOPPED or FAULT.

        Args:
            watch: called every 50 ms with the controller's status and the planner's view.
            stay: in STOPPED and FAULT too, for somebody who can reset and arm; until controller or planner is gone.
        """
        self.wait_ready()
        if not self.config.dry_run:
            self.supervisor.arm(timeout_s=20.0)
        began_s, judged_s, success = time.monotonic(), 0.0, False
        thoughts: dict[int, float] = {}
        while (now_s := time.monotonic()) - began_s < self.config.seconds and not success:
            status, view = self.supervisor.status(), self.view()
            if watch is not None:
                watch(status, view)
            if status.phase in (Phase.STOPPED, Phase.FAULT) and not (stay and self._alive()):
                break
            if view is not None and view["plan"]:
                thoughts[int(view["plan"])] = 1e3 * float(view["think_s"])
            if self.station.judge is not None and now_s - judged_s >= 0.2:
                judged_s, success = now_s, self.station.judge()
            time.sleep(WATCH_S)
        status, view = self.supervisor.status(), self.view()
        think = list(thoughts.values()) or [0.0]
        p50, p99, worst = status.period_error_s
        return Report(
            success=None if self.station.judge is None else success,
            seconds=time.monotonic() - began_s,
            plans=0 if view is None else int(view["plans"]),
            think_ms=(float(np.mean(think)), max(think)),
            phase=status.phase.name,
            reason=status.reason,
            period_error_ms=(1e3 * p50, 1e3 * p99, 1e3 * worst),
        )

    def _alive(self) -> bool:
        return self.supervisor.alive and self._planner.is_alive()

    def _end_planner(self) -> None:
        self._planner.terminate()
        self._planner.join(2.0)
        if self._planner.is_alive():
            self._planner.kill()
            self._planner.join()


def _navigate(charge: Charge) -> None:
    from latent_mpc.navigator import navigate  # torch: in the planner's process alone

    navigate(charge)


def drive_and_show(station: Station, config: DriveConfig, *, page: bool) -> str:
    """Drive with a line of status, and the live page if asked; returns what to tell the person."""
    with contextlib.ExitStack() as stack:
        drive, live = Drive(station, config), None
        if page:
            from latent_mpc.web import Page

            live = Page(drive)  # loads for seconds, before anything runs
        stack.enter_context(drive)
        if live is not None:
            stack.enter_context(live)
            tqdm.write(f"live page: {live.url}")
        bar = stack.enter_context(tqdm(total=config.seconds, unit="s", bar_format="{desc}", desc="planner starts"))
        began_s = time.monotonic()

        def show(status: Status, view: NDArray[np.void] | None) -> None:
            energy = "" if view is None else f", energy {float(view['energy']):.2f}, plan {int(view['plan'])}"
            ended = live is not None and status.phase in (Phase.STOPPED, Phase.FAULT)
            ask = f"; {status.reason}; RESET and ARM on the page, or Ctrl-C" if ended else ""
            bar.set_description_str(f"{time.monotonic() - began_s:5.1f} s {status.phase.name}{energy}{ask}")

        report = drive.run(show, stay=live is not None)
    outcome = {True: "success", False: "no success", None: "done"}[report.success]
    p50, p99, worst = report.period_error_ms
    return (
        f"{outcome} after {report.seconds:.1f} s; {report.plans} plans, {report.think_ms[0]:.0f} ms each, "
        f"{report.think_ms[1]:.0f} at most\n"
        f"controller: {report.phase}, {report.reason}; ticks late by {p50:.1f} ms, 99 % {p99:.1f}, worst {worst:.1f}"
    )

"""Does the control loop keep its period, its limits and its memory for long? Simulated arm, controller, no model.

    period error_k = |t_k − t_{k−1} − dt|  of the ticks' beginnings;   memory: anonymous pages, warm and at the end

python benchmarks/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latent_mpc.envs.scene import build_model
from latent_mpc.robots.channels import Phase, PlannerPort, Ports, Status
from latent_mpc.robots.controller import ControllerConfig
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.log import read_run
from latent_mpc.robots.mujoco_driver import MujocoDriver
from latent_mpc.robots.panda import panda
from latent_mpc.robots.parts import standard_parts
from latent_mpc.robots.robot import RobotSpec, TimedPlan
from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.supervisor import Supervisor
from latent_mpc.robots.world import SimulationConfig
from latent_mpc.types import WorkspaceSpec

PANDA_XML = Path(__file__).parents[1] / "envs/panda.xml"
WORKSPACE = WorkspaceSpec(low_m=(0.28, -0.30, 0.008), high_m=(0.72, 0.30, 0.32), speed_m_s=1.0)
PHYSICS_DT_S = 0.004
TURN_S = 3.0


def simulated_panda(folder: Path) -> SimulationConfig:
    """A Panda over an empty table, its scene saved in `folder`."""
    scene = folder / "scene.mjb"
    mujoco.mj_saveModel(build_model(0, PHYSICS_DT_S), str(scene), None)
    return SimulationConfig(scene, panda(PANDA_XML))


def supervise(simulation: Simulation, folder: Path | None, config: ControllerConfig | None = None) -> Supervisor:
    """A controller for a simulated arm, with the gate, kinematics and, unless told, bounds of `latent-mpc drive`."""
    make = partial(MujocoDriver, simulation.link)
    return Supervisor(make, partial(standard_parts, workspace=WORKSPACE), config, folder)


class Circler:
    """A planner that does not think: the tool goes round a circle on the motion clock, from where it was armed.

    Attributes:
        idle: it sends nothing, as if it hung. last: the plan that it sent last.
    """

    def __init__(
        self,
        ports: Ports,
        kinematics: Kinematics,
        hz: float = 10.0,
        valid_s: float = 0.5,
        size_m: tuple[float, float] = (0.05, 0.05),
    ) -> None:
        """
        Args:
            kinematics: of the arm; make it before arming, for loading a model keeps heartbeats waiting.
            hz: plans a second. valid_s: each may be followed so long. size_m: radii in x and y.
        """
        self.idle = False
        self.last: TimedPlan | None = None
        self._period_s, self._valid_s, self._size_m = 1 / hz, valid_s, size_m
        self._port = PlannerPort(ports)
        self._end, self._thread = threading.Event(), threading.Thread(target=self.run, daemon=True)
        status = self._status()
        self._sequence, self._begin_s = status.last_plan, status.motion_s
        self._pose = kinematics.pose(status.tick["sent_rad"])

    def plan(self) -> TimedPlan:
        """The circle from the motion clock on."""
        times_s = self._status().motion_s + np.arange(0.0, self._valid_s + 0.3, 0.05)
        angle = 2 * np.pi / TURN_S * (times_s - self._begin_s)
        position = np.tile(self._pose.position_m, (len(times_s), 1))  # (N, 3)
        position[:, 0] += self._size_m[0] * (np.cos(angle) - 1)
        position[:, 1] += self._size_m[1] * np.sin(angle)
        yaw, opening = np.full_like(times_s, self._pose.yaw_rad), 0.5 + 0.5 * np.cos(angle)
        self._sequence += 1
        return TimedPlan(self._sequence, 0, times_s, position, yaw, opening, time.monotonic() + self._valid_s)

    def send(self, plan: TimedPlan) -> None:
        self._port.send(plan)
        self.last = plan

    def run(self) -> None:
        """Send plans until `__exit__`."""
        while not self._end.wait(self._period_s):
            if not self.idle:
                self.send(self.plan())

    def _status(self) -> Status:
        status = self._port.status()
        assert status is not None
        return status

    def __enter__(self) -> Circler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Let go of the controller's slots."""
        self._port.close()


def circle(ports: Ports, spec: RobotSpec) -> None:
    """A planner's process: circles until it is ended."""
    with Circler(ports, Kinematics(spec)):
        while True:
            time.sleep(1)


@dataclass(frozen=True)
class Soak:
    """What was found.

    Attributes:
        realtime: the controller ran before ordinary processes (SCHED_FIFO).
        ticks: of the controller while it was soaked. missed: that should have been there too.
        error_ms: (n,) of the period. phases: ticks in each. violations: the arm's own count of bad setpoints.
        kib: anonymous memory of each process, after warming up and at the end.
    """

    realtime: bool
    ticks: int
    missed: int
    error_ms: NDArray[np.float64]
    phases: dict[str, int]
    violations: Violations
    kib: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        quantiles = ", ".join(f"{q:g} %: {np.percentile(self.error_ms, q):.2f}" for q in (50, 90, 99, 99.9, 100))
        memory = ", ".join(f"{name} {a} → {b} KiB ({b / a - 1:+.2%})" for name, (a, b) in self.kib.items())
        scheduling = "real-time priority" if self.realtime else "ordinary priority: this system allows no other"
        return (
            f"{self.ticks} ticks, {self.missed} missed; {scheduling}\n"
            f"period error, ms: {quantiles}\nphases: {self.phases}\n"
            f"violations: {asdict(self.violations)}\nmemory: {memory}"
        )


def soak(seconds: float, warm_s: float, show: Callable[[float], object] = lambda _: None) -> Soak:
    """Go round in circles for `seconds`, of which `warm_s` are not counted; `show` is told the seconds that passed."""
    with tempfile.TemporaryDirectory() as name, Simulation(simulated_panda(Path(name))) as simulation:
        log = Path(name) / "run"
        with supervise(simulation, log) as supervisor:
            kinematics = Kinematics(supervisor.spec)
            supervisor.arm(timeout_s=20.0)
            assert simulation.pid is not None
            pids = {"controller": supervisor.pid, "simulation": simulation.pid, "supervisor": os.getpid()}
            realtime = os.sched_getscheduler(supervisor.pid) & 0xFF == os.SCHED_FIFO
            with Circler(supervisor.ports, kinematics):
                began_s = shown_s = time.monotonic()
                before: dict[str, int] = {}
                while (now_s := time.monotonic()) < began_s + seconds:
                    if not before and now_s >= began_s + warm_s:
                        before = {process: anonymous_kib(pid) for process, pid in pids.items()}
                        warmed_s = now_s
                    time.sleep(0.05)
                    show(now_s - shown_s)
                    shown_s = now_s
                after = {process: anonymous_kib(pid) for process, pid in pids.items()}
                ended_s = time.monotonic()
        run, violations = read_run(log), simulation.truth().violations
    ticks = run.ticks[(run.ticks["now_s"] >= warmed_s) & (run.ticks["now_s"] < ended_s)]
    dt_s = 1 / supervisor.spec.control_hz
    return Soak(
        realtime,
        len(ticks),
        round((ticks["now_s"][-1] - ticks["now_s"][0]) / dt_s) + 1 - len(ticks),
        1e3 * np.abs(np.diff(ticks["now_s"]) - dt_s),
        dict(Counter(Phase(int(phase)).name for phase in ticks["phase"])),
        violations,
        {process: (before[process], after[process]) for process in pids},
    )


def anonymous_kib(pid: int) -> int:
    """Memory of a process that no file is behind, which is what leaks."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def main() -> None:
    parser = argparse.ArgumentParser(description="soak the control loop with a simulated arm")
    parser.add_argument("--minutes", type=float, default=1.0)
    seconds = 60 * parser.parse_args().minutes
    with tqdm(total=seconds, unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s [{remaining}]") as bar:
        found = soak(seconds, min(seconds / 10, 60.0), bar.update)
    print(found)


if __name__ == "__main__":
    main()

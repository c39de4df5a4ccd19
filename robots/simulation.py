"""The simulated robot as a process that somebody owns, with its faults and its ground truth.

simulation_loop.py is what runs in it, simulation_link.py how others speak to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from latent_mpc.robots.robot import Array, DriverError
from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.simulation_link import Link, Slots
from latent_mpc.robots.simulation_loop import Loop
from latent_mpc.robots.world import FRAME_FAULTS, Faults, SimulationConfig, World
from latent_mpc.types import InvalidInputError, LatentMPCError, UnknownNameError

START_TIMEOUT_S = 120.0  # a loaded machine takes long to import


@dataclass(frozen=True)
class Truth:
    """What only a simulation knows.

    Attributes:
        qpos, qvel: the whole scene, (nq,) and (nv,), at `sent_s` on the monotonic clock, `time_s` of physics.
        late_s: the most that physics was ever behind the clock.
        flash_s: capture time of the first bright frame since the flash was switched on; NaN when it is off.
        placing: how often coordinates were placed. silences: how often no setpoint came for `watchdog_s` while armed.
        violations: of the setpoints received so far.
    """

    qpos: Array
    qvel: Array
    time_s: float
    sent_s: float
    late_s: float
    flash_s: float
    placing: int
    silences: int
    violations: Violations


def _main(link: Link, owner: int, ready: Connection) -> None:
    """The process: load, say so or why not, and run until the owner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the owner decides
    try:
        slots, world = Slots(link), World(link.config)
        if link.config.camera:
            world.render()  # the first frame compiles shaders
        loop = Loop(world, slots, time.monotonic())
    except (LatentMPCError, OSError) as error:
        ready.send_bytes(str(error).encode())
        return
    ready.send_bytes(b"")
    while os.getppid() == owner:
        wake = loop.tick(time.monotonic())
        time.sleep(max(wake - time.monotonic(), 0))


class Simulation:
    """A simulated robot, owned: its process and its slots end with `close`, with the owner, or with a signal to it.

    Use it as a context manager; hand `link` to whoever attaches.
    """

    def __init__(self, config: SimulationConfig) -> None:
        """Start the process and wait for its first state.

        Raises:
            InvalidInputError, UnknownNameError: the scene does not fit; see World. DriverError: it did not start.
        """
        world = World(config)  # refuses what is wrong here and at once, and tells the sizes
        bare = Link(config, world.model.nq, world.model.nv)
        self._slots = Slots(bare)
        self.link = Link(config, bare.nq, bare.nv, self._slots.names)
        self._control = np.zeros((), self.link.dtypes["control"])
        self._control["blocked"], self._control["qpos"] = -1, np.nan
        context = multiprocessing.get_context("spawn")
        ready, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_main, args=(self.link, os.getpid(), theirs), daemon=True)
        try:
            self._process.start()
            theirs.close()
            problem = (
                ready.recv_bytes().decode()
                if ready.poll(START_TIMEOUT_S)
                else f"not ready after {START_TIMEOUT_S:.0f} s"
            )
            if problem:
                raise DriverError(f"simulated {config.spec.name}: {problem}")
        except EOFError as error:
            self.close()
            raise DriverError(f"simulated {config.spec.name} died while starting; see its error output") from error
        except BaseException:
            self.close()
            raise
        finally:
            ready.close()

    @property
    def pid(self) -> int | None:
        """Process id, for tests that kill it."""
        return self._process.pid

    def inject(self, faults: Faults) -> None:
        """Have these faults from the next step of physics on, and no others. Raises UnknownNameError."""
        joints = self.link.config.spec.joint_names
        if faults.blocked and faults.blocked not in joints:
            raise UnknownNameError("joint", faults.blocked, list(joints))
        for name in ("frozen", "nan", "protective_stop", "flash"):
            self._control[name] = getattr(faults, name)
        self._control["blocked"] = joints.index(faults.blocked) if faults.blocked else -1
        self._control["frame"] = FRAME_FAULTS.index(faults.frame)
        self._slots.control.write(self._control)

    def place(self, qpos: Array, timeout_s: float = 1.0) -> None:
        """Put every coordinate of `qpos` (nq,) that is not NaN there, at rest, and wait until it is so.

        Raises:
            InvalidInputError: wrong shape. DriverError: the simulation does not answer.
        """
        if np.shape(qpos) != (self.link.nq,):
            raise InvalidInputError(f"qpos must have shape ({self.link.nq},), got {np.shape(qpos)}")
        self._control["qpos"] = qpos
        self._control["placing"] += 1
        self._slots.control.write(self._control)
        deadline = time.monotonic() + timeout_s
        while self.truth().placing != self._control["placing"]:
            if time.monotonic() > deadline:
                raise DriverError(f"simulated {self.link.config.spec.name}: no answer within {timeout_s} s")
            time.sleep(0.002)

    def truth(self) -> Truth:
        """The newest state of everything. Raises DriverError when there is none."""
        if (read := self._slots.truth.read()) is None:
            raise DriverError(f"simulated {self.link.config.spec.name}: it has said nothing yet")
        r = read[0]
        violations = Violations(**{name: int(r[name]) for name in Violations.__dataclass_fields__})
        return Truth(
            qpos=r["qpos"].copy(),
            qvel=r["qvel"].copy(),
            time_s=float(r["time_s"]),
            sent_s=float(r["sent_s"]),
            late_s=float(r["late_s"]),
            flash_s=float(r["flash_s"]),
            placing=int(r["placing"]),
            silences=int(r["silences"]),
            violations=violations,
        )

    def close(self) -> None:
        """End the process, remove the slots; may be called twice."""
        if self._process.pid is not None:
            self._process.terminate()
            self._process.join(2.0)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._slots.close()

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

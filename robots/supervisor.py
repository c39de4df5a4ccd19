"""The parent's side of a controller: starts it, keeps it alive, and has a second path to take the torque off.

    planner hangs → its plans expire → HOLD, STOPPED         supervisor hangs or dies → no heartbeat → FAULT, torque off
    controller dies, or breaks its promise of a sign of life → killed; a fresh driver connects and disarms

The heartbeat is this process's, from a thread of its own: it says that somebody can still take the torque off. That a
planner is alive is said by its plans alone, so it may live in this process or, better, in another (`ports`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from latent_mpc.robots.channels import (
    COMMAND,
    PLAN,
    Phase,
    PlannerPort,
    Ports,
    Status,
    status_dtype,
    workspace_record,
)
from latent_mpc.robots.control_process import Job, run_controller
from latent_mpc.robots.controller import ControllerConfig
from latent_mpc.robots.log import append_event
from latent_mpc.robots.parts import Parts
from latent_mpc.robots.robot import Driver, DriverError, RobotSpec, TimedPlan
from latent_mpc.robots.slots import Slot
from latent_mpc.types import InvalidInputError, WorkspaceSpec

BEAT_S = 0.02
START_S = 60.0  # importing takes seconds on a busy machine
GRACE_S = 0.1  # past a promise; both may just have been suspended
END_S = 8.0  # for an orderly end, until it is killed


class Supervisor:
    """Runs a controller process while the context is entered; on leaving it, however, the torque is off.

    In the main thread SIGTERM then ends the context like an exception; SIGINT and SIGTERM are ignored while it leaves.
    """

    def __init__(
        self,
        make: Callable[[], Driver],
        make_parts: Callable[[RobotSpec], Parts],
        config: ControllerConfig | None = None,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            make: a driver, not connected; picklable, e.g. `functools.partial(make_driver, "so101", port=...)`. Called
                here once, for the second path, and once in the controller's process.
            make_parts: geometry and gate, e.g. `partial(standard_parts, workspace=...)`; picklable, called in the
                controller's process.
            folder: for the log of the run; None for none.
        """
        self._make, self._make_parts, self._config = make, make_parts, config or ControllerConfig()
        self._folder = folder
        self._spare = make()
        self.spec = self._spare.spec
        self._command = np.zeros((), COMMAND)
        self._lock = threading.Lock()  # one writer of the command slot
        self._over = threading.Event()
        self._dead = threading.Event()  # the controller has ended, and the torque was seen to
        self._epitaph: tuple[str, tuple[str, ...]] | None = None  # why it died; what still has torque
        self._slots: list[Slot] = []
        self._port: PlannerPort | None = None
        self._last: Status | None = None
        self._process: Any = None
        self._thread: threading.Thread | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Supervisor:
        """Start, and return when the device is connected.

        Raises:
            DriverError: it could not be; the message is the driver's. Nothing is left behind.
        """
        self._handle(signal.SIGTERM, _exit)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def hold(self) -> None:
        """Come to rest, and take no plan until `arm`. Returns at once."""
        self._order("hold")

    def stop(self) -> None:
        """Come to rest, and take nothing but `reset`. Returns at once."""
        self._order("stop")

    def reset(self, timeout_s: float = 5.0) -> None:
        """Leave STOPPED or FAULT. Raises DriverError if that is refused until `timeout_s`."""
        self._insist("reset", lambda phase: phase not in (Phase.STOPPED, Phase.FAULT), (), timeout_s)

    def arm(self, timeout_s: float = 10.0) -> None:
        """Stiffen the arm where it is; out of HOLD, be ready for plans again. Waits for what arming needs.

        Raises:
            DriverError: not armed within `timeout_s`, or STOPPED or FAULT; the message says what was missing.
        """
        done = (Phase.ARMED, Phase.RUNNING)
        self._insist("arm", lambda phase: phase in done, (Phase.STOPPED, Phase.FAULT), timeout_s)

    def tighten(self, workspace: WorkspaceSpec, timeout_s: float = 2.0) -> None:
        """Have the gate keep to a workspace inside the present one, at any time, also in motion; it never grows again.

        The planner is not told: what it plans outside is held back.

        Raises:
            InvalidInputError: it would allow more somewhere; what was in force stays so. DriverError: no answer.
        """
        record = workspace_record(workspace)
        with self._lock:
            self._command["workspace"] = record
            self._command["tighten"] += 1
            number = int(self._command["tighten"])
        self._order()
        deadline_s = time.monotonic() + timeout_s
        while (status := self.status()).tightened < number:
            if self._epitaph is not None or time.monotonic() > deadline_s:
                raise DriverError(f"cannot tighten the limits: {status.phase.name}, {status.reason}")
            time.sleep(BEAT_S)
        if status.answer:
            raise InvalidInputError(status.answer)

    def send(self, plan: TimedPlan) -> None:
        """Offer a plan; see `PlannerPort.send`."""
        self._opened().send(plan)

    def status(self) -> Status:
        """The controller's status; FAULT, with what became of it, when it is dead.

        Raises:
            DriverError: there is none yet.
        """
        status = self._opened().status() or self._last
        if status is None:
            raise DriverError(f"{self.spec.name}: the controller has no status yet")
        self._last = status
        if self._epitaph is not None:
            why, failed = self._epitaph
            status = replace(status, phase=Phase.FAULT, reason=why, torque=bool(failed))
        return status

    @property
    def alive(self) -> bool:
        """Whether there is a controller that can still be reset."""
        return self._thread is not None and self._epitaph is None

    @property
    def ports(self) -> Ports:
        """For a `PlannerPort` in another process."""
        return Ports(self._slots[0].name, self._slots[2].name, self.spec.num_joints)

    @property
    def pid(self) -> int:
        """Of the controller's process."""
        return int(self._process.pid)

    def close(self) -> None:
        """End the controller; the torque is off then, or the second path has tried. May be called twice."""
        for interruption in (signal.SIGINT, signal.SIGTERM):
            self._handle(interruption, signal.SIG_IGN)
        try:
            if self._thread is not None:
                if self._process.is_alive():
                    self._process.terminate()
                if not self._dead.wait(END_S):
                    self._process.kill()
                    self._dead.wait(END_S)
                self._over.set()
                self._thread.join(END_S)
                self._process.join(1.0)
                self._thread = None
            with self._lock:
                if self._port is not None:
                    self._port.close()
                    self._port = None
                for slot in self._slots:
                    slot.close()
                self._slots = []
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers = {}

    def _start(self) -> None:
        for dtype in (PLAN, COMMAND, status_dtype(self.spec.num_joints)):
            self._slots.append(Slot(dtype))
        self._port = PlannerPort(self.ports)
        plan, command, status = (slot.name for slot in self._slots)
        job = Job(self._make, self._make_parts, self._config, plan, command, status, self._folder, os.getpid())
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=run_controller, args=(job,), name="controller", daemon=True)
        self._order()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits that: Ctrl-C is ours
        try:
            self._process.start()
            self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        deadline_s = time.monotonic() + START_S
        while (said := self._opened().status()) is None or said.phase is Phase.DISCONNECTED:
            if self._dead.wait(BEAT_S):
                raise DriverError(self.status().reason)
            if time.monotonic() > deadline_s:
                raise DriverError(f"{self.spec.name}: the controller did not start within {START_S} s")

    def _watch(self) -> None:
        """The thread: beats, and watches; ends after the controller did."""
        alive_until_s = overdue_s = np.inf
        while not wait([self._process.sentinel], BEAT_S):
            self._order()
            now_s = time.monotonic()
            if (status := self._opened().status()) is not None:  # None: it has said nothing yet, or hangs in saying it
                alive_until_s = status.alive_until_s
            if now_s <= alive_until_s:
                overdue_s = np.inf
            elif overdue_s == np.inf:
                overdue_s = now_s
            elif now_s > overdue_s + GRACE_S:
                self._process.kill()
                overdue_s = np.inf
        self._process.join()
        status = self._opened().status()
        why = f"{self.spec.name}: the controller ended, exit code {self._process.exitcode}"
        failed: tuple[str, ...] = ()
        if self._process.exitcode < 0 or (status is not None and status.torque):
            failed = self._disarm()
            why += "; second path: " + (f"still with torque: {', '.join(failed)}" if failed else "torque off")
        elif status is not None and status.reason:
            why += f"; {status.reason}"
        self._epitaph = why, failed
        self._dead.set()
        if self._folder is not None:
            append_event(self._folder, time.monotonic(), "supervisor", why)

    def _disarm(self) -> tuple[str, ...]:
        """The second path."""
        failed: tuple[str, ...] = ()
        try:
            self._spare.connect()
        except Exception as error:  # a driver may be able to disarm all the same
            failed = (f"connect: {error}",)
        failed += self._spare.disarm()
        self._spare.close()
        return failed

    def _opened(self) -> PlannerPort:
        if self._port is None:
            raise DriverError(f"{self.spec.name}: no controller is running; use `with Supervisor(...) as supervisor:`")
        return self._port

    def _order(self, name: str | None = None) -> None:
        """Write the command slot: a heartbeat, and a command if there is one."""
        with self._lock:
            self._opened()
            if name is not None:
                self._command[name] += 1
            self._command["beat_s"] = time.monotonic()
            self._slots[1].write(self._command)

    def _insist(self, name: str, done: Callable[[Phase], bool], hopeless: tuple[Phase, ...], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not done((status := self.status()).phase):
            if status.phase in hopeless or self._epitaph is not None:
                raise DriverError(f"cannot {name}: {status.phase.name}, {status.reason}")
            if time.monotonic() > deadline_s:
                raise DriverError(f"cannot {name} within {timeout_s} s: {status.refusal or status.reason}")
            self._order(name)
            time.sleep(5 * BEAT_S)

    def _handle(self, number: int, handler: Any) -> None:
        """Handle a signal, in the main thread alone; a handler that the program has for SIGTERM is left."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(number)
        if handler is _exit and before is not signal.SIG_DFL:
            return
        signal.signal(number, handler)
        self._handlers.setdefault(number, before)


def _exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)

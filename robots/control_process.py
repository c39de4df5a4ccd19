"""The controller in real time: a process that ticks at absolute deadlines, and always ends with the torque off.

    deadline ← deadline + dt;   sleep until deadline - spin, then spin;   commands, plan, tick, status

A tick that comes later than the next deadline skips what it missed: the motion is then slower, never faster. It ends
by SIGTERM, when its parent is gone, and by any exception; on each way it tries stop, disarm and close.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.channels import COMMAND, COMMANDS, PLAN, plan_from, status_dtype, text_bytes, workspace_from
from latent_mpc.robots.controller import Controller, ControllerConfig, ignore
from latent_mpc.robots.log import RunLog
from latent_mpc.robots.parts import Parts
from latent_mpc.robots.robot import Driver, RobotSpec
from latent_mpc.robots.slots import Slot
from latent_mpc.types import InvalidInputError

SPIN_S = 0.0005  # before a deadline; sleeping alone comes late
PROMISE_S = 0.3  # of a tick: the next sign of life
END_S = 10.0  # that an interpreter may take to end on a busy machine, with the torque off already
PRIORITY = 20
LATENESS = 1000  # ticks


@dataclass(frozen=True)
class Job:
    """What the process needs; picklable.

    Attributes:
        make: a driver, not connected.
        make_parts: its geometry and gate, made in the process.
        plan, command, status: names of the slots.
        folder: of the log, or None for none.
        parent: its process id.
    """

    make: Callable[[], Driver]
    make_parts: Callable[[RobotSpec], Parts]
    config: ControllerConfig
    plan: str
    command: str
    status: str
    folder: Path | None
    parent: int


class Reporter:
    """Writes the status slot."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._record = np.zeros((), slot.dtype)
        self._late_s = np.zeros(LATENESS)
        self._count = 0

    def promise(self, seconds: float) -> None:
        """The next sign of life comes within `seconds`."""
        self._record["alive_until_s"] = time.monotonic() + seconds
        self._slot.write(self._record)

    def tell(self, controller: Controller, tick: NDArray[np.void], overruns: int) -> None:
        record = self._record
        self._late_s[self._count % LATENESS] = tick["late_s"]
        self._count += 1
        if self._count % 100 == 0:
            late = self._late_s[: self._count]
            record["period_error_s"] = *np.percentile(late, (50, 99)), late.max()
        record["tick"], record["overruns"] = tick, overruns
        record["history"][:-1] = record["history"][1:]
        record["history"][-1] = tick["now_s"], tick["motion_s"]
        self.phase(controller)
        self.promise(PROMISE_S)

    def answer(self, order: int, text: str) -> None:
        """The order to tighten of that number was dealt with; `text` is why it was refused, if it was."""
        self._record["tightened"], self._record["answer"] = order, text_bytes(text)

    def fail(self, error: Exception) -> None:
        self._record["reason"] = text_bytes(str(error))
        self.promise(END_S)

    def phase(self, controller: Controller) -> None:
        record = self._record
        record["tick"]["phase"], record["tick"]["torque"] = controller.phase, controller.torque
        record["last_plan"] = controller.splice.last_sequence
        record["reason"], record["refusal"] = text_bytes(controller.reason), text_bytes(controller.refusal)


class Inbox:
    """Takes commands and plans from their slots to the controller.

    Attributes:
        tightened, answer: number of the last order to tighten the limits, and why it was refused, if it was.
    """

    def __init__(self, plan: Slot, command: Slot) -> None:
        self._plan, self._command = plan, command
        self._plans = 0
        self._obeyed = dict.fromkeys(COMMANDS, 0)
        self.tightened, self.answer = 0, ""

    def deliver(self, controller: Controller, now_s: float) -> None:
        if (read := self._command.read()) is not None:
            record = read[0]
            controller.beat(min(float(record["beat_s"]), now_s))
            if record["tighten"] > self.tightened:
                self.tightened = int(record["tighten"])
                try:
                    self.answer = controller.tighten(workspace_from(record["workspace"]), now_s)
                except InvalidInputError as error:
                    self.answer = controller.refuse(now_s, str(error))
            for name in COMMANDS:
                if record[name] != self._obeyed[name]:  # not >: after foreign bytes in the slot, a STOP still counts
                    self._obeyed[name] = int(record[name])
                    getattr(controller, name)(now_s)
        if (read := self._plan.read()) is not None and read[1] != self._plans:
            self._plans = read[1]
            try:
                plan = plan_from(read[0])
            except InvalidInputError as error:
                controller.refuse(now_s, str(error))
            else:
                controller.offer(plan, now_s)


def run_controller(job: Job) -> None:
    """Body of the process. Raises what went wrong, after the torque is off."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process in order
    driver = job.make()
    log = None
    if job.folder is not None:
        run = {"arm": driver.spec.name, "control_hz": driver.spec.control_hz, "config": asdict(job.config)}
        log = RunLog(job.folder, driver.spec.joint_names, run)
    slots = [Slot(PLAN, job.plan), Slot(COMMAND, job.command), Slot(status_dtype(driver.spec.num_joints), job.status)]
    inbox, reporter = Inbox(*slots[:2]), Reporter(slots[2])
    try:
        _control(job, driver, inbox, reporter, log, lambda: "SIGTERM" if ended else _orphaned(job.parent))
    except Exception as error:
        reporter.fail(error)
        if log is not None:
            log.event(time.monotonic(), "error", f"{type(error).__name__}: {error}")
        raise
    finally:
        reporter.promise(END_S)
        if log is not None:
            log.close()
        for slot in slots:
            slot.close()


def _control(
    job: Job, driver: Driver, inbox: Inbox, reporter: Reporter, log: RunLog | None, over: Callable[[], str]
) -> None:
    def busy(seconds: float) -> None:
        reporter.phase(controller)
        reporter.promise(PROMISE_S + seconds)

    controller = Controller(
        driver,
        job.make_parts(driver.spec),
        job.config,
        on_event=log.event if log is not None else ignore,
        on_busy=busy,
    )
    try:
        controller.connect(time.monotonic())
        gc.collect()
        gc.freeze()
        _hurry()
        _loop(controller, inbox, reporter, log, over)
    finally:
        controller.close()
        busy(END_S)
        gc.unfreeze()


def _loop(
    controller: Controller, inbox: Inbox, reporter: Reporter, log: RunLog | None, over: Callable[[], str]
) -> None:
    """Tick until `over` says why to end and the arm is at rest, or half a second after it did."""
    dt_s = controller.dt_s
    deadline_s, end_s, overruns = time.monotonic() + dt_s, np.inf, 0
    while not (end_s < np.inf and (controller.quiet or deadline_s > end_s)):
        _wait(deadline_s)
        now_s = time.monotonic()
        if end_s == np.inf and (why := over()):
            controller.stop(now_s, why)
            end_s = now_s + controller.config.brake_timeout_s
        if end_s == np.inf:
            inbox.deliver(controller, now_s)
            reporter.answer(inbox.tightened, inbox.answer)
            now_s = time.monotonic()  # a tighter gate takes longer to make than a state may be newer than its tick
        else:
            controller.beat(now_s)
        tick = controller.tick(now_s)
        tick["late_s"] = now_s - deadline_s
        if log is not None:
            log.tick(tick)
        reporter.tell(controller, tick, overruns)
        deadline_s += dt_s
        missed = int((time.monotonic() - deadline_s) / dt_s)
        if missed > 0:
            overruns += missed
            deadline_s += missed * dt_s


def _wait(deadline_s: float) -> None:
    if (pause_s := deadline_s - SPIN_S - time.monotonic()) > 0:
        time.sleep(pause_s)
    while time.monotonic() < deadline_s:
        pass


def _orphaned(parent: int) -> str:
    return "" if os.getppid() == parent else "the parent is gone"


def _hurry() -> None:
    """Run before ordinary processes, where the system lets us; what this process starts does not inherit it."""
    scheduler: Any = os
    try:
        policy = scheduler.SCHED_FIFO | scheduler.SCHED_RESET_ON_FORK
        scheduler.sched_setscheduler(0, policy, scheduler.sched_param(PRIORITY))
    except (AttributeError, OSError):
        return

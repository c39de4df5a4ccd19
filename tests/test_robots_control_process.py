"""The real-time loop in this process: commands in one tick, deadlines, the end. Processes: test_robots_supervisor."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots import control_process
from latent_mpc.robots.channels import (
    COMMAND,
    PLAN,
    Phase,
    PlannerPort,
    Ports,
    plan_record,
    status_dtype,
    status_from,
)
from latent_mpc.robots.control_process import Inbox, Reporter
from latent_mpc.robots.controller import Controller
from latent_mpc.robots.robot import DriverError, RobotState, TimedPlan
from latent_mpc.robots.slots import HEADER, Slot

sys.path.insert(0, str(Path(__file__).parent))
import hostile
from fake_driver import SPEC, FakeDriver, gantry

DT = 1 / SPEC.control_hz


class Wired:
    """A controller with its slots, on a clock that the test turns or on the real one."""

    def __init__(self) -> None:
        self.now_s: float | None = 100.0
        self.driver = FakeDriver(lambda: self.now_s if self.now_s is not None else time.monotonic())
        self.controller = Controller(self.driver, gantry())
        self.plan, self.command, self.status = Slot(PLAN), Slot(COMMAND), Slot(status_dtype(3))
        self.inbox, self.reporter = Inbox(self.plan, self.command), Reporter(self.status)
        self.record = np.zeros((), COMMAND)

    def run(self, seconds: float) -> None:
        assert self.now_s is not None
        for _ in range(round(seconds / DT)):
            self.now_s += DT
            self.order()
            self.inbox.deliver(self.controller, self.now_s)
            self.controller.tick(self.now_s)

    def order(self, *names: str, beat_s: float | None = None) -> None:
        for name in names:
            self.record[name] += 1
        self.record["beat_s"] = self.now_s if beat_s is None else beat_s
        self.command.write(self.record)

    def armed(self) -> Wired:
        assert self.now_s is not None
        self.controller.connect(self.now_s)
        self.run(1.1)
        self.order("arm")
        self.run(0.1)
        assert self.controller.phase is Phase.ARMED
        return self


@pytest.fixture
def wired() -> Iterator[Wired]:
    made = Wired()
    yield made
    for slot in (made.plan, made.command, made.status):
        slot.close()


def test_of_commands_in_one_tick_the_safest_wins_and_each_is_obeyed_once(wired: Wired) -> None:
    wired.armed()
    wired.order("stop")
    wired.order("arm", "hold")  # the record of the stop is gone, its count is not
    wired.run(0.1)
    assert wired.controller.phase is Phase.STOPPED
    wired.order("reset")
    wired.run(0.5)
    assert wired.controller.phase is Phase.CALIBRATED, "the earlier stop and arm do not come again"


def test_a_heartbeat_of_the_future_is_worth_no_more_than_one_of_now(wired: Wired) -> None:
    wired.armed()
    assert wired.now_s is not None
    wired.order(beat_s=1e12)
    wired.inbox.deliver(wired.controller, wired.now_s)
    for _ in range(30):
        wired.now_s += DT
        wired.controller.tick(wired.now_s)
    assert wired.controller.phase is Phase.FAULT


FOREIGN = {
    "a pickle": b"",
    "garbage": hostile.GARBAGE,
    "zeros": bytes(1),
    "ones": b"\xff",
    "7f": b"\x7f",
    "80": b"\x80",
}


@pytest.mark.parametrize("whole", [False, True], ids=["the record", "the counter too"])
@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_bytes_in_a_slot_move_nothing_and_what_follows_is_obeyed(
    wired: Wired, tmp_path: Path, what: str, whole: bool
) -> None:
    wired.armed()
    with hostile.unharmed(tmp_path) as pickled:
        for slot in (wired.plan, wired.command):
            wired.run(0.02)
            overwrite(slot, FOREIGN[what] or pickled, whole)
            wired.inbox.deliver(wired.controller, wired.now_s or 0.0)
            wired.controller.tick(wired.now_s or 0.0)
            assert wired.controller.phase is not Phase.RUNNING and np.isfinite(wired.controller.vitals._beat_s)
            assert wired.controller.vitals._beat_s <= (wired.now_s or 0.0)
    assert np.ptp([sent.q_rad for _, sent in wired.driver.written], axis=0).max() < 1e-9
    wired.run(0.1)
    wired.order("reset")
    wired.run(1.2)
    wired.order("arm")
    wired.run(0.1)
    assert wired.controller.phase is Phase.ARMED
    wired.order("stop")
    wired.run(0.02)
    assert wired.controller.phase is Phase.STOPPED, "a STOP is obeyed, whatever was counted meanwhile"


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_bytes_for_a_status_are_none(wired: Wired, tmp_path: Path, what: str) -> None:
    wired.armed()
    wired.reporter.tell(wired.controller, wired.controller.tick(101.5), 0)
    port = PlannerPort(Ports(wired.plan.name, wired.status.name, 3))
    try:
        assert port.status() is not None
        with hostile.unharmed(tmp_path) as pickled:
            overwrite(wired.status, FOREIGN[what] or pickled, whole=True)
            said = port.status()
        assert said is None or said.phase in Phase
        wired.reporter.tell(wired.controller, wired.controller.tick(101.6), 0)
        said = port.status()
        assert said is not None and said.phase is wired.controller.phase
    finally:
        port.close()


def overwrite(slot: Slot, data: bytes, whole: bool) -> None:
    """Fill a slot's record with `data` again and again; `whole`: its counter as well, else it is a new record."""
    memory = slot._memory.buf
    assert memory is not None
    begin = 0 if whole else HEADER
    size = len(memory) - begin
    memory[begin:] = (data * (size // len(data) + 1))[:size]
    if not whole:
        slot._header[0] += 2


def test_a_record_that_is_no_plan_is_refused_and_the_next_one_followed(wired: Wired) -> None:
    wired.armed()
    assert wired.now_s is not None
    made = TimedPlan(0, 0, np.array([0.0, 1.0]), np.zeros((2, 3)), np.zeros(2), np.zeros(2), wired.now_s + 1)
    corrupt = plan_record(made)
    corrupt["position_m"][1, 2] = np.nan
    wired.plan.write(corrupt)
    wired.run(0.05)
    assert wired.controller.phase is Phase.ARMED and "NaN" in wired.controller.refusal
    wired.plan.write(plan_record(made))
    wired.run(0.05)
    assert wired.controller.phase is Phase.RUNNING and wired.controller.refusal == ""


def test_deadlines_are_absolute_and_missed_ones_are_skipped_not_caught_up(wired: Wired) -> None:
    wired.now_s = None
    wired.controller.connect(time.monotonic())
    began, late, read = [], [], wired.driver.read

    def slow() -> RobotState:
        began.append(time.monotonic())
        if len(began) == 20:
            time.sleep(3.5 * DT)
        return read()

    wired.driver.read = slow  # type: ignore[method-assign]
    tell = wired.reporter.tell

    def told(controller: Controller, tick: np.void, overruns: int) -> None:
        late.append((float(tick["now_s"] - tick["late_s"]), float(tick["late_s"]), overruns))
        tell(controller, tick, overruns)

    wired.reporter.tell = told  # type: ignore[method-assign]
    wired.order(beat_s=time.monotonic())
    control_process._loop(
        wired.controller, wired.inbox, wired.reporter, None, lambda: "enough" if len(began) >= 60 else ""
    )
    deadlines = np.array([deadline for deadline, _, _ in late])
    periods = np.diff(deadlines) / DT
    np.testing.assert_allclose(periods, np.round(periods), atol=1e-6)  # a grid, whatever the noise
    assert periods.min() > 0.5 and periods[19] > 2.5
    assert all(lateness >= 0 for _, lateness, _ in late)
    assert late[-1][2] == round(float((periods - 1).sum()))
    read_back = wired.status.read()
    assert read_back is not None
    seen = status_from(read_back[0])
    assert seen.phase is Phase.STOPPED and seen.reason == "enough" and len(seen.history) == len(late)
    assert seen.alive_until_s > time.monotonic() - 1


def test_the_end_comes_to_rest_first_and_does_not_wait_for_ever(wired: Wired) -> None:
    wired.armed()
    wired.controller._retiming.start(np.zeros(3))
    for _ in range(10):
        wired.controller._retiming.step(np.ones(3))
    wired.controller.setpoint = wired.controller._wanted = type(wired.controller.setpoint)(
        wired.controller._retiming.motion.q_rad, 0.5
    )
    wired.now_s = None
    count = len(wired.driver.written)
    control_process._loop(wired.controller, wired.inbox, wired.reporter, None, lambda: "SIGTERM")
    speeds = np.diff([setpoint.q_rad[0] for _, setpoint in wired.driver.written[count:]]) / DT
    assert len(speeds) > 5 and speeds[0] > 0.3 and abs(speeds[-1]) < 0.1
    assert wired.driver.calls[-1] == "stop"
    wired.controller.close()
    assert wired.driver.calls[-3:] == ["stop", "disarm", "close"] or wired.driver.calls[-2:] == ["disarm", "close"]


def test_an_orphan_knows_it() -> None:
    assert control_process._orphaned(os.getppid()) == ""
    assert "gone" in control_process._orphaned(os.getpid())


def test_a_device_that_is_missing_raises_after_it_was_let_go(wired: Wired) -> None:
    wired.driver.missing = True
    job = control_process.Job(
        lambda: wired.driver, gantry, wired.controller.config, wired.plan.name, wired.command.name,
        wired.status.name, None, os.getppid(),
    )  # fmt: skip
    with pytest.raises(DriverError, match="no such device"):
        control_process._control(job, wired.driver, wired.inbox, wired.reporter, None, lambda: "")
    assert wired.driver.calls == ["connect", "disarm", "close"]

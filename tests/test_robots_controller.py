"""The state machine on a clock that the test turns: each transition with its bound, and what holds whatever happens."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_mpc.robots.channels import VERDICTS, Phase
from latent_mpc.robots.controller import Controller, ControllerConfig
from latent_mpc.robots.parts import Parts
from latent_mpc.robots.retiming import Retiming
from latent_mpc.robots.robot import DriverError, Setpoint, TimedPlan
from latent_mpc.types import InvalidInputError, WorkspaceSpec

sys.path.insert(0, str(Path(__file__).parent))
from fake_driver import SPEC, FakeDriver, gantry

DT = 1 / SPEC.control_hz
CONFIG = ControllerConfig(latency_s=0.02)


class Bench:
    """A controller, its fake arm and their clock."""

    def __init__(self, config: ControllerConfig = CONFIG) -> None:
        self.now_s = 100.0
        self.rejection = ""
        self.driver = FakeDriver(lambda: self.now_s)
        parts = gantry(rejects=lambda _: self.rejection)
        self.events: list[str] = []
        self.controller = Controller(
            self.driver, parts, config, on_event=lambda now_s, kind, text: self.events.append(f"{kind} {text}")
        )
        self.beating = True
        self.records: list[np.void] = []
        self.sequence = 0

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / DT)):
            self.now_s += DT
            if self.beating:
                self.controller.beat(self.now_s)
            self.records.append(self.controller.tick(self.now_s))

    def until(self, phase: Phase, at_most_s: float) -> float:
        """Seconds until the phase."""
        for k in range(round(at_most_s / DT) + 1):
            if self.controller.phase is phase:
                return k * DT
            self.run(DT)
        raise AssertionError(f"{self.controller.phase.name} after {at_most_s} s: {self.controller.reason}")

    def armed(self) -> Bench:
        self.controller.connect(self.now_s)
        self.run(CONFIG.arm_after_s + 0.05)
        assert self.controller.arm(self.now_s) == ""
        self.run(0.1)
        return self

    def plan(self, x_m: float = 0.05, span_s: float = 0.5, valid_s: float = 1.0, **changes: object) -> TimedPlan:
        """To x_m from where the tool is told to be."""
        self.sequence += 1
        start = self.controller.setpoint.q_rad
        position_m = np.stack([start, [x_m, start[1], start[2]]])
        times = self.controller.splice.motion_s + np.array([0.0, span_s])
        made = TimedPlan(self.sequence, 7, times, position_m, np.zeros(2), np.array([0.5, 1.0]), self.now_s + valid_s)
        return replace(made, **changes)

    def running(self) -> Bench:
        self.armed()
        assert self.controller.offer(self.plan(), self.now_s) == ""
        self.run(0.1)
        assert self.controller.phase is Phase.RUNNING and self.speed > 0.05
        return self

    @property
    def speed(self) -> float:
        return float(np.abs(self.controller._retiming.motion.qd_rad_s).max())

    def assert_still(self, seconds: float = 0.5) -> None:
        """After the longest stop nothing that is sent changes, and the motion clock stands."""
        self.run(0.3)
        clock, sent = self.controller.splice.motion_s, self.controller._sent
        count = len(self.driver.written)
        self.run(seconds)
        assert self.controller.splice.motion_s == clock
        for _, setpoint in self.driver.written[count:]:
            assert np.array_equal(setpoint.q_rad, sent.q_rad) and setpoint.gripper == sent.gripper


def test_the_way_from_nothing_to_running() -> None:
    bench = Bench()
    controller = bench.controller
    assert controller.phase is Phase.DISCONNECTED
    bench.run(0.05)
    assert controller.phase is Phase.DISCONNECTED and bench.driver.calls == []
    controller.connect(bench.now_s)
    assert controller.phase is Phase.CONNECTED
    bench.run(DT)
    assert controller.phase is Phase.CALIBRATED and not bench.driver.torque
    bench.run(CONFIG.arm_after_s - 0.05)
    assert "fresh for 1.0 s" in controller.arm(bench.now_s) and not bench.driver.torque
    bench.run(0.1)
    bench.driver.q_rad = np.array([0.3, -0.2, 0.1])
    bench.run(DT)
    assert controller.arm(bench.now_s) == "" and bench.driver.torque
    bench.run(0.2)
    assert controller.phase is Phase.ARMED
    for _, setpoint in bench.driver.written:
        assert setpoint.q_rad.tolist() == [0.3, -0.2, 0.1] and setpoint.gripper == 0.5
    assert controller.offer(bench.plan(x_m=0.35), bench.now_s) == ""
    bench.run(0.9)
    assert controller.phase is Phase.RUNNING
    np.testing.assert_allclose(bench.driver.q_rad, [0.35, -0.2, 0.1], atol=1e-4)
    assert bench.driver.gripper == pytest.approx(1.0, abs=1e-4)
    phases = [line.split()[1] for line in bench.events if line.startswith("phase")]
    assert phases == ["CONNECTED:", "CALIBRATED:", "ARMED:", "RUNNING:"]


def test_the_clock_advances_a_tick_a_tick_on_a_plan_only_and_is_recorded_with_each_setpoint() -> None:
    bench = Bench().armed()
    assert bench.controller.splice.motion_s == 0
    bench.controller.offer(bench.plan(), bench.now_s)
    bench.run(0.5)
    assert bench.controller.splice.motion_s == pytest.approx(0.5)
    clocks = [setpoint.motion_s for _, setpoint in bench.driver.written[-50:]]
    np.testing.assert_allclose(clocks, np.arange(50) * DT, atol=1e-9)
    np.testing.assert_allclose([r["motion_s"] for r in bench.records[-50:]], clocks, atol=1e-12)
    bench.controller.hold(bench.now_s)
    bench.run(0.5)
    assert bench.controller.splice.motion_s == pytest.approx(0.5)


def test_plans_are_sampled_the_latency_ahead() -> None:
    bench = Bench(replace(CONFIG, latency_s=0.05)).armed()
    bench.controller.offer(bench.plan(x_m=0.05, span_s=0.5), bench.now_s)
    bench.run(0.3)
    wanted = np.array([r["wanted_rad"][0] for r in bench.records[-30:]])
    np.testing.assert_allclose(wanted, 0.1 * (np.arange(30) * DT + 0.05), atol=1e-9)


def test_a_stale_state_holds_within_its_bound_and_stops_after_a_second() -> None:
    bench = Bench().running()
    bench.driver.frozen = True
    assert bench.until(Phase.HOLD, 1) <= CONFIG.state_timeout_s + 2 * DT
    assert "reading is 0.0" in bench.controller.reason
    assert "reading" in bench.controller.offer(bench.plan(), bench.now_s)
    assert bench.until(Phase.STOPPED, 2) == pytest.approx(CONFIG.stop_after_s, abs=2 * DT)
    bench.assert_still()
    assert bench.driver.calls.count("stop") == 1


@pytest.mark.parametrize("script", ["silent", "nan"])
def test_an_answer_that_fails_is_no_answer(script: str) -> None:
    bench = Bench().running()
    setattr(bench.driver, script, True)
    bench.run(0.03)
    assert bench.controller.phase is Phase.RUNNING
    assert bench.until(Phase.HOLD, 1) <= CONFIG.state_timeout_s
    assert sum(line.startswith("device") for line in bench.events) == 1  # said once, not at every tick
    setattr(bench.driver, script, False)
    bench.run(0.3)
    assert bench.controller.phase is Phase.HOLD
    assert bench.controller.offer(bench.plan(), bench.now_s) == ""
    bench.run(0.1)
    assert bench.controller.phase is Phase.RUNNING and bench.speed > 0


def test_an_old_reading_that_comes_again_is_not_fresh() -> None:
    bench = Bench().running()
    old = bench.driver._state
    bench.driver.read = lambda: replace(old, receipt_time_s=bench.now_s, sequence=99)  # type: ignore[method-assign]
    assert bench.until(Phase.HOLD, 1) <= CONFIG.state_timeout_s + 2 * DT


def test_a_plan_that_expires_ends_in_hold_and_a_second_later_stopped() -> None:
    bench = Bench().running()
    assert bench.until(Phase.HOLD, 2) == pytest.approx(0.9, abs=2 * DT)  # valid for 1 s, 0.1 s ran
    assert "expired" in bench.controller.reason
    assert bench.until(Phase.STOPPED, 2) == pytest.approx(CONFIG.stop_after_s, abs=2 * DT)
    assert "plan" in bench.controller.offer(bench.plan(), bench.now_s)
    bench.assert_still()
    assert bench.driver.torque


def test_in_motion_an_expiry_brakes_within_the_limits() -> None:
    bench = Bench().armed()
    bench.controller.offer(bench.plan(x_m=0.5, span_s=0.5, valid_s=0.3), bench.now_s)
    bench.run(0.28)
    assert bench.speed > 0.5 and bench.controller.phase is Phase.RUNNING
    bench.until(Phase.HOLD, 0.05)
    assert bench.speed > 0.3
    bench.assert_still()
    assert_within_limits(bench)


def test_no_heartbeat_is_a_fault_that_brakes_and_takes_the_torque_off() -> None:
    bench = Bench().running()
    bench.beating = False
    assert bench.until(Phase.FAULT, 1) == pytest.approx(CONFIG.heartbeat_timeout_s, abs=2 * DT)
    bench.run(CONFIG.brake_timeout_s)
    assert not bench.driver.torque and not bench.controller.torque
    assert bench.driver.calls[-1] == "disarm"
    bench.assert_still()
    assert_within_limits(bench)
    assert "heartbeat" in bench.controller.reason


@pytest.mark.parametrize("fault", ["servo 3 does not answer", "protective stop"])
def test_a_fault_of_the_device_takes_the_torque_off_at_once_and_latches(fault: str) -> None:
    bench = Bench().running()
    bench.driver.fault = fault
    bench.run(DT)
    assert bench.controller.phase is Phase.FAULT and not bench.driver.torque and bench.controller.reason == fault
    bench.driver.fault = ""
    bench.run(1.0)
    assert bench.controller.phase is Phase.FAULT
    assert "FAULT" in bench.controller.arm(bench.now_s)
    assert "FAULT" in bench.controller.offer(bench.plan(), bench.now_s)
    assert bench.controller.reset(bench.now_s) == ""
    bench.run(0.1)
    assert bench.controller.phase is Phase.CALIBRATED and not bench.driver.torque
    assert bench.controller.arm(bench.now_s) == "", "readings and heartbeats never ceased"
    bench.run(0.1)
    assert bench.controller.phase is Phase.ARMED


def test_a_write_that_fails_is_a_fault() -> None:
    bench = Bench().running()
    bench.driver.deaf = True
    bench.run(DT)
    assert bench.controller.phase is Phase.FAULT and "write" in bench.controller.reason
    assert bench.driver.calls[-1] == "disarm"


def test_torque_that_does_not_go_off_is_named_and_tried_again() -> None:
    bench = Bench().running()
    bench.driver.stubborn = ("joint y: no answer",)
    bench.driver.fault = "overload"
    bench.run(DT)
    assert bench.controller.torque and bench.controller.reason == "overload; still with torque: joint y: no answer"
    bench.driver.fault = ""
    bench.run(0.1)
    assert "joint y" in bench.controller.reset(bench.now_s) and bench.controller.phase is Phase.FAULT
    bench.driver.stubborn = ()
    bench.run(CONFIG.disarm_again_s + 2 * DT)
    assert not bench.controller.torque and bench.driver.calls.count("disarm") == 3
    assert bench.controller.reset(bench.now_s) == ""


def test_hold_by_command_lasts_and_takes_plans_only_after_arm() -> None:
    bench = Bench().running()
    bench.controller.hold(bench.now_s)
    assert "moving" in bench.controller.arm(bench.now_s)
    bench.assert_still(3.0)
    assert bench.controller.phase is Phase.HOLD
    assert "held by command" in bench.controller.offer(bench.plan(), bench.now_s)
    assert bench.controller.arm(bench.now_s) == ""
    assert bench.driver.calls.count("arm") == 1  # it is stiff still
    assert bench.controller.offer(bench.plan(), bench.now_s) == ""
    bench.run(0.1)
    assert bench.controller.phase is Phase.RUNNING


def test_stop_by_command_latches_until_reset() -> None:
    bench = Bench().running()
    bench.controller.stop(bench.now_s)
    assert "coming to rest" in bench.controller.reset(bench.now_s)
    bench.assert_still()
    assert bench.driver.calls.count("stop") == 1 and bench.driver.torque
    assert "STOPPED" in bench.controller.arm(bench.now_s)
    assert bench.controller.reset(bench.now_s) == ""
    bench.run(0.05)
    assert bench.controller.phase is Phase.CALIBRATED
    assert bench.controller.arm(bench.now_s) == ""
    bench.assert_still()
    assert_within_limits(bench)


def test_a_rejected_setpoint_is_not_sent_and_holds() -> None:
    bench = Bench().running()
    bench.rejection = "into the table"
    bench.run(DT)
    assert bench.controller.phase is Phase.HOLD and "into the table" in bench.controller.reason
    assert VERDICTS[bench.records[-1]["verdict"]] == "rejected"
    bench.assert_still()
    assert_within_limits(bench)


@pytest.mark.parametrize("solution", [[np.nan, 0, 0], [1e9, 0, 0], [np.inf, 0, 0], [0.0, 0.0], "raises"])
def test_nonsense_of_the_inverse_kinematics_never_reaches_the_driver(solution: list[float] | str) -> None:
    bench = Bench().running()
    bench.controller.parts = bench.controller.parts._replace(solve=lambda *_: solve(solution))
    bench.run(0.3)
    assert_within_limits(bench)


def solve(solution: list[float] | str) -> np.ndarray:
    if isinstance(solution, str):
        raise InvalidInputError("no such pose")
    return np.array(solution)


@pytest.mark.parametrize("q_rad", [[1.3, 0, 0], [0, -1.03, 0]])
def test_a_pose_outside_the_range_is_not_calibrated_and_names_the_joint(q_rad: list[float]) -> None:
    bench = Bench()
    bench.driver.q_rad = np.array(q_rad, np.float64)
    bench.controller.connect(bench.now_s)
    bench.run(2.0)
    assert bench.controller.phase is Phase.CONNECTED
    assert ("joint x" if q_rad[0] else "joint y") in bench.controller.reason
    assert "calibrate" in bench.controller.arm(bench.now_s) and not bench.driver.torque


def test_arming_needs_a_second_of_heartbeats_and_rest() -> None:
    bench = Bench()
    bench.beating = False
    bench.controller.connect(bench.now_s)
    bench.run(2.0)
    assert "heartbeat" in bench.controller.arm(bench.now_s)
    bench.beating = True
    bench.run(0.9)
    assert bench.controller.arm(bench.now_s) != ""
    bench.run(0.2)
    moving = bench.controller.vitals.state
    assert moving is not None
    bench.controller.vitals.state = replace(moving, qd_rad_s=np.array([0.0, 0.2, 0.0]))
    assert "the arm is moving" in bench.controller.arm(bench.now_s)
    assert "arm" not in bench.driver.calls
    bench.run(DT)
    assert bench.controller.arm(bench.now_s) == ""


def test_an_arm_that_leaves_the_pose_it_was_armed_in_is_a_fault() -> None:
    bench = Bench().armed()
    bench.driver.target = Setpoint(np.array([0.0, 0.0, 0.5]), 0.5)
    bench.driver.write = lambda setpoint: setpoint  # type: ignore[method-assign]
    assert bench.until(Phase.FAULT, 0.1) <= 0.05
    assert "joint z" in bench.controller.reason and not bench.driver.torque


def loaded(bench: Bench, torque_nm: list[float]) -> None:
    """From now on the arm measures these torques."""
    read = bench.driver.read
    bench.driver.read = lambda: replace(read(), torque_nm=np.array(torque_nm))  # type: ignore[method-assign]


@pytest.mark.parametrize("phase", ["armed", "running"])
@pytest.mark.parametrize("torque_nm", [1.0, -0.96])
def test_a_motor_at_its_full_torque_for_long_stops_the_arm_and_is_named(phase: str, torque_nm: float) -> None:
    bench: Bench = getattr(Bench(), phase)()
    loaded(bench, [0.0, torque_nm, 0.9])
    assert bench.until(Phase.STOPPED, 2) == pytest.approx(CONFIG.strained_after_s, abs=3 * DT)
    assert re.search("joint y strains at (1|0.96) of 1 N", bench.controller.reason)
    bench.assert_still()


def test_full_torque_for_a_moment_is_allowed() -> None:
    bench = Bench().armed()
    plain = bench.driver.read
    for _ in range(4):
        loaded(bench, [1.0, 0.0, 0.0])
        bench.run(CONFIG.strained_after_s - 2 * DT)
        bench.driver.read = plain  # type: ignore[method-assign]
        loaded(bench, [0.9, 0.0, 0.0])
        bench.run(2 * DT)
    assert bench.controller.phase is Phase.ARMED


def test_a_step_after_which_no_stop_is_clear_is_not_taken_and_ends_in_hold() -> None:
    """A wall at x = 0.03 that the gate does not know: the arm comes to rest before it, and the plan's clock stands."""
    bench = Bench().armed()

    def clear(here: np.ndarray, way: np.ndarray) -> bool:
        assert here.shape == (3,) and way.shape[1:] == (3,)
        return bool((way[:, 0] <= 0.03).all())

    bench.controller.parts = bench.controller.parts._replace(clear=clear)
    assert bench.controller.offer(bench.plan(x_m=0.2), bench.now_s) == ""
    bench.until(Phase.HOLD, 1)
    assert "not clear" in bench.controller.reason and bench.controller.splice.motion_s < 0.5
    assert 0.01 < max(setpoint.q_rad[0] for _, setpoint in bench.driver.written) <= 0.03
    bench.assert_still()
    assert_within_limits(bench)
    assert bench.controller.offer(bench.plan(x_m=-0.05), bench.now_s) == ""
    bench.run(0.9)
    assert bench.driver.q_rad[0] == pytest.approx(-0.05, abs=1e-3)


def test_a_gap_in_the_readings_however_short_begins_the_second_before_arming_anew() -> None:
    bench = Bench()
    bench.controller.connect(bench.now_s)
    bench.run(CONFIG.arm_after_s - 0.05)
    bench.driver.frozen = True
    bench.run(CONFIG.state_timeout_s + 2 * DT)
    bench.driver.frozen = False
    bench.run(CONFIG.arm_after_s - 0.05)
    assert "fresh for 1.0 s" in bench.controller.arm(bench.now_s) and not bench.driver.torque
    bench.run(0.1)
    assert bench.controller.arm(bench.now_s) == ""


def test_limits_are_tightened_between_ticks_and_a_wider_workspace_is_refused() -> None:
    bench = Bench().running()
    spec = WorkspaceSpec((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), table_m=None)
    narrow = bench.controller.parts._replace(solve=lambda q_rad, *_: np.minimum(q_rad, 0.01))

    def tightened(workspace: WorkspaceSpec) -> Parts:
        if workspace != spec:
            raise InvalidInputError("limits can only be tightened")
        return narrow

    assert "no workspace" in bench.controller.tighten(spec, bench.now_s)
    bench.controller.parts = bench.controller.parts._replace(tightened=tightened)
    assert "only be tightened" in bench.controller.tighten(replace(spec, speed_m_s=9.0), bench.now_s)
    assert "only be tightened" in bench.controller.refusal and bench.controller.phase is Phase.RUNNING
    assert bench.controller.tighten(spec, bench.now_s) == ""
    assert bench.controller.parts is narrow and bench.controller.phase is Phase.RUNNING
    assert any(line.startswith("limits") for line in bench.events)


def test_a_first_plan_that_starts_elsewhere_is_refused() -> None:
    bench = Bench().armed()
    away = bench.plan(position_m=np.array([[0.2, 0.0, 0.0], [0.2, 0.0, 0.0]]))
    assert "0.200 m away" in bench.controller.offer(away, bench.now_s)
    assert bench.controller.phase is Phase.ARMED and bench.controller.refusal
    bench.assert_still()


def test_a_slow_first_plan_is_waited_for() -> None:
    bench = Bench().armed()
    bench.run(10.0)
    assert bench.controller.phase is Phase.ARMED
    assert bench.controller.offer(bench.plan(), bench.now_s) == ""


def test_late_reordered_and_duplicated_plans_leave_the_motion_as_it_is() -> None:
    bench = Bench().armed()
    first, second = bench.plan(0.05), bench.plan(0.06)
    assert bench.controller.offer(second, bench.now_s) == ""
    for refused in (first, second, bench.plan(-0.05, expires_s=bench.now_s - 0.01)):
        assert bench.controller.offer(refused, bench.now_s) != ""
    bench.run(0.9)
    assert bench.driver.q_rad[0] == pytest.approx(0.06, abs=1e-4)


def test_an_unplugged_device_is_opened_again_by_reset() -> None:
    bench = Bench().running()
    bench.driver.connected, bench.driver.torque = False, False
    bench.until(Phase.FAULT, 0.1)
    bench.driver.missing = True
    bench.run(1.0)
    assert "no such device" in bench.controller.reset(bench.now_s) and bench.controller.phase is Phase.FAULT
    bench.driver.missing = False
    assert bench.controller.reset(bench.now_s) == ""
    bench.run(0.9)
    assert bench.controller.arm(bench.now_s) != "", "the second of fresh readings begins anew"
    bench.run(0.3)
    assert bench.controller.arm(bench.now_s) == ""


def test_a_device_that_cannot_be_opened_leaves_it_disconnected() -> None:
    bench = Bench()
    bench.driver.missing = True
    with pytest.raises(DriverError, match="no such device"):
        bench.controller.connect(bench.now_s)
    assert bench.controller.phase is Phase.DISCONNECTED


@pytest.mark.parametrize("phase", ["connected", "armed", "running"])
def test_close_stops_disarms_and_lets_go_whatever_fails(phase: str) -> None:
    bench = Bench()
    if phase == "connected":
        bench.controller.connect(bench.now_s)
    else:
        getattr(bench, phase)()

    def fail() -> None:
        bench.driver.calls.append("stop")
        raise ZeroDivisionError

    bench.driver.stop = fail  # type: ignore[method-assign]
    bench.controller.close()
    tried = ["disarm", "close"] if phase == "connected" else ["stop", "disarm", "close"]
    assert bench.driver.calls[-len(tried) :] == tried and bench.driver.calls.count("stop") == len(tried) - 2


def test_the_wall_clock_may_jump_for_it_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> float:
        raise AssertionError("the wall clock was asked")

    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, never)
    bench = Bench().running()
    bench.until(Phase.STOPPED, 3)
    bench.controller.reset(bench.now_s)
    bench.controller.close()


@pytest.mark.parametrize(
    "wrong", [{"limits_factor": 1.5}, {"state_timeout_s": 0.0}, {"brake_timeout_s": -1.0}, {"latency_s": np.nan}]
)
def test_an_impossible_config_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        ControllerConfig(**wrong)


def assert_within_limits(bench: Bench) -> None:
    """Of every run of writes without a gap: finite, in the range, and differences within the limits."""
    limits = Retiming(SPEC, DT)
    times = np.array([t for t, _ in bench.driver.written])
    q = np.array([setpoint.q_rad for _, setpoint in bench.driver.written])
    assert np.isfinite(q).all() and (q >= -1).all() and (q <= 1).all()
    assert all(0 <= setpoint.gripper <= 1 for _, setpoint in bench.driver.written)
    for part in np.split(q, np.flatnonzero(np.diff(times) > 1.5 * DT) + 1):
        padded = np.concatenate([np.tile(part[0], (3, 1)), part])
        bounds = (limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3)
        for order, bound in enumerate(bounds, start=1):
            assert (np.abs(np.diff(padded, order, axis=0)) / DT**order <= bound * (1 + 1e-6) + 1e-6).all(), order


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_happens_limits_hold_and_nothing_moves_in_hold_stopped_and_fault(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bench = Bench().armed()
    controller, driver = bench.controller, bench.driver
    still = 0
    for _ in range(40):
        happening = rng.integers(14)
        if happening < 6:
            wild = rng.random() < 0.3
            x = rng.uniform(-2, 2) if wild else controller.setpoint.q_rad[0] + rng.uniform(-0.2, 0.2)
            plan = bench.plan(x, rng.uniform(0.02, 0.5), rng.uniform(-0.1, 1.5))
            controller.offer(plan, bench.now_s)
        elif happening == 6:
            driver.frozen = not driver.frozen
        elif happening == 7:
            driver.silent = not driver.silent
        elif happening == 8:
            bench.beating = not bench.beating
        elif happening == 9:
            driver.fault = "" if driver.fault or rng.random() < 0.7 else "overload"
        elif happening == 10:
            bench.rejection = "" if bench.rejection else "box"
        elif happening == 11:
            driver.deaf = not driver.deaf and rng.random() < 0.3
        elif happening == 12:
            getattr(controller, rng.choice(["hold", "stop"]))(bench.now_s)
        else:
            driver.frozen = driver.silent = driver.deaf = False
            driver.fault = bench.rejection = ""
            bench.beating = True
            bench.run(0.6)
            controller.reset(bench.now_s)
            bench.run(1.1)
            controller.arm(bench.now_s)
        for _ in range(rng.integers(1, 25)):
            before = driver.written[-1][1], controller.phase, controller.splice.motion_s
            count = len(driver.written)
            bench.run(DT)
            quiet = controller.phase in (Phase.HOLD, Phase.STOPPED, Phase.FAULT) and controller.phase is before[1]
            still = still + 1 if quiet else 0
            if quiet:
                assert controller.splice.motion_s == before[2]
            if still > 60 and len(driver.written) > count:  # 0.6 s is longer than any stop within these limits
                assert np.array_equal(driver.written[-1][1].q_rad, before[0].q_rad)
                assert driver.written[-1][1].gripper == before[0].gripper
            if controller.phase is Phase.FAULT and still > 60:
                assert not driver.torque
    assert_within_limits(bench)

"""The Feetech driver over a pseudo-terminal, against servos that turn, and fail in every way that the bus allows."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latent_mpc.robots.calibration import Calibration, JointCalibration
from latent_mpc.robots.feetech import FeetechDriver
from latent_mpc.robots.robot import DriverError, RobotState, Setpoint
from latent_mpc.robots.so101 import SO101_SERVOS, so101
from latent_mpc.types import InvalidInputError

sys.path.insert(0, str(Path(__file__).parent))
from fake_feetech import FakeBus, so101_bus
from wild_setpoints import near_and_wild, setpoint, sound

SPEC = so101()
TICK_RAD = 2 * math.pi / 4096
STEP_RAD = 3.0 / 100 + TICK_RAD
ZERO = Setpoint(np.zeros(5), 0.5)
NAMES = [s.name for s in SO101_SERVOS]


def served(folder: Path) -> Iterator[tuple[FakeBus, FeetechDriver]]:
    """A bus, and its driver, not connected. Whatever a test does, no rule of the bus may have been broken."""
    bus, calibration = so101_bus(folder)
    driver = FeetechDriver(bus.port, calibration)
    yield bus, driver
    driver.close()
    bus.hang_up()
    assert bus.wrong == []


@pytest.fixture
def prompt_arm(tmp_path: Path) -> Iterator[tuple[FakeBus, FeetechDriver]]:
    """With the time-outs that it is used with."""
    yield from served(tmp_path)


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeBus, FeetechDriver]]:
    """With longer ones, where they are not what is tested: the fake, unlike servos, shares a busy machine."""
    monkeypatch.setattr("latent_mpc.robots.feetech.DEAD_AFTER_S", 5.0)
    monkeypatch.setattr("latent_mpc.robots.feetech.RELEASE_BUDGET_S", 2.0)
    yield from served(tmp_path)


def torques(bus: FakeBus) -> list[bool]:
    return [servo.torque for servo in bus.servos.values()]


def goals(bus: FakeBus) -> dict[int, int]:
    return {i: servo.get(42) for i, servo in bus.servos.items()}


def follow(driver: FeetechDriver, goal: Setpoint, seconds: float) -> Setpoint:
    sent = goal
    for _ in range(round(100 * seconds)):
        sent = driver.write(goal)
        driver.read()
        time.sleep(0.01)
    return sent


def fresh(driver: FeetechDriver) -> RobotState:
    """A reading from after the call; a busy machine may need more than one try."""
    sequence = driver.read().sequence
    while (state := driver.read()).sequence <= sequence:
        pass
    return state


def until_error(driver: FeetechDriver, seconds: float = 3.0) -> tuple[str, float]:
    """Read at 100 Hz until it fails; the message, and the time that it took less what sleeping took too long."""
    start, late = time.monotonic(), 0.0
    while time.monotonic() - start < seconds:
        try:
            driver.read()
        except DriverError as error:
            return str(error), time.monotonic() - start - late
        before = time.monotonic()
        time.sleep(0.01)
        late += time.monotonic() - before - 0.01
    raise AssertionError("the driver noticed nothing")


def test_connecting_neither_moves_nor_stiffens(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    with pytest.raises(DriverError, match="not connected"):
        driver.read()
    bus.servos[2].encoder += 300
    before = [servo.encoder for servo in bus.servos.values()]
    driver.connect()
    with pytest.raises(DriverError, match="connected already"):
        driver.connect()
    first, second = fresh(driver), fresh(driver)
    assert [servo.encoder for servo in bus.servos.values()] == before and not any(torques(bus)) and not bus.goals
    np.testing.assert_allclose(first.q_rad, [0, 300 * TICK_RAD, 0, 0, 0], atol=TICK_RAD)
    assert first.gripper == pytest.approx(0.5, abs=1e-3) and first.fault == ""
    assert second.sequence > first.sequence and second.receipt_time_s > first.receipt_time_s
    np.testing.assert_array_equal(first.temperature_c, 30.0)
    with pytest.raises(DriverError, match="not armed"):
        driver.write(ZERO)


def test_arming_holds_every_joint_where_it_is(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    for i, servo in bus.servos.items():
        servo.encoder += 40 * i
        servo.set(42, 100)  # an old goal, far away
    before = np.array([servo.encoder for servo in bus.servos.values()])
    driver.connect()
    driver.arm()
    time.sleep(0.1)
    fresh(driver)
    assert all(torques(bus))
    np.testing.assert_allclose([servo.encoder for servo in bus.servos.values()], before, atol=2)


def test_it_goes_where_it_is_sent(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    driver.arm()
    goal = Setpoint(np.array([0.3, -0.4, 0.2, 0.5, -0.6]), 0.9, motion_s=3.5)
    sent = follow(driver, goal, 0.7)
    np.testing.assert_allclose(sent.q_rad, goal.q_rad, atol=TICK_RAD)
    assert sent.gripper == pytest.approx(0.9, abs=1e-3) and sent.motion_s == 3.5
    state = fresh(driver)
    np.testing.assert_allclose(state.q_rad, goal.q_rad, atol=3 * TICK_RAD)
    assert state.gripper == pytest.approx(0.9, abs=3e-3)
    held = [2048 + q / TICK_RAD for q in sent.q_rad]
    assert [goals(bus)[i] for i in range(1, 6)] == pytest.approx(held, abs=1e-6), "what it returns is on the wire"


def test_the_velocity_has_the_sign_of_the_motion(arm: tuple[FakeBus, FeetechDriver]) -> None:
    _, driver = arm
    driver.connect()
    driver.arm()
    seen = []
    for step in range(30):
        driver.write(Setpoint(np.array([0.02, -0.02, 0.0, 0.0, 0.0]) * step, 0.5))
        time.sleep(0.01)
        seen.append(driver.read().qd_rad_s)
    assert np.mean(seen, 0)[0] > 0.1 and np.mean(seen, 0)[1] < -0.1 and abs(np.mean(seen, 0)[2]) < 0.05


@pytest.mark.parametrize("far", [math.radians(500), -1e9, 90.0])
def test_far_goals_end_at_the_range_and_come_in_small_steps(arm: tuple[FakeBus, FeetechDriver], far: float) -> None:
    """Degrees for radians: the widely used driver sends 500 degrees as 7687 ticks, in one leap."""
    bus, driver = arm
    driver.connect()
    driver.arm()
    last = driver.read().q_rad
    for _ in range(100):
        sent = driver.write(Setpoint(np.full(5, far), far)).q_rad
        assert (np.abs(sent - last) <= STEP_RAD).all()
        assert (sent >= SPEC.q_low_rad).all() and (sent <= SPEC.q_high_rad).all()
        last = sent
    time.sleep(0.05)
    end = np.array(SPEC.q_high_rad if far > 0 else SPEC.q_low_rad)
    np.testing.assert_allclose(sent, end, atol=2 * TICK_RAD)
    steps = [abs(b[2] - a[2]) for a, b in zip(bus.goals, bus.goals[6:], strict=False) if a[1] == b[1]]
    assert max(steps) <= math.ceil(3.0 / 100 / TICK_RAD) + 1 and 0 <= min(goals(bus).values()) <= 4095


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**12), 10**12).map(float)
junk = st.none() | st.text(max_size=3) | st.just([[0.0] * 5]) | st.lists(numbers, max_size=8)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(q=junk | st.lists(numbers, min_size=5, max_size=5), jaw=numbers)
def test_nonsense_never_reaches_the_wire(arm: tuple[FakeBus, FeetechDriver], q: Any, jaw: float) -> None:
    """Whatever is sound is limited, which the fixture and the test above judge."""
    _, driver = arm
    if driver._bus is None:
        driver.connect()
        driver.arm()
    try:
        array = np.asarray(q, np.float64)
    except (TypeError, ValueError):
        array = q
    if isinstance(array, np.ndarray) and array.shape == (5,) and np.isfinite([*array, jaw]).all():
        driver.write(Setpoint(array, jaw))
        driver.read()
        return
    bus, driver._bus = driver._bus, None  # a wire that nothing can reach
    with pytest.raises(InvalidInputError):
        driver.write(Setpoint(array, jaw))
    driver._bus = bus


@pytest.mark.parametrize("share", [0.01, 0.2])
@pytest.mark.parametrize("kind", ["corrupt", "drop", "truncate"])
def test_a_disturbed_bus_is_never_misread(arm: tuple[FakeBus, FeetechDriver], kind: str, share: float) -> None:
    bus, driver = arm
    setattr(bus, kind, share)
    driver.connect()
    driver.arm()
    driver.disarm()
    sequence, fresh, count = 0, 0, 60
    before = now = [0.0] * 6
    for step in range(count):
        before, now = now, [300 * math.sin(0.03 * step + i) for i in range(6)]
        for i, (servo, joint) in enumerate(zip(bus.servos.values(), driver._joints, strict=True)):
            servo.encoder = (2048 + round(now[i]) + joint.offset) % 4096
        state = driver.read()
        if state.sequence > sequence:
            fresh, sequence = fresh + 1, state.sequence
            ticks = state.q_rad / TICK_RAD
            late = np.abs(ticks - np.round(before[:5])) < 1e-6  # an answer that was under way
            assert (late | (np.abs(ticks - np.round(now[:5])) < 1e-6)).all()
    assert fresh >= (0.6 if share < 0.1 else 0.1) * count


def test_a_heavily_disturbed_bus_is_still_driven_and_disarmed(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    bus.corrupt = bus.drop = bus.truncate = 0.07
    driver.connect()
    driver.arm()
    follow(driver, Setpoint(np.full(5, 0.2), 0.6), 0.5)
    bus.corrupt = bus.drop = bus.truncate = 0.0
    np.testing.assert_allclose(fresh(driver).q_rad, 0.2, atol=0.05)
    bus.corrupt = bus.drop = bus.truncate = 0.07
    start = time.monotonic()
    assert driver.disarm() == () and not any(torques(bus))
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("number", [1, 3, 6])
@pytest.mark.parametrize("chained", [False, True])
def test_a_dead_servo_takes_the_torque_off_all_others(
    prompt_arm: tuple[FakeBus, FeetechDriver], number: int, chained: bool
) -> None:
    """The widely used driver leaves every motor behind the dead one stiff."""
    bus, driver = prompt_arm
    bus.chained = chained
    driver.connect()
    driver.arm()
    follow(driver, ZERO, 0.05)
    bus.servos[number].dead = True
    start = time.monotonic()
    message, seconds = until_error(driver)
    assert message.startswith(f"no sound answer from {NAMES[number - 1]} (servo {number}) on")
    assert max(bus.released.values()) - start < 0.5 and seconds < 1.0
    assert torques(bus) == [i == number for i in range(1, 7)]
    assert message.count("does not confirm") == 1
    with pytest.raises(DriverError, match="not connected"):
        driver.read()


def test_a_silent_bus_names_them_all(
    prompt_arm: tuple[FakeBus, FeetechDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, driver = prompt_arm
    driver.connect()
    driver.arm()
    state = driver.read()
    bus.frozen = True
    assert driver.read() is state, "the old reading with its old times, while there is no newer one"
    message, seconds = until_error(driver)
    assert all(name in message for name in NAMES) and "power supply" in message and seconds < 1.0
    bus.frozen = False
    monkeypatch.setattr("latent_mpc.robots.feetech.RELEASE_BUDGET_S", 2.0)
    assert driver.disarm() == () and not any(torques(bus)), "it opens the port again by itself"


def test_hang_up_and_replug(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    driver.arm()
    sequence = driver.read().sequence
    bus.hang_up()
    start = time.monotonic()
    with pytest.raises(DriverError, match=r"lost .*plug it in again"):
        driver.write(ZERO)
    assert len(driver.disarm()) == 6 and time.monotonic() - start < 0.5
    with pytest.raises(DriverError, match="cannot open"):
        driver.connect()
    bus.replug()
    driver.connect()
    assert driver.read().sequence > sequence and all(torques(bus)), "pulling a cable does not switch servos off"
    assert driver.disarm() == () and not any(torques(bus))
    driver.arm()
    follow(driver, ZERO, 0.05)


def test_disarming_at_any_time_tries_everyone(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    for servo in bus.servos.values():
        servo.set(42, 2048)
        servo.registers[40] = 1
    bus.servos[2].dead = True
    assert driver.disarm() == ("shoulder_lift (servo 2) does not confirm that its torque is off",)
    assert torques(bus) == [False, True, False, False, False, False]
    bus.servos[2].dead = False
    driver.connect()
    assert driver.disarm() == () and not any(torques(bus))
    driver.close()
    driver.close()
    assert driver.disarm() == ()
    bus.hang_up()
    assert all("cannot open" in failure for failure in driver.disarm()) and len(driver.disarm()) == 6


def test_a_second_process_disarms_while_the_first_holds_the_port(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    driver.arm()
    second = FeetechDriver(bus.port, driver._file)
    with pytest.raises(DriverError, match="cannot open"):
        second.connect()
    assert second.disarm() == () and not any(torques(bus))


def test_stop_holds_where_it_is(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    driver.stop()
    assert not any(torques(bus)) and not bus.goals, "an arm without torque stays without"
    driver.arm()
    for step in range(40):
        driver.write(Setpoint(np.full(5, 0.025 * step), 0.5))
        time.sleep(0.01)
    at = fresh(driver).q_rad
    driver.stop()
    time.sleep(0.3)
    rest = fresh(driver).q_rad
    assert (np.abs(rest - at) < 0.2).all() and all(torques(bus))
    time.sleep(0.1)
    np.testing.assert_allclose(fresh(driver).q_rad, rest, atol=2 * TICK_RAD)
    np.testing.assert_allclose(driver.write(Setpoint(rest, 0.5)).q_rad, rest, atol=STEP_RAD)


def test_a_blocked_joint_shows_torque_and_then_overload(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    driver.arm()
    bus.servos[3].blocked, bus.servos[3].patience_s = True, math.inf
    follow(driver, Setpoint(np.array([0, 0, 0.5, 0, 0]), 0.5), 0.2)
    state = fresh(driver)
    assert state.torque_nm is not None
    assert state.torque_nm[2] > 1.0 > 0.3 > abs(state.torque_nm[0]) and state.fault == ""
    bus.servos[3].patience_s = 0.1
    follow(driver, Setpoint(np.array([0, 0, 0.5, 0, 0]), 0.5), 0.1)
    assert fresh(driver).fault == "elbow_flex: overload"
    driver.disarm()
    with pytest.raises(DriverError, match=r"cannot arm: elbow_flex complains of overload; .*off and on"):
        driver.arm()
    assert not any(torques(bus))
    bus.servos[3].power_cycle()
    driver.arm()


def test_heat_and_voltage_are_faults_that_name_the_joint(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    bus.servos[4].temperature = 75
    bus.servos[6].status = 1
    state = fresh(driver)
    assert state.fault == "wrist_flex: temperature; gripper: voltage"
    assert state.temperature_c is not None and state.temperature_c[3] == 75


def test_the_jaw_holds_an_object_with_half_its_strength(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    driver.arm()
    bus.servos[6].blocked, bus.servos[6].patience_s = True, 0.1
    follow(driver, Setpoint(np.zeros(5), 0.1), 0.4)
    assert bus.servos[6].get(48) == 500 and fresh(driver).fault == ""


def test_arming_refuses_a_joint_outside_its_range(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.connect()
    bus.servos[4].encoder += 1200
    with pytest.raises(DriverError, match=r"cannot arm: wrist_flex is \d+ degrees outside its range"):
        driver.arm()
    assert not any(torques(bus)), "the joints before it are limp again"
    with pytest.raises(DriverError, match="not armed"):
        driver.write(ZERO)
    bus.servos[4].encoder -= 1200
    driver.arm()


def edit(path: Path, **changes: Any) -> None:
    """Change joints of a calibration and save it as sound: {joint: {field: value}}."""
    calibration = Calibration.load(path)
    fields = {n: {**vars(j), **changes.get(n, {})} for n, j in calibration.joints.items()}
    joints = {n: JointCalibration(**f) for n, f in fields.items()}
    Calibration(changes.get("arm", "so101"), changes.get("serial", ""), joints).save(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elbow_flex": {"offset": 301}}, r"elbow_flex \(servo 3\) holds offset -300 .* says 301 .*another arm's"),
        ({"elbow_flex": {"offset": 300}}, r"elbow_flex .*sign of its offset swapped"),
        ({"elbow_flex": {"direction": -1}}, r"elbow_flex .*direction swapped"),
        ({"wrist_roll": {"high": 4000}}, r"wrist_roll .*another arm's"),
        ({"wrist_roll": {"id": 7}}, r"wrist_roll .*as servo 7"),
        ({"arm": "koch"}, "calibration of koch"),
    ],
)
def test_a_foreign_or_swapped_calibration_is_refused(
    arm: tuple[FakeBus, FeetechDriver], changes: dict[str, Any], message: str
) -> None:
    bus, driver = arm
    edit(Path(driver._file), **changes)
    with pytest.raises(DriverError, match=message):
        driver.connect()
    assert not any(torques(bus)) and not bus.goals
    with pytest.raises(DriverError, match="not connected"):
        driver.read()


def test_a_missing_or_edited_calibration_is_refused(arm: tuple[FakeBus, FeetechDriver]) -> None:
    _, driver = arm
    path = Path(driver._file)
    content = yaml.safe_load(path.read_text())
    content["joints"]["elbow_flex"]["direction"] = -1
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DriverError, match="changed by hand"):
        driver.connect()
    path.unlink()
    with pytest.raises(DriverError, match=r"there is no calibration .*latent-mpc calibrate"):
        driver.connect()


def test_wrong_servos_are_refused(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    bus.servos[2].set(3, 1540)
    with pytest.raises(DriverError, match=r"shoulder_lift \(servo 2\) is model 1540, not an STS3215"):
        driver.connect()
    bus.servos[2].set(3, 777)
    bus.servos[5].registers[33] = 1
    with pytest.raises(DriverError, match=r"wrist_roll .*not set to position mode"):
        driver.connect()
    bus.servos[5].registers[33] = 0
    bus.servos[6].dead = True
    with pytest.raises(DriverError, match=r"gripper \(servo 6\) does not answer .*power supply"):
        driver.connect()
    with pytest.raises(InvalidInputError, match="need servos for"):
        FeetechDriver(bus.port, "x.yaml", servos=SO101_SERVOS[:5])


def test_a_bus_too_disturbed_is_not_connected(
    arm: tuple[FakeBus, FeetechDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, driver = arm
    monkeypatch.setattr("latent_mpc.robots.feetech.CONNECT_S", 0.05)
    monkeypatch.setattr("latent_mpc.robots.feetech_reader.Reader.all", lambda *_: None)
    with pytest.raises(DriverError, match="never all answered"):
        driver.connect()
    assert not any(torques(bus))


def test_a_reading_and_a_setpoint_take_a_small_part_of_a_period(arm: tuple[FakeBus, FeetechDriver]) -> None:
    """In processor time, the fake's included, as wall time is other programs'. The wire adds 1.3 ms and 0.3 ms."""
    _, driver = arm
    driver.connect()
    driver.arm()
    costs = []
    for _ in range(10):
        start, sequence = time.process_time(), driver.read().sequence
        for _ in range(20):
            driver.read()
            driver.write(ZERO)
        costs.append((time.process_time() - start) / max(driver.read().sequence - sequence, 1))
    assert min(costs) < 0.004


# ---- whatever it is told ----

CHAINS = st.lists(near_and_wild(5), min_size=50, max_size=50)
PROPERTY = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def assert_nothing_wild_on_the_wire(folder: Path, chain: list[Any]) -> None:
    """What is refused sends no goal, and what is taken sends goals in the range, a tick's way from those before."""
    bus, calibration = so101_bus(folder)
    driver = FeetechDriver(bus.port, calibration)
    with bus:
        driver.connect()
        driver.arm()
        low, high = driver._low.copy(), driver._high.copy()
        step = np.ceil(3.0 / 100 / TICK_RAD) + 1
        last, before = driver._q_sent, driver._goals.copy()
        driver.read()  # an answer: whatever was sent before has arrived
        sent, arrived = 0, len(bus.goals)
        for made_of in chain:
            wanted = setpoint(made_of, last)
            try:
                last, sent = driver.write(wanted).q_rad, sent + 1
                assert sound(wanted, 5), wanted
            except InvalidInputError:
                assert not sound(wanted, 5), wanted
        driver.read()
        goals = np.array([goal for _, _, goal in bus.goals[arrived:]], int).reshape(-1, 6)
        assert len(goals) == sent
        assert (goals >= low).all() and (goals <= high).all() and bus.wrong == []
        assert (np.abs(np.diff(np.vstack([before, goals]), axis=0)) <= step).all()
        driver.disarm()
        driver.close()


@settings(max_examples=20, **PROPERTY)
@given(CHAINS)
def test_nothing_wild_reaches_the_wire(tmp_path_factory: pytest.TempPathFactory, chain: list[Any]) -> None:
    assert_nothing_wild_on_the_wire(tmp_path_factory.mktemp("wild"), chain)


@pytest.mark.slow
@settings(max_examples=200, **PROPERTY)
@given(CHAINS)
def test_nothing_wild_reaches_the_wire_in_ten_thousand_cases(
    tmp_path_factory: pytest.TempPathFactory, chain: list[Any]
) -> None:
    assert_nothing_wild_on_the_wire(tmp_path_factory.mktemp("wild"), chain)

"""What holds for every driver, each against its stand-in: the order of calls, and what never reaches an arm.

The conformance test drives one joint plan through the controller on every arm: same states, same place in the end.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Draw
from hypothesis import strategies as st

from latent_mpc.envs.scene import build_model
from latent_mpc.robots.channels import Phase
from latent_mpc.robots.controller import Controller, ControllerConfig
from latent_mpc.robots.feetech import FeetechDriver
from latent_mpc.robots.lerobot import LeRobotDriver
from latent_mpc.robots.mujoco_driver import MujocoDriver
from latent_mpc.robots.panda import panda
from latent_mpc.robots.parts import Parts
from latent_mpc.robots.robot import Array, Driver, DriverError, RobotSpec, RobotState, Setpoint, TimedPlan
from latent_mpc.robots.safety import Verdict
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.splice import Waypoint
from latent_mpc.robots.world import SimulationConfig
from latent_mpc.types import InvalidInputError

sys.path.insert(0, str(Path(__file__).parent))
from fake_driver import FakeDriver
from fake_feetech import so101_bus
from fake_ur import FakeUR
from wild_setpoints import near_and_wild, setpoint, sound

PANDA_XML = Path(__file__).parents[1] / "envs/panda.xml"


@dataclass(frozen=True)
class Stand:
    """A stand-in for an arm.

    Attributes:
        make: its driver, not connected.
        arrived: whatever changes with every setpoint that arrives. q_rad: where its joints are in truth, (J,).
        slow: its clock falls behind ours, so that it has to be driven by its own.
        rewind: puts the arm where it was first; where wild setpoints leave one that takes them depends on the load.
    """

    make: Callable[[], Driver]
    arrived: Callable[[], object]
    q_rad: Callable[[], Any]
    slow: bool = False
    rewind: Callable[[], None] = lambda: None


@contextmanager
def fake(_: Path) -> Iterator[Stand]:
    made: list[FakeDriver] = []

    def make() -> Driver:
        made.append(FakeDriver(time.monotonic))
        return made[-1]

    yield Stand(make, lambda: len(made[-1].written), lambda: made[-1].q_rad)


@contextmanager
def simulated(folder: Path) -> Iterator[Stand]:
    scene = folder / "scene.mjb"
    mujoco.mj_saveModel(build_model(0, 0.004), str(scene), None)
    with Simulation(SimulationConfig(scene, panda(PANDA_XML))) as simulation:
        command, start = simulation._slots.command, simulation.truth().qpos
        yield Stand(
            lambda: MujocoDriver(simulation.link),
            command.read,
            lambda: simulation.truth().qpos[:7],
            rewind=lambda: simulation.place(start, 5.0),
        )


@contextmanager
def feetech(folder: Path) -> Iterator[Stand]:
    bus, calibration = so101_bus(folder)
    with bus:

        def q_rad() -> list[float]:
            for servo in bus.servos.values():
                servo.advance()
            return [(bus.servos[i].position - 2048) * 2 * math.pi / 4096 for i in range(1, 6)]

        yield Stand(lambda: FeetechDriver(bus.port, calibration), lambda: len(bus.goals), q_rad)
        assert bus.wrong == []


@contextmanager
def ur(_: Path) -> Iterator[Stand]:
    pytest.importorskip("rtde_control", reason="needs ur_rtde")
    from latent_mpc.robots.ur import URDriver

    with FakeUR("127.0.4.1") as arm:
        yield Stand(lambda: URDriver(arm.host), lambda: arm.ask("status")["writes"], lambda: arm.ask("status")["q"])
        assert arm.ask("status")["violations"] == []


@contextmanager
def franka(_: Path) -> Iterator[Stand]:
    for package in ("franky", "franky_sim"):
        pytest.importorskip(package)
    from . import test_robots_franka as stand_in

    sim, made = stand_in.Sim(), []

    def make() -> Driver:
        made.append(stand_in.FrankaDriver(sim.host, stand_in.SPEC))
        return made[-1]

    yield Stand(make, lambda: None, lambda: made[-1].read().q_rad, slow=True)
    sim.close()


@contextmanager
def trossen(_: Path) -> Iterator[Stand]:
    for package in ("trossen_arm", "trossen_arm_sim"):
        pytest.importorskip(package)
    from . import test_robots_trossen as stand_in

    sim = stand_in.Sim()
    yield Stand(lambda: stand_in.TrossenDriver(sim.host), lambda: sim.ask()["ctrl"], lambda: sim.ask()["q"][:6])
    sim.close()


@contextmanager
def rosbridge(_: Path) -> Iterator[Stand]:
    for package in ("roslibpy", "websockets"):
        pytest.importorskip(package)
    from . import test_robots_rosbridge as stand_in

    arm = stand_in.Arm()
    arm.garbage = {"effort": [0.1] * 4}
    names = stand_in.SPEC.joint_names
    yield Stand(lambda: stand_in.made(arm), lambda: len(arm.messages), lambda: [arm.q[name] for name in names])
    arm.close()


@contextmanager
def lerobot(_: Path) -> Iterator[Stand]:
    from . import test_robots_lerobot as stand_in

    robot = stand_in.Robot({**dict.fromkeys(stand_in.START, 20.0)}, bus=stand_in.Bus())
    names = stand_in.SPEC.joint_names

    def q_rad() -> list[float]:
        return [math.radians(robot.values[f"{name}.pos"]) for name in names]

    yield Stand(lambda: LeRobotDriver(robot, stand_in.SPEC), lambda: len(robot.actions), q_rad)


@pytest.fixture(
    scope="module",
    params=[fake, simulated, feetech, ur, pytest.param(franka, marks=pytest.mark.slow), trossen, rosbridge, lerobot],
)
def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with ExitStack() as stack:
        yield stack.enter_context(request.param(tmp_path_factory.mktemp("stand")))


def until(condition: Callable[[], bool], at_most_s: float, what: str) -> None:
    deadline_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {at_most_s} s: {what}"
        time.sleep(0.002)


def newer(driver: Driver, than: RobotState) -> RobotState:
    """The next reading; on the way, one that is not newer has its old times."""
    deadline_s = time.monotonic() + 5.0
    while (state := driver.read()).sequence <= than.sequence:
        assert state.sequence == than.sequence and state.hardware_time_s == than.hardware_time_s
        assert time.monotonic() < deadline_s, "no new reading within 5 s"
        time.sleep(0.001)
    return state


def is_a_list_of_failures(failed: object) -> bool:
    return isinstance(failed, tuple) and all(isinstance(text, str) and text for text in failed)


def wrong_setpoints(spec: RobotSpec, q_rad: Array) -> list[Setpoint]:
    q, count = q_rad.astype(float), spec.num_joints
    some = [np.where(np.arange(count) == count - 1, bad, q) for bad in (np.nan, np.inf, -np.inf)]
    shapes = [q[:-1], np.append(q, 0.0), q[None], np.float64(0.0), np.zeros(0)]
    kinds = [q.astype(str), q.astype(complex), q.astype(object), q.astype(bool), None]
    return [*(Setpoint(bad, 0.5) for bad in (*some, *shapes, *kinds)), *(Setpoint(q, g) for g in (math.nan, math.inf))]


def test_contract(stand: Stand) -> None:
    driver = stand.make()
    spec = driver.spec
    low, high = np.array(spec.q_low_rad), np.array(spec.q_high_rad)
    home = Setpoint(np.array(spec.home_rad), 0.5)

    # before connect
    assert is_a_list_of_failures(driver.disarm())
    driver.close()
    for call in (driver.read, lambda: driver.write(home)):
        with pytest.raises(DriverError):
            call()

    # connected: nothing stiffens, nothing moves
    driver.connect()
    try:
        try:
            driver.connect()
        except DriverError as error:
            assert "connected already" in str(error)
        first = state = driver.read()
        for _ in range(5):
            last, state = state, newer(driver, state)
            for vector in (state.q_rad, state.qd_rad_s, state.torque_nm, state.temperature_c):
                assert vector is None or (vector.shape == (spec.num_joints,) and np.isfinite(vector).all())
            assert (state.torque_nm is not None) >= driver.capabilities.torque
            assert (state.temperature_c is not None) >= driver.capabilities.temperature
            assert 0 <= state.gripper <= 1 and state.fault == ""
            assert state.hardware_time_s > last.hardware_time_s
            assert last.receipt_time_s < state.receipt_time_s <= time.monotonic()
        arrived = stand.arrived()
        with pytest.raises(DriverError, match="arm"):
            driver.write(home)
        np.testing.assert_array_equal(stand.arrived(), arrived)
        np.testing.assert_allclose(stand.q_rad(), first.q_rad, atol=0.02)

        # armed: it holds where it is, and nonsense changes nothing
        driver.arm()
        held = Setpoint(driver.read().q_rad, driver.read().gripper)
        np.testing.assert_allclose(held.q_rad, first.q_rad, atol=0.02)
        driver.write(held)
        time.sleep(0.1)  # it has arrived
        arrived = stand.arrived()
        for wrong in wrong_setpoints(spec, held.q_rad):
            with pytest.raises(InvalidInputError):
                driver.write(wrong)
        np.testing.assert_array_equal(stand.arrived(), arrived)
        for far in (1e9, -1e9, 57.3):
            sent = driver.write(Setpoint(np.full(spec.num_joints, far), far, motion_s=3.0))
            assert sent.q_rad.shape == (spec.num_joints,) and sent.motion_s == 3.0 and 0 <= sent.gripper <= 1
            assert (sent.q_rad >= low - 1e-6).all() and (sent.q_rad <= high + 1e-6).all()
            driver.write(held)
        driver.stop()

        # disarmed, again and again; then armed anew
        for _ in range(2):
            failed = driver.disarm()
            assert is_a_list_of_failures(failed) and not failed, failed
            with pytest.raises(DriverError, match="arm"):
                driver.write(held)
        driver.arm()
        driver.write(Setpoint(driver.read().q_rad, 0.5))
    finally:
        driver.disarm()
        driver.close()

    # closed, and open for the next
    driver.close()
    assert is_a_list_of_failures(driver.disarm())
    with pytest.raises(DriverError):
        driver.read()
    driver.connect()
    assert np.isfinite(driver.read().q_rad).all()
    driver.close()


def test_nothing_wild_is_sent(stand: Stand) -> None:
    """What is no setpoint is refused and nothing arrives; what is one is sent within the limits, a tick's way on."""
    driver = stand.make()
    if isinstance(driver, FakeDriver):
        pytest.skip("it stands in for a driver, and has no wire")
    spec = driver.spec
    step = np.array(spec.velocity_rad_s) / spec.control_hz + 2e-3  # the device's own rounding
    if isinstance(driver, MujocoDriver):
        step[:] = np.inf  # the simulated arm counts leaps, so that a controller's are found
    low, high = np.array(spec.q_low_rad) - 2e-3, np.array(spec.q_high_rad) + 2e-3

    @settings(
        max_examples=4, deadline=None, derandomize=True, phases=[Draw.generate], suppress_health_check=list(HealthCheck)
    )  # a device is not the same again, so that nothing can be shrunk
    @given(st.lists(near_and_wild(spec.num_joints), min_size=40, max_size=40))
    def chain(drawn: list[Any]) -> None:
        last = driver.read().q_rad
        driver.arm()
        taken = 0
        for made_of in drawn:
            wanted = setpoint(made_of, last)
            if sound(wanted, spec.num_joints):
                sent = driver.write(wanted)
                assert (sent.q_rad >= low).all() and (sent.q_rad <= high).all() and 0 <= sent.gripper <= 1
                assert (np.abs(sent.q_rad - last) <= step).all() or not taken
                last, taken = sent.q_rad, taken + 1
        time.sleep(0.1)  # it has arrived
        arrived = stand.arrived()
        for made_of in drawn:
            if not sound(wanted := setpoint(made_of, last), spec.num_joints):
                with pytest.raises(InvalidInputError):
                    driver.write(wanted)
        time.sleep(0.05)
        np.testing.assert_array_equal(stand.arrived(), arrived)
        assert driver.disarm() == ()

    driver.connect()
    try:
        chain()
    finally:
        driver.disarm()
        driver.close()


# ---- conformance ----

CONFIG = ControllerConfig(
    state_timeout_s=0.3, heartbeat_timeout_s=2.0, arm_after_s=0.2, stop_after_s=0.4, max_validity_s=60.0
)  # patient, for the machine's sake
MOVE_RAD = np.array([0.15, 0.1, 0.08])  # of the first three joints


def joint_parts(spec: RobotSpec) -> Parts:
    """The first three joints as the tool's coordinates; the others stay."""

    def gate(wanted: Setpoint, last: Setpoint, state: RobotState, now_s: float, *, sent_rad: Array) -> Verdict:
        return Verdict("ok", wanted)

    return Parts(
        forward=lambda q_rad: Waypoint(q_rad[:3].copy(), 0.0, 0.0),
        solve=lambda q_rad, position_m, yaw_rad: np.append(position_m, q_rad[3:]),
        gate=gate,
    )


def test_conformance(stand: Stand) -> None:
    driver, phases = stand.make(), list[str]()
    stand.rewind()

    def note(now_s: float, kind: str, text: str) -> None:
        if kind == "phase":
            phases.append(text.split(":")[0])

    controller = Controller(driver, joint_parts(driver.spec), CONFIG, on_event=note)

    def off() -> float:
        return float(np.abs(np.array(stand.q_rad()) - goal).max())

    def tick_until(condition: Callable[[], bool], at_most_s: float, what: str) -> None:
        begin_s = due_s = time.monotonic()
        while not condition():
            now_s = time.monotonic()
            assert now_s < begin_s + at_most_s, (
                f"not within {at_most_s} s: {what}; {controller.reason}; {controller.refusal}"
            )
            controller.beat(now_s)
            controller.tick(now_s)
            due_s = max(due_s + controller.dt_s, now_s)
            time.sleep(due_s - now_s)
            if stand.slow:
                next_s = driver.read().hardware_time_s + controller.dt_s
                until(lambda t=next_s: driver.read().hardware_time_s >= t, 5, "its clock goes on")

    try:
        controller.connect(time.monotonic())
        tick_until(lambda: controller.phase is Phase.CALIBRATED, 5, "CALIBRATED")
        tick_until(lambda: controller.arm(time.monotonic()) == "", 5, "ARMED")
        controller.tick(time.monotonic())  # arming may take seconds, and what was read before is old then
        begin = controller.setpoint.q_rad
        middle = (np.array(driver.spec.q_low_rad) + driver.spec.q_high_rad) / 2
        goal = begin.copy()
        goal[:3] += np.where(middle[:3] >= begin[:3], MOVE_RAD, -MOVE_RAD)  # there is room
        share = np.linspace(0, 1, 31)
        way = begin[:3] + (3 * share**2 - 2 * share**3)[:, None] * (goal - begin)[:3]  # (N, 3)
        opening = np.full(31, controller.setpoint.gripper)
        now_s = time.monotonic()
        plan = TimedPlan(1, 0, controller.splice.motion_s + share, way, np.zeros(31), opening, now_s + 60)
        assert controller.offer(plan, now_s) == ""
        tick_until(lambda: off() < 0.01 or controller.phase is not Phase.RUNNING, 50, "there")
        assert controller.phase is Phase.RUNNING, controller.reason
        now_s, there = time.monotonic(), np.tile(goal[:3], (31, 1))
        plan = TimedPlan(2, 0, controller.splice.motion_s + share, there, np.zeros(31), opening, now_s + 0.3)
        assert controller.offer(plan, now_s) == ""
        tick_until(lambda: controller.phase is Phase.STOPPED and controller.quiet, 10, "STOPPED")
        time.sleep(0.2)
        assert off() < 0.01
        assert controller.reset(time.monotonic()) == ""
        tick_until(lambda: controller.phase is Phase.CALIBRATED, 5, "CALIBRATED again")
    finally:
        controller.close()
    assert phases == [
        "CONNECTED", "CALIBRATED", "ARMED", "RUNNING", "HOLD", "STOPPED", "CONNECTED", "CALIBRATED",
    ]  # fmt: skip

"""LeRobot both ways, against a small robot with its interface; LeRobot itself is not needed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_mpc.robots.as_lerobot import AsLeRobot
from latent_mpc.robots.lerobot import LeRobotDriver, Units
from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.types import InvalidInputError

SPEC = RobotSpec(
    name="toy",
    joint_names=("pan", "lift", "roll"),
    q_low_rad=(-2.0, 0.0, -3.0),
    q_high_rad=(2.0, 3.0, 3.0),
    velocity_rad_s=(2.0, 2.0, 4.0),
    acceleration_rad_s2=(5.0,) * 3,
    jerk_rad_s3=(50.0,) * 3,
    torque_nm=(3.0,) * 3,
    home_rad=(0.0, 1.0, 0.0),
    gripper_width_m=0.1,
    mjcf=Path("toy.xml"),
)


class Bus:
    def __init__(self) -> None:
        self.torque, self.dead = True, False

    def enable_torque(self) -> None:
        self.torque = True

    def disable_torque(self) -> None:
        if self.dead:
            raise ConnectionError("no answer of motor 3")
        self.torque = False


class Robot:
    """LeRobot's interface; each action moves it half of the way, and at most `limit` a joint, as its own clip does."""

    name = "toy_follower"

    def __init__(self, values: dict[str, float], limit: float = math.inf, bus: Bus | None = None) -> None:
        self.values, self.limit, self.actions = dict(values), limit, list[dict[str, float]]()
        self.is_connected, self.is_calibrated, self.fails = False, True, ""
        if bus:
            self.bus = bus

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(self.values, float), "front": (480, 640, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.values, float)

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate, "it would ask a person to move the arm"
        self.is_connected = True

    def get_observation(self) -> dict[str, Any]:
        if self.fails:
            raise ConnectionError(self.fails)
        return {**self.values, "front": np.zeros((2, 2, 3))}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        sent = {
            k: min(max(v, self.values[k] - self.limit), self.values[k] + self.limit) if k != "gripper.pos" else v
            for k, v in action.items()
        }
        self.actions.append(sent)
        self.values = {k: v + (sent[k] - v) / 2 for k, v in self.values.items()}
        return sent

    def disconnect(self) -> None:
        self.is_connected = False


START = {"pan.pos": 30.0, "lift.pos": 90.0, "roll.pos": -45.0, "gripper.pos": 25.0}


def made(robot: Robot, **options: Any) -> LeRobotDriver:
    driver = LeRobotDriver(robot, SPEC, **options)
    driver.connect()
    return driver


def test_degrees_with_sign_and_zero() -> None:
    driver = made(Robot(START), sign=(1, -1, 1), zero_rad=(0.0, math.pi / 2, 0.1))
    state = driver.read()
    np.testing.assert_allclose(state.q_rad, [math.radians(30), 0.0, math.radians(-45) + 0.1], atol=1e-12)
    assert state.gripper == 0.25


def test_range_maps_the_ends_to_the_specs() -> None:
    for value, share in ((-100.0, 0.0), (0.0, 0.5), (100.0, 1.0)):
        driver = made(Robot({**dict.fromkeys(START, value), "gripper.pos": 100 * share}), units="range")
        low, high = np.array(SPEC.q_low_rad), np.array(SPEC.q_high_rad)
        np.testing.assert_allclose(driver.read().q_rad, low + share * (high - low), atol=1e-12)


@pytest.mark.parametrize("units", ["degrees", "range"])
def test_follows_a_trajectory_and_returns_what_was_sent(units: Units) -> None:
    robot = Robot(START)
    driver = made(robot, units=units, sign=(1, -1, 1), zero_rad=(0.0, 2.5, 0.0) if units == "degrees" else None)
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(np.zeros(3), 0.5))
    driver.arm()
    begin = driver.read()
    goal = np.clip(begin.q_rad + [0.2, -0.1, 0.3], SPEC.q_low_rad, SPEC.q_high_rad)
    for share in np.linspace(0, 1, 40):
        q_rad = begin.q_rad + share * (goal - begin.q_rad)
        sent = driver.write(Setpoint(q_rad, 0.75))
        np.testing.assert_allclose(sent.q_rad, q_rad, atol=1e-9)
    for _ in range(10):
        driver.write(Setpoint(goal, 0.75))
    state = driver.read()
    np.testing.assert_allclose(state.q_rad, goal, atol=0.02)
    assert state.gripper == pytest.approx(0.75, abs=0.01)
    assert state.sequence > begin.sequence and state.receipt_time_s > begin.receipt_time_s


def test_the_robots_own_clip_is_told() -> None:
    driver = made(Robot(START, limit=0.5))
    driver.arm()
    begin = driver.read().q_rad
    sent = driver.write(Setpoint(begin + 0.018, 0.25)).q_rad
    np.testing.assert_allclose(sent, begin + math.radians(0.5), atol=1e-9)


@pytest.mark.parametrize("bad", [np.full(3, np.nan), np.full(3, np.inf), np.zeros(4), np.array(["a"] * 3)])
def test_nonsense_never_reaches_the_robot(bad: np.ndarray) -> None:
    robot = Robot(START)
    driver = made(robot)
    driver.arm()
    with pytest.raises(InvalidInputError):
        driver.write(Setpoint(bad, 0.5))
    with pytest.raises(InvalidInputError):
        driver.write(Setpoint(np.zeros(3), math.inf))
    assert robot.actions == []


def test_degrees_for_radians_move_one_tick_at_most() -> None:
    robot = Robot(START)
    driver = made(robot)
    driver.arm()
    begin = driver.read().q_rad
    for wild in (np.degrees(begin), np.full(3, 1e9), np.full(3, -1e9)):
        step = np.abs(driver.write(Setpoint(wild, 0.5)).q_rad - begin)
        assert (step <= np.array(SPEC.velocity_rad_s) / SPEC.control_hz * 1.001).all()
        begin = driver._q_sent  # type: ignore[assignment]


def test_torque_by_the_bus() -> None:
    bus = Bus()
    robot = Robot(START, bus=bus)
    driver = made(robot)
    bus.torque = False
    driver.arm()
    assert bus.torque
    assert robot.actions[0] == pytest.approx(START), "the goal is where the arm is, before the torque comes on"
    assert driver.disarm() == () and not bus.torque and robot.is_connected
    bus.dead = True
    (failed,) = driver.disarm()
    assert "motor 3" in failed and "pan, lift, roll" in failed


def test_torque_by_disconnect_where_there_is_no_bus() -> None:
    robot = Robot(START)
    driver = made(robot)
    driver.arm()
    assert driver.disarm() == () and not robot.is_connected
    with pytest.raises(DriverError, match="not connected"):
        driver.read()
    driver.close()


def test_a_dead_robot_raises_and_names_it() -> None:
    robot = Robot(START)
    driver = made(robot)
    robot.fails = "Failed to sync read 'Present_Position'"
    with pytest.raises(DriverError, match="toy_follower failed to read: Failed to sync read"):
        driver.read()
    robot.fails = ""
    robot.values["lift.pos"] = math.nan
    with pytest.raises(DriverError, match="NaN"):
        driver.read()


def test_uncalibrated_and_foreign_robots_are_refused_and_closed() -> None:
    robot = Robot(START)
    robot.is_calibrated = False
    with pytest.raises(DriverError, match="not calibrated"):
        made(robot)
    assert not robot.is_connected
    robot = Robot({"shoulder.pos": 1.0, "gripper.pos": 3.0})
    with pytest.raises(DriverError, match=r"observes no \['pan.pos'"):
        made(robot)
    assert not robot.is_connected
    assert LeRobotDriver(Robot(START), SPEC).disarm() == ()


@pytest.mark.parametrize(
    "options",
    [
        {"units": "radians"},
        {"sign": (1, 1)},
        {"sign": (1, 0, 1)},
        {"zero_rad": (0.0,)},
        {"units": "range", "zero_rad": (0.1, 0.0, 0.0)},
    ],
)
def test_impossible_units_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        LeRobotDriver(Robot(START), SPEC, **options)


class Ours:
    """A driver of ours that reaches its setpoint at once."""

    spec = SPEC
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.q_rad: Array = np.array([0.1, 1.0, -0.2])
        self.gripper, self.calls, self.fault, self.count = 0.5, list[str](), "", 0
        self.stuck: tuple[str, ...] = ()

    def connect(self) -> None:
        self.calls.append("connect")

    def arm(self) -> None:
        self.calls.append("arm")
        if self.fault:
            raise DriverError(self.fault)

    def read(self) -> RobotState:
        self.count += 1
        return RobotState(self.q_rad, np.zeros(3), self.gripper, self.count, self.count, self.count, self.fault)

    def write(self, setpoint: Setpoint) -> Setpoint:
        sent = replace(setpoint, q_rad=np.clip(setpoint.q_rad, SPEC.q_low_rad, SPEC.q_high_rad))
        self.q_rad, self.gripper = sent.q_rad, sent.gripper
        return sent

    def stop(self) -> None:
        self.calls.append("stop")

    def disarm(self) -> tuple[str, ...]:
        self.calls.append("disarm")
        return self.stuck

    def close(self) -> None:
        self.calls.append("close")


def test_ours_as_lerobots() -> None:
    ours = Ours()
    robot = AsLeRobot(ours)
    assert robot.observation_features == dict.fromkeys(START, float) == robot.action_features
    robot.connect()
    assert robot.is_connected and robot.is_calibrated
    expected = {"pan.pos": math.degrees(0.1), "lift.pos": math.degrees(1.0), "roll.pos": math.degrees(-0.2)}
    assert robot.get_observation() == pytest.approx({**expected, "gripper.pos": 50.0})
    sent = robot.send_action({"pan.pos": 500.0, "lift.pos": 60.0, "roll.pos": 0.0, "gripper.pos": 100.0})
    assert sent == pytest.approx(
        {"pan.pos": math.degrees(2.0), "lift.pos": 60.0, "roll.pos": 0.0, "gripper.pos": 100.0}
    )
    assert robot.get_observation() == pytest.approx(sent)
    for bad in ({"pan.pos": 1.0}, {**START, "roll.pos": math.nan}):
        with pytest.raises(InvalidInputError):
            robot.send_action(bad)
    robot.disconnect()
    assert ours.calls == ["connect", "arm", "stop", "disarm", "close"] and not robot.is_connected


def test_ours_as_lerobots_leaves_nothing_armed() -> None:
    ours = Ours()
    ours.fault = "pan is hot"
    with pytest.raises(DriverError, match="hot"):
        AsLeRobot(ours).connect()
    assert ours.calls == ["connect", "arm", "disarm", "close"]
    ours = Ours()
    robot = AsLeRobot(ours)
    robot.connect()
    ours.fault = "lift is blocked"
    with pytest.raises(DriverError, match="lift is blocked"):
        robot.get_observation()
    ours.stuck = ("joint roll: no answer",)
    with pytest.raises(DriverError, match="joint roll: no answer"):
        robot.disconnect()
    assert ours.calls[-3:] == ["stop", "disarm", "close"]


def test_both_ways_are_the_identity() -> None:
    ours = Ours()
    driver = LeRobotDriver(AsLeRobot(ours), SPEC)
    driver.connect()
    driver.arm()
    q_rad = ours.q_rad + [0.01, -0.015, 0.03]
    sent = driver.write(Setpoint(q_rad, 0.3))
    np.testing.assert_allclose(sent.q_rad, q_rad, atol=1e-12)
    np.testing.assert_allclose(driver.read().q_rad, q_rad, atol=1e-12)
    assert driver.read().gripper == pytest.approx(0.3)
    assert driver.disarm() == ()
    assert ours.calls == ["connect", "arm", "stop", "disarm", "close"]

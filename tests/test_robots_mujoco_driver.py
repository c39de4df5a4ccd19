"""The driver of the simulated robot, against its loop in a thread, and once against a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from latent_mpc.envs.scene import build_model
from latent_mpc.robots import mujoco_driver
from latent_mpc.robots.mujoco_driver import MujocoDriver
from latent_mpc.robots.panda import panda
from latent_mpc.robots.robot import DriverError, Setpoint
from latent_mpc.robots.simulation_link import Link, Slots
from latent_mpc.robots.simulation_loop import Loop
from latent_mpc.robots.world import SimulationConfig, World
from latent_mpc.types import InvalidInputError

from .leaks import no_memory_left

SPEC = panda(Path(__file__).parents[1] / "envs/panda.xml")


class Robot:
    """A simulated robot in a thread, which can be halted."""

    def __init__(self, config: SimulationConfig) -> None:
        world = World(config)
        bare = Link(config, world.model.nq, world.model.nv)
        self.slots = Slots(bare)
        self.link = Link(config, bare.nq, bare.nv, self.slots.names)
        self.loop = Loop(world, self.slots, time.monotonic())
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.001):
            self.loop.tick(time.monotonic())

    def halt(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> SimulationConfig:
    scene = tmp_path_factory.mktemp("scene") / "scene.mjb"
    mujoco.mj_saveModel(build_model(0, 0.004), str(scene), None)
    return SimulationConfig(scene, SPEC)


@pytest.fixture
def robot(config) -> Iterator[Robot]:
    with no_memory_left():
        robot = Robot(config)
        yield robot
        robot.halt()
        robot.slots.close()


@pytest.fixture
def driver(robot) -> Iterator[MujocoDriver]:
    driver = MujocoDriver(robot.link)
    driver.connect()
    yield driver
    driver.close()


def wait_until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_states_advance_on_both_clocks(driver) -> None:
    first = driver.read()
    assert first.q_rad.shape == first.qd_rad_s.shape == first.torque_nm.shape == (7,)
    np.testing.assert_allclose(first.q_rad, SPEC.home_rad, atol=1e-6)
    assert time.monotonic() - 1 < first.receipt_time_s <= time.monotonic()
    wait_until(lambda: driver.read().sequence > first.sequence + 50)
    last = driver.read()
    assert last.hardware_time_s - first.hardware_time_s == pytest.approx(0.004 * (last.sequence - first.sequence))
    assert last.receipt_time_s > first.receipt_time_s


def test_an_armed_arm_follows_and_tells_what_was_sent(driver, robot) -> None:
    driver.arm()
    np.testing.assert_allclose(robot.loop.world.data.ctrl[:7], SPEC.home_rad, atol=1e-6)
    q = np.array(SPEC.home_rad)
    for k in range(100):
        q[0] = 0.002 * k
        assert driver.write(Setpoint(q, 0.5, 0.01 * k)).motion_s == 0.01 * k
        time.sleep(0.01)
    wait_until(lambda: abs(driver.read().q_rad[0] - q[0]) < 2e-3)
    assert robot.loop.world.check.counts.unarmed == 0
    assert robot.loop.world.motion_s == pytest.approx(0.99)
    sent = driver.write(Setpoint(q + 10, 7.0))
    assert sent.q_rad.tolist() == list(SPEC.q_high_rad)
    assert sent.gripper == 1.0


@pytest.mark.parametrize(
    "setpoint",
    [
        Setpoint(np.full(7, np.nan), 1.0),
        Setpoint(np.zeros(6), 1.0),
        Setpoint(np.zeros((1, 7)), 1.0),
        Setpoint(np.zeros(7), np.inf),
        Setpoint(np.zeros(7), 1.0, np.nan),
        Setpoint(np.array(["0"] * 7), 1.0),
        Setpoint(np.zeros(7, complex), 1.0),
        Setpoint(np.array([True] * 7), 1.0),
    ],
)
def test_nonsense_is_refused_and_never_sent(driver, robot, setpoint) -> None:
    driver.arm()
    before = robot.slots.command.read()
    with pytest.raises(InvalidInputError):
        driver.write(setpoint)
    assert robot.slots.command.read() == before


def test_order_of_calls(robot) -> None:
    driver = MujocoDriver(robot.link)
    q = np.array(SPEC.home_rad)
    for call in (driver.read, driver.arm, driver.stop, lambda: driver.write(Setpoint(q, 1.0))):
        with pytest.raises(DriverError, match="not connected"):
            call()
    failed = driver.disarm()
    assert len(failed) == 7
    assert all(name in text for name, text in zip(SPEC.joint_names, failed, strict=True))
    driver.connect()
    with pytest.raises(DriverError, match="connected already"):
        driver.connect()
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(q, 1.0))
    assert driver.disarm() == ()
    driver.arm()
    assert driver.disarm() == ()
    assert not robot.loop.world.powered
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(q, 1.0))
    driver.close()
    driver.close()
    assert len(driver.disarm()) == 7


def test_another_process_path_disarms_for_good(driver, robot) -> None:
    driver.arm()
    second = MujocoDriver(robot.link)
    second.connect()
    assert second.disarm() == ()
    second.close()
    assert not robot.loop.world.powered
    driver.write(Setpoint(np.array(SPEC.home_rad), 1.0))  # a controller that awakes late
    wait_until(lambda: robot.loop.world.check.counts.unarmed == 1)
    assert not robot.loop.world.powered
    driver.arm()
    assert robot.loop.world.powered


def test_stop_holds(driver, robot) -> None:
    driver.arm()
    q = np.array(SPEC.home_rad)
    for _ in range(30):
        q[0] += 0.005
        driver.write(Setpoint(q, 1.0))
        time.sleep(0.01)
    driver.stop()
    wait_until(lambda: np.abs(driver.read().qd_rad_s).max() < 1e-3)
    assert abs(driver.read().q_rad[0] - q[0]) < 0.05
    assert robot.loop.world.powered


def test_a_dead_robot_is_told_from_a_living_one(robot, driver, monkeypatch) -> None:
    monkeypatch.setattr(mujoco_driver, "ANSWER_S", 0.1)
    driver.arm()
    robot.halt()
    old = driver.read()
    assert driver.read().receipt_time_s == old.receipt_time_s
    assert [text.split(":")[0] for text in driver.disarm()] == list(SPEC.joint_names)
    with pytest.raises(DriverError, match="does not arm within"):
        driver.arm()
    with pytest.raises(DriverError, match="sends no state"):
        MujocoDriver(robot.link).connect()


def test_a_process_of_its_own(config) -> None:
    with no_memory_left():
        driver = MujocoDriver(config)
        driver.connect()
        try:
            assert driver.simulation is not None
            pid, link = driver.simulation.pid, driver.simulation.link
            driver.arm()
            sent = driver.write(Setpoint(np.array(SPEC.home_rad) + 0.001, 1.0, 3.0))
            wait_until(lambda: np.abs(driver.read().q_rad - sent.q_rad).max() < 5e-4)
            assert driver.disarm() == ()
        finally:
            driver.close()
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(DriverError, match="its owner is gone"):
            MujocoDriver(link).connect()
        with pytest.raises(DriverError, match="no_such_scene"):
            MujocoDriver(replace(config, scene=Path("no_such_scene.xml"))).connect()

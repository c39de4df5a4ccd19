"""The Franka driver against franky-sim, an arm behind libfranka's protocol in a process of its own.

The simulator is Python at 1 kHz and runs slower than real time on a busy machine, so that everything here waits for
the arm's own clock, and no bound in seconds says anything about the driver.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.panda import panda
from latent_mpc.robots.robot import DriverError, RobotState, Setpoint
from latent_mpc.types import InvalidInputError

pytest.importorskip("franky", reason="needs franky-control")
if importlib.util.find_spec("franky_sim") is None:
    pytest.skip("needs franky-sim", allow_module_level=True)
from latent_mpc.robots.franka import FrankaDriver

from .pacing import wait

SPEC = panda(Path(__file__).parents[1] / "envs" / "panda.xml")
addresses = (f"127.0.6.{n}" for n in itertools.count(1))


class Sim:
    def __init__(self) -> None:
        self.host = next(addresses)
        command = [sys.executable, "-u", "-m", "franky_sim.run_server", "-s", "mujoco", "--hostname", self.host]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("Press"):
                return
        raise RuntimeError("franky-sim did not start")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    sim = Sim()
    yield sim
    sim.close()


@pytest.fixture
def driver(sim: Sim) -> Iterator[FrankaDriver]:
    driver = FrankaDriver(sim.host, SPEC)
    driver.connect()
    yield driver
    driver.close()


def tick(driver: FrankaDriver) -> RobotState:
    """Wait for a period of control on the arm's clock: planning anew at every one of its milliseconds gets nowhere."""
    begin = driver.read().hardware_time_s
    wait(lambda: driver.read().hardware_time_s >= begin + 1 / driver.spec.control_hz)
    return driver.read()


def raises(call: Callable[[], object]) -> bool:
    try:
        call()
        return False
    except DriverError:
        return True


def test_follows_a_trajectory_stops_and_disarms(driver: FrankaDriver) -> None:
    first = driver.read()
    wait(lambda: driver.read().sequence > first.sequence)
    later = driver.read()
    assert later.hardware_time_s > first.hardware_time_s and later.receipt_time_s > first.receipt_time_s
    assert later.torque_nm is not None and later.torque_nm.shape == (7,) and later.fault == ""
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(first.q_rad, 0.5))

    driver.arm()
    goal = first.q_rad + np.array([0.08, -0.05, 0.05, 0.06, -0.05, 0.08, 0.05])
    for step in range(1, 41):
        share = 0.5 - 0.5 * math.cos(math.pi * step / 40)
        driver.write(Setpoint(first.q_rad + share * (goal - first.q_rad), 0.9))
        tick(driver)

    def there() -> bool:
        driver.write(Setpoint(goal, 0.9))
        state = tick(driver)
        assert state.fault == ""
        return bool(np.abs(state.q_rad - goal).max() < 0.02 and abs(state.gripper - 0.9) < 0.05)

    wait(there)
    while driver.read().qd_rad_s[0] > -0.1:
        driver.write(Setpoint(driver._q_sent - [0.005, 0, 0, 0, 0, 0, 0], 0.9))  # type: ignore[operator]
        tick(driver)
    driver.stop()
    stood = driver.read()  # its last joint's velocity chatters in the simulator, standing still
    wait(lambda: driver.read().hardware_time_s > stood.hardware_time_s + 0.1)
    np.testing.assert_allclose(driver.read().q_rad, stood.q_rad, atol=5e-3)
    assert np.abs(driver.read().qd_rad_s[:-1]).max() < 0.02
    assert driver.disarm() == ()
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(goal, 0.5))
    driver.arm()
    driver.write(Setpoint(driver.read().q_rad, 0.9))
    assert driver.disarm() == ()
    wait(lambda: not driver._robot.is_in_control)  # type: ignore[union-attr]


def test_nonsense_never_reaches_the_wire_and_wild_setpoints_move_one_tick(driver: FrankaDriver) -> None:
    driver.arm()
    armed = driver._q_sent
    for bad in ([math.nan] * 7, [math.inf] * 7, [0.0] * 6, ["a"] * 7):
        with pytest.raises(InvalidInputError):
            driver.write(Setpoint(np.array(bad), 0.5))
    with pytest.raises(InvalidInputError):
        driver.write(Setpoint(driver.read().q_rad, math.nan))
    assert driver._q_sent is armed
    before = driver.read().q_rad
    before = driver.write(Setpoint(before, 0.5)).q_rad
    for wild in (np.degrees(before), np.full(7, 1e9), np.full(7, -1e9)):
        sent = driver.write(Setpoint(wild, 0.5)).q_rad
        assert (np.abs(sent - before) <= np.array(SPEC.velocity_rad_s) / 100 * 1.001).all()
        before = sent


def test_a_spec_that_is_too_fast_is_refused(sim: Sim) -> None:
    fast = replace(SPEC, velocity_rad_s=(3.0,) * 7)
    driver = FrankaDriver(sim.host, fast)
    with pytest.raises(DriverError, match=r"joint1 turns at 2\.175"):
        driver.connect()
    with pytest.raises(DriverError, match="call connect"):
        driver.read()
    assert driver.disarm() == ()
    driver.close()


def test_nobody_there_is_said() -> None:
    with pytest.raises(DriverError, match="failed to connect"):
        FrankaDriver("127.0.6.250", SPEC).connect()


def test_an_arm_that_goes_silent_raises_and_nothing_hangs(sim: Sim) -> None:
    driver = FrankaDriver(sim.host, SPEC)
    driver.connect()
    driver.arm()
    driver.write(Setpoint(driver.read().q_rad, 0.5))
    for _ in range(5):
        tick(driver)
    os.kill(sim.process.pid, signal.SIGSTOP)
    time.sleep(0.1)
    frozen = driver.read()
    time.sleep(0.1)
    again = driver.read()
    assert again.hardware_time_s == frozen.hardware_time_s and again.receipt_time_s == frozen.receipt_time_s
    assert wait(lambda: raises(driver.read)) < 4.0
    begin = time.monotonic()
    assert raises(lambda: driver.write(Setpoint(frozen.q_rad, 0.5)))
    driver.disarm()
    driver.close()
    driver.close()
    assert time.monotonic() - begin < 5.0

"""The Trossen driver against the maker's simulator in a process of its own, over its TCP and UDP ports."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from latent_mpc.robots.robot import DriverError, Setpoint
from latent_mpc.robots.wxai import wxai
from latent_mpc.types import InvalidInputError

pytest.importorskip("trossen_arm", reason="needs trossen-arm")
if importlib.util.find_spec("trossen_arm_sim") is None:
    pytest.skip("needs trossen-arm-sim", allow_module_level=True)
from latent_mpc.robots.trossen import TrossenDriver

from .pacing import follow, wait

# the simulator, which faults at a line on standard input, and otherwise answers with its truth
SIMULATOR = """
import json, sys
from trossen_arm_sim.protocol import ErrorState
from trossen_arm_sim.server import TrossenArmSimServer
from trossen_arm_sim.sim import WidowXSim
sim = WidowXSim(); sim.start()
server = TrossenArmSimServer(sim, host=sys.argv[1]); server.start()
for line in sys.stdin:
    if line.strip() == "fault":
        server.fault(ErrorState.JOINT_OVERHEATED, "joint 2 is at 91 degrees")
    outputs = sim.read_joint_outputs()
    print(json.dumps({"q": [o.position for o in outputs], "qd": [o.velocity for o in outputs],
                      "modes": [int(m) for m in server.modes], "ctrl": list(sim.data.ctrl)}), flush=True)
"""
addresses = (f"127.0.5.{n}" for n in itertools.count(1))  # ports are fixed, so every simulator has its own


class Sim:
    def __init__(self) -> None:
        self.host = next(addresses)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SIMULATOR, self.host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask()

    def ask(self, line: str = "") -> dict[str, list[float]]:
        import json

        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def sim() -> Iterator[Sim]:
    sim = Sim()
    yield sim
    sim.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Sim]:
    sim = Sim()
    yield sim
    sim.close()


@pytest.fixture
def driver(shared: Sim) -> Iterator[TrossenDriver]:
    driver = TrossenDriver(shared.host)
    driver.connect()
    yield driver
    driver.close()


@pytest.mark.parametrize("seed", range(5))
def test_mjcf_has_the_kinematics_of_the_makers_model(seed: int) -> None:
    from trossen_arm_sim.sim import DEFAULT_SCENE, load_scene

    spec = wxai()
    q = np.random.default_rng(seed).uniform(spec.q_low_rad, spec.q_high_rad)
    tools = []
    for model, site in ((mujoco.MjModel.from_xml_path(str(spec.mjcf)), "tcp"), (load_scene(DEFAULT_SCENE), "ee_site")):
        data = mujoco.MjData(model)
        data.qpos[[model.joint(name).qposadr[0] for name in spec.joint_names]] = q
        mujoco.mj_kinematics(model, data)
        tools.append((data.site(site).xpos.copy(), data.site(site).xmat.reshape(3, 3).copy()))
    (position, R), (position_makers, R_makers) = tools
    np.testing.assert_allclose(position, position_makers, atol=1e-6)
    np.testing.assert_allclose(R[:, 2], R_makers[:, 0], atol=1e-6)  # z out of the hand is the maker's x
    np.testing.assert_allclose(R[:, 1], R_makers[:, 1], atol=1e-6)  # y along the fingers' travel in both


def test_home_points_down_clear_of_itself() -> None:
    spec = wxai()
    model = mujoco.MjModel.from_xml_path(str(spec.mjcf))
    data = mujoco.MjData(model)
    for q in (spec.home_rad, (0.0,) * 6):
        data.qpos[:6] = q
        mujoco.mj_forward(model, data)
        assert data.ncon == 0
        if q == spec.home_rad:
            np.testing.assert_allclose(data.site("tcp").xmat.reshape(3, 3)[:, 2], [0, 0, -1], atol=1e-4)
            assert data.site("tcp").xpos[0] > 0.2 and data.site("tcp").xpos[2] > 0.05


def test_follows_a_trajectory_stops_and_disarms(shared: Sim, driver: TrossenDriver) -> None:
    first = driver.read()
    wait(lambda: driver.read().sequence > first.sequence)
    later = driver.read()
    assert later.hardware_time_s > first.hardware_time_s and later.receipt_time_s > first.receipt_time_s
    assert later.torque_nm is not None and later.torque_nm.shape == (6,) and later.temperature_c is not None
    assert set(shared.ask()["modes"]) == {0}, "connecting stiffens nothing"
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(first.q_rad, 0.5))

    driver.arm()
    goal = np.array([0.3, 0.5, 0.4, -0.2, 0.2, 0.3])
    follow(driver, goal, 0.6, 1.0, settle=0.5)
    truth = shared.ask()
    np.testing.assert_allclose(truth["q"][:6], goal, atol=0.02)
    np.testing.assert_allclose(driver.read().q_rad, goal, atol=0.02)
    assert driver.read().gripper == pytest.approx(0.6, abs=0.03)
    assert truth["q"][6] == pytest.approx(0.6 * 0.044, abs=0.0015)

    for _ in range(30):
        driver.write(Setpoint(driver._sent.q_rad + [0.01, 0, 0, 0, 0, 0], 0.6))  # type: ignore[union-attr]
        time.sleep(0.01)
    assert shared.ask()["qd"][0] > 0.3
    driver.stop()
    assert wait(lambda: max(map(abs, shared.ask()["qd"])) < 0.01) < 1.5
    stood = shared.ask()["q"][0]
    assert stood > 0.4 and abs(driver.read().q_rad[0] - stood) < 0.01
    assert driver.disarm() == () and set(shared.ask()["modes"]) == {0}
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(goal, 0.5))


def test_nonsense_never_reaches_the_wire_and_wild_setpoints_move_one_tick(shared: Sim, driver: TrossenDriver) -> None:
    driver.arm()
    before = shared.ask()["ctrl"]
    for bad in ([math.nan] * 6, [math.inf] * 6, [0.0] * 7, ["a"] * 6):
        with pytest.raises(InvalidInputError):
            driver.write(Setpoint(np.array(bad), 0.5))
    with pytest.raises(InvalidInputError):
        driver.write(Setpoint(driver.read().q_rad, math.nan))
    np.testing.assert_allclose(shared.ask()["ctrl"], before, atol=2e-3)
    last = driver.read()
    for wild in (np.degrees(last.q_rad), np.full(6, 1e9), np.full(6, -1e9)):
        q_before = driver._sent.q_rad  # type: ignore[union-attr]
        sent = driver.write(Setpoint(wild, 1e9))
        assert np.abs(sent.q_rad - q_before).max() <= 3.14 / 100 * 1.001 and 0 <= sent.gripper <= 1
    driver.read()  # the controller has no complaint
    opening = driver.write(Setpoint(driver._sent.q_rad, 0.0)).gripper  # type: ignore[union-attr]
    for goal in (1.0, 0.0):
        sent = driver.write(Setpoint(driver._sent.q_rad, goal)).gripper  # type: ignore[union-attr]
        assert abs(sent - opening) * 0.044 * driver.spec.control_hz <= 0.2 + 1e-9
        opening = sent


def test_a_fault_of_the_controller_is_told_soon(shared: Sim, driver: TrossenDriver) -> None:
    driver.arm()
    shared.ask("fault")

    def told() -> bool:
        try:
            driver.read()
            return False
        except DriverError as error:
            assert driver.spec.name in str(error)
            return True

    assert wait(told) < 0.2
    with pytest.raises(DriverError):
        driver.write(Setpoint(np.zeros(6), 0.5))
    driver.disarm()


def test_a_frozen_controller_keeps_its_old_times_and_a_dead_one_raises(sim: Sim) -> None:
    driver = TrossenDriver(sim.host)
    driver.connect()
    driver.arm()
    os.kill(sim.process.pid, signal.SIGSTOP)
    time.sleep(0.05)
    frozen = driver.read()
    time.sleep(0.1)
    again = driver.read()
    assert again.hardware_time_s == frozen.hardware_time_s and again.receipt_time_s == frozen.receipt_time_s
    begin = time.monotonic()
    assert "idle mode" in driver.disarm()[0]
    assert time.monotonic() - begin < 5.0
    sim.process.kill()

    def dead() -> bool:
        try:
            driver.read()
            return False
        except DriverError:
            return True

    assert wait(dead) < 1.0
    driver.close()
    driver.close()


def test_what_is_not_connected_or_foreign(shared: Sim) -> None:
    driver = TrossenDriver("127.0.5.250", timeout_s=0.3)
    with pytest.raises(DriverError, match="failed to connect"):
        driver.connect()
    with pytest.raises(DriverError, match="call connect"):
        driver.read()
    assert driver.disarm() == ()
    driver.close()
    wide = replace(wxai(), q_low_rad=(-3.2, 0.0, 0.0, -1.5, -1.5, -3.1))
    with pytest.raises(DriverError, match="joint_0 ranges from"):
        TrossenDriver(shared.host, wide).connect()

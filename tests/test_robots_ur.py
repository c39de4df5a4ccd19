"""The UR driver against a fake controller in a process of its own, over the real protocols and ports."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
import pytest

from latent_mpc.robots.robot import DriverError, Setpoint
from latent_mpc.robots.ur5e import ur5e
from latent_mpc.types import InvalidInputError

pytest.importorskip("rtde_control", reason="needs ur_rtde")
from latent_mpc.robots import ur_dashboard as dashboard
from latent_mpc.robots.ur import URDriver

sys.path.insert(0, str(Path(__file__).parent))
import hostile

from .pacing import follow, wait

A = (0.0, -0.425, -0.3922, 0.0, 0.0, 0.0)
D = (0.1625, 0.0, 0.0, 0.1333, 0.0997, 0.0996)
ALPHA = (math.pi / 2, 0.0, 0.0, math.pi / 2, -math.pi / 2, 0.0)
TOOL_M = 0.15
addresses = (f"127.0.3.{n}" for n in itertools.count(1))  # ports are fixed, so every fake has its own


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ur() -> Iterator[Any]:
    with load("fake_ur").FakeUR(next(addresses)) as fake:
        yield fake


@pytest.fixture
def driver(ur: Any) -> Iterator[URDriver]:
    driver = URDriver(ur.host)
    driver.connect()
    yield driver
    driver.close()


def hold(driver: URDriver, seconds: float) -> None:
    end, q = time.monotonic() + seconds, driver.read().q_rad
    while time.monotonic() < end:
        driver.write(Setpoint(q, 1.0))
        time.sleep(0.01)


@pytest.mark.parametrize("seed", range(5))
def test_mjcf_is_the_published_table(seed: int) -> None:
    spec = ur5e()
    q = np.random.default_rng(seed).uniform(spec.q_low_rad, spec.q_high_rad)
    X = np.eye(4)
    for angle, a, d, alpha in zip(q, A, D, ALPHA, strict=True):
        c, s, ca, sa = math.cos(angle), math.sin(angle), math.cos(alpha), math.sin(alpha)
        X = X @ np.array([[c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [0, sa, ca, d], [0, 0, 0, 1]])
    model = mujoco.MjModel.from_xml_path(str(spec.mjcf))
    data = mujoco.MjData(model)
    data.qpos[[model.joint(name).qposadr[0] for name in spec.joint_names]] = q
    mujoco.mj_kinematics(model, data)
    tool = data.site(spec.tool_site)
    np.testing.assert_allclose(tool.xpos, X[:3, 3] + TOOL_M * X[:3, 2], atol=1e-9)
    np.testing.assert_allclose(tool.xmat.reshape(3, 3), X[:3, :3], atol=1e-9)


def test_home_points_down_clear_of_itself() -> None:
    spec = ur5e()
    model = mujoco.MjModel.from_xml_path(str(spec.mjcf))
    data = mujoco.MjData(model)
    data.qpos[:] = spec.home_rad
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
    np.testing.assert_allclose(data.site("tcp").xmat.reshape(3, 3)[:, 2], [0, 0, -1], atol=1e-9)
    assert data.site("tcp").xpos[0] > 0.3 and data.site("tcp").xpos[2] > 0.1
    np.testing.assert_allclose(model.jnt_range[:, 1], spec.q_high_rad, atol=1e-4)


def test_follows_a_trajectory_stops_and_disarms(ur: Any, driver: URDriver) -> None:
    first = driver.read()
    np.testing.assert_allclose(first.q_rad, ur._q, atol=1e-9)
    wait(lambda: driver.read().sequence > first.sequence)
    later = driver.read()
    assert later.hardware_time_s > first.hardware_time_s and later.receipt_time_s > first.receipt_time_s
    assert later.temperature_c is not None and later.torque_nm is None and later.fault == ""
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(first.q_rad, 0.5))

    driver.arm()
    goal = first.q_rad + np.array([0.3, -0.2, 0.1, -0.3, 0.2, 0.4])
    sent = follow(driver, goal, 1.0, 1.0).q_rad
    np.testing.assert_allclose(sent, goal, atol=1e-9)
    hold_at = driver.read().q_rad
    for _ in range(60):
        driver.write(Setpoint(goal, 0.5))
        time.sleep(0.01)
    truth = ur.ask("status")
    np.testing.assert_allclose(truth["q"], goal, atol=0.02)
    np.testing.assert_allclose(driver.read().q_rad, goal, atol=0.02)
    assert np.abs(hold_at - goal).max() > 1e-4  # it is followed, not copied
    assert truth["violations"] == [] and truth["max_jump"] < math.pi / 100 * 1.01
    assert truth["watchdog_stops"] == 0 and truth["writes"] == 160

    driver.stop()
    assert not ur.ask("status")["servoing"]
    assert driver.disarm() == ()
    assert ur.ask("status")["mode"] == 3, "torque stays on until the power is off"
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(goal, 0.5))
    driver.arm()  # powers on again
    follow(driver, goal - 0.05, 1.0, 0.3)
    assert ur.ask("status")["mode"] == 7


def test_a_package_that_arrives_while_reading_is_read_whole() -> None:
    stamps = itertools.chain([1.0, 2.0], itertools.repeat(2.0))
    rows = itertools.chain([[0.1] * 6], itertools.repeat([0.2] * 6))

    class Receive:
        def __getattr__(self, name: str) -> Callable[[], Any]:
            known = {"getTimestamp": lambda: next(stamps), "getActualQ": lambda: next(rows), "getSafetyMode": lambda: 1}
            return known.get(name, lambda: [0.0] * 6)

    driver = URDriver("127.0.3.250")
    driver._receive = Receive()
    state = driver.read()
    assert state.hardware_time_s == 2.0 and (state.q_rad == 0.2).all()


def test_stop_brakes_a_moving_arm(ur: Any, driver: URDriver) -> None:
    driver.arm()
    q = driver.read().q_rad
    for _ in range(30):
        q = q + np.array([0.02, 0, 0, 0, 0, 0])
        driver.write(Setpoint(q, 1.0))
        time.sleep(0.01)
    assert abs(ur.ask("status")["qd"][0]) > 0.5
    driver.stop()
    seconds = wait(lambda: not any(ur.ask("status")["qd"]))
    assert seconds < 0.5
    stood = ur.ask("status")["q"]
    time.sleep(0.3)
    assert ur.ask("status")["q"] == stood


def test_nonsense_never_reaches_the_wire_and_wild_setpoints_move_one_tick(ur: Any, driver: URDriver) -> None:
    driver.arm()
    for bad in ([math.nan] * 6, [math.inf] * 6, [0.0] * 5, [[0.0] * 6], ["a"] * 6):
        with pytest.raises(InvalidInputError):
            driver.write(Setpoint(np.array(bad), 0.5))
    with pytest.raises(InvalidInputError):
        driver.write(Setpoint(driver.read().q_rad, math.nan))
    assert ur.ask("status")["writes"] == 0
    before = driver.read().q_rad
    for wild in (np.degrees(before), np.full(6, 1e9), np.full(6, -1e9)):
        sent = driver.write(Setpoint(wild, 0.5)).q_rad
        assert np.abs(sent - before).max() <= math.pi / 100 * 1.001
        before = sent
    truth = ur.ask("status")
    assert truth["violations"] == [] and truth["max_jump"] < math.pi / 100 * 1.01


def test_watchdog_stops_the_program_when_writes_cease(ur: Any, driver: URDriver) -> None:
    driver.arm()
    time.sleep(0.4)  # it is the first write that starts it
    hold(driver, 0.1)
    assert ur.ask("status")["watchdog_stops"] == 0
    seconds = wait(lambda: ur.ask("status")["watchdog_stops"] == 1)
    assert seconds < 0.35
    wait(lambda: not driver._control.isProgramRunning())  # type: ignore[union-attr]
    with pytest.raises(DriverError, match="stopped the control program"):
        driver.write(Setpoint(driver.read().q_rad, 0.5))


def test_a_killed_process_stops_the_arm(ur: Any) -> None:
    code = f"""
import time, numpy as np
from latent_mpc.robots.ur import URDriver
from latent_mpc.robots.robot import Setpoint
driver = URDriver({ur.host!r}); driver.connect(); driver.arm(); q = driver.read().q_rad
while True: q = q + 0.005; driver.write(Setpoint(q, 0.5)); time.sleep(0.01)
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    wait(lambda: ur.ask("status")["qd"][0] > 0.2, 10)
    child.kill()
    child.wait()
    seconds = wait(lambda: ur.ask("status")["runtime"] == 1 and not any(ur.ask("status")["qd"]))
    assert seconds < 0.5
    assert URDriver(ur.host).disarm() == ()  # the second path: another process, never connected
    assert ur.ask("status")["mode"] == 3


def test_protective_stop_is_a_fault_with_a_name(ur: Any, driver: URDriver) -> None:
    driver.arm()
    hold(driver, 0.1)
    ur.ask("protective_stop")
    wait(lambda: "protective stop" in driver.read().fault)
    with pytest.raises(DriverError, match="protective stop"):
        for _ in range(20):
            driver.write(Setpoint(driver.read().q_rad, 0.5))
            time.sleep(0.01)
    with pytest.raises(DriverError, match="pendant"):
        driver.arm()
    ur.ask("unlock")
    wait(lambda: driver.read().fault == "")
    driver.arm()
    hold(driver, 0.1)


def test_a_frozen_stream_keeps_its_old_times_and_nothing_hangs(ur: Any, driver: URDriver) -> None:
    driver.arm()
    hold(driver, 0.1)
    ur.ask("freeze", on=True)
    time.sleep(0.1)  # what was under way
    frozen = driver.read()
    time.sleep(0.1)
    again = driver.read()
    assert driver._receive.isConnected()  # type: ignore[union-attr]  # so that is no measure
    assert (again.hardware_time_s, again.receipt_time_s, again.sequence) == (
        frozen.hardware_time_s,
        frozen.receipt_time_s,
        frozen.sequence,
    )
    begin = time.monotonic()
    with pytest.raises(DriverError, match="silent"):
        driver.stop()
    assert driver.disarm() == ()  # by the dashboard, which is not frozen
    assert time.monotonic() - begin < 2.0
    assert ur.ask("status")["mode"] == 3
    driver.close()
    assert time.monotonic() - begin < 5.0


def test_a_hung_controller_bounds_every_call(ur: Any) -> None:
    driver = URDriver(ur.host, timeout_s=0.5)
    driver.connect()
    driver.arm()
    hold(driver, 0.1)
    os.kill(ur.process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(DriverError, match="silent"):
        driver.stop()
    failed = driver.disarm()
    assert len(failed) >= 1 and all(name in failed[0] for name in driver.spec.joint_names)
    driver.close()
    driver.close()
    with pytest.raises(DriverError, match="failed to connect to its dashboard server"):
        driver.connect()
    assert time.monotonic() - begin < 6.0
    os.kill(ur.process.pid, signal.SIGCONT)
    wait(lambda: ur.ask("status")["runtime"] == 1)


class Sender:
    """Says `greeting`, then `data` after whatever it hears, at `host` and `port`; a thread each connection."""

    def __init__(self, host: str, port: int, greeting: bytes, data: Iterable[bytes]) -> None:
        self._greeting, self._data = greeting, data
        self._listener = socket.create_server((host, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            peer.sendall(self._greeting)
            while peer.recv(1000):
                for data in self._data:
                    peer.sendall(data)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


class Drip:
    """Bytes, one at a time, for ever."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            time.sleep(0.02)
            yield b"x"


ENDLESS = [bytes(1 << 20)] * 1024  # 1 GB without an end of line


@pytest.mark.parametrize(
    ("data", "what"),
    [(ENDLESS, "more than 4096 bytes"), (Drip(), "timed out"), ([], "timed out")],
    ids=["1 GB", "drop by drop", "nothing"],
)
def test_a_dashboard_that_never_ends_its_line_is_given_up(tmp_path: Path, data: Iterable[bytes], what: str) -> None:
    host, began_s = next(addresses), time.monotonic()
    with Sender(host, dashboard.PORT, b"hello\n", data), hostile.unharmed(tmp_path):
        with pytest.raises(OSError, match=what):
            dashboard.ask(host, "robotmode", timeout_s=0.3)
        driver = URDriver(host, timeout_s=0.3)
        assert "j" in driver.disarm()[0]
        driver.close()
        with pytest.raises(DriverError, match="dashboard server"):
            driver.connect()
    assert time.monotonic() - began_s < 5.0


def test_an_answer_of_other_bytes_is_an_answer(tmp_path: Path) -> None:
    with hostile.unharmed(tmp_path) as pickled:
        for data in (pickled.replace(b"\n", b" "), hostile.GARBAGE[:500].replace(b"\n", b" ")):
            host = next(addresses)
            with Sender(host, dashboard.PORT, b"hello\n", [data + b"\n"]):
                assert dashboard.power_off(host, 1.0).startswith("did not power off")


@pytest.mark.parametrize(
    "what", ["a pickle", "garbage", "64 kB announced", "half a package", "drop by drop", "nothing"]
)
def test_what_is_no_rtde_never_gets_to_the_library(tmp_path: Path, what: str) -> None:
    host, began_s = next(addresses), time.monotonic()
    with hostile.unharmed(tmp_path) as pickled:
        some = {"a pickle": [pickled], "garbage": [hostile.GARBAGE], "64 kB announced": [b"\xff\xffV\x01"]}
        some |= {"half a package": [b"\x00\x04V"], "drop by drop": [b"\x00", b"\x04"], "nothing": []}
        with Sender(host, dashboard.PORT, b"hello\n", [b"?\n"]), Sender(host, 30004, b"", some[what]):
            driver = URDriver(host, timeout_s=0.3)
            with pytest.raises(DriverError, match="does not speak RTDE"):
                driver.connect()
            driver.close()
    assert time.monotonic() - began_s < 3.0


def test_a_dead_controller_is_noticed(ur: Any, driver: URDriver) -> None:
    driver.arm()
    hold(driver, 0.1)
    ur.process.kill()

    def gone() -> bool:
        try:
            driver.read()
            return False
        except DriverError as error:
            return "closed the connection" in str(error)

    assert wait(gone) < 1.0
    assert len(driver.disarm()) >= 1


def test_local_control_says_so(ur: Any, driver: URDriver) -> None:
    assert driver.disarm() == ()
    ur.ask("remote", on=False)
    with pytest.raises(DriverError, match=r"refused to power on.*local control"):
        driver.arm()


def test_disarm_without_power_off_stops_the_program(ur: Any) -> None:
    driver = URDriver(ur.host, power_off=False)
    driver.connect()
    driver.arm()
    hold(driver, 0.1)
    assert driver.disarm() == ()
    truth = ur.ask("status")
    assert truth["runtime"] == 1 and truth["mode"] == 7
    driver.close()


def test_what_is_not_connected_or_foreign() -> None:
    driver = URDriver("127.0.3.250", timeout_s=0.3)
    with pytest.raises(DriverError, match="failed to connect to its dashboard server"):
        driver.connect()
    with pytest.raises(DriverError, match="call connect"):
        driver.read()
    with pytest.raises(DriverError):
        driver.arm()
    driver.stop()
    assert "failed to end the program" in driver.disarm()[0]
    driver.close()


def test_another_model_is_refused(ur: Any) -> None:
    from dataclasses import replace

    driver = URDriver(ur.host, replace(ur5e(), name="ur10e"))
    with pytest.raises(DriverError, match="is a ur5e"):
        driver.connect()


@pytest.fixture
def handed(ur: Any) -> Iterator[URDriver]:
    driver = URDriver(ur.host, robotiq=True)
    yield driver
    driver.close()


def test_a_robotiq_gripper_goes_where_it_is_told_and_holds_without_torque(ur: Any, handed: URDriver) -> None:
    handed.connect()
    assert handed.read().gripper == 1.0
    handed.arm()
    q = handed.read().q_rad
    sent = follow(handed, q, 0.4, 0.5)
    assert sent.gripper == pytest.approx(0.4)
    wait(lambda: abs(handed.read().gripper - 0.4) < 0.005)
    assert ur.ask("status")["gripper"] == pytest.approx(0.6 * 255, abs=1)
    assert handed.disarm() == ()
    assert ur.ask("status")["gripper"] == pytest.approx(0.6 * 255, abs=1)


def test_a_gripper_that_is_not_activated_is_told_and_everything_is_closed(ur: Any, handed: URDriver) -> None:
    ur.ask("gripper_state", value=0)
    with pytest.raises(DriverError, match="not activated, STA 0; activate it at the pendant"):
        handed.connect()
    assert not [t for t in threading.enumerate() if t.name == "robotiq"]
    ur.ask("gripper_state", value=3)
    handed.connect()  # nothing of the first attempt is in the way


def test_a_gripper_that_goes_away_is_told_by_the_next_readings(ur: Any, handed: URDriver) -> None:
    handed.connect()
    assert handed._gripper is not None
    handed._gripper._socket.shutdown(socket.SHUT_RDWR)

    def told() -> bool:
        try:
            handed.read()
        except DriverError as error:
            return "Robotiq gripper" in str(error) and "failed" in str(error)
        return False

    assert wait(told) < 2.0


@pytest.mark.parametrize("answer", [b"POS 300\n", b"POS -1\n", b"POS\n", b"ack\n", b"x" * 200, b"\xff\n", b""])
def test_nonsense_of_a_gripper_is_refused(answer: bytes) -> None:
    from latent_mpc.robots import robotiq

    with socket.create_server(("127.0.3.254", robotiq.PORT)) as server:

        def serve() -> None:
            with server.accept()[0] as peer:
                for said in (b"STA 3\n", answer):
                    peer.recv(64)
                    peer.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(DriverError, match="answers nonsense"):
            robotiq.Robotiq("127.0.3.254").connect()
        thread.join(5)

"""The rosbridge driver against a websocket server that speaks rosbridge's JSON and moves an arm."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_mpc.robots.robot import DriverError, RobotSpec, Setpoint
from latent_mpc.types import InvalidInputError

pytest.importorskip("roslibpy", reason="needs roslibpy")
pytest.importorskip("websockets", reason="needs websockets")
from websockets.sync.server import serve

from latent_mpc.robots.rosbridge import TRAJECTORY, RosbridgeDriver

sys.path.insert(0, str(Path(__file__).parent))
import hostile

from .pacing import wait

SPEC = RobotSpec(
    name="toy",
    joint_names=("pan", "lift", "roll"),
    q_low_rad=(-2.0, -2.0, -3.0),
    q_high_rad=(2.0, 2.0, 3.0),
    velocity_rad_s=(2.0, 2.0, 4.0),
    acceleration_rad_s2=(5.0,) * 3,
    jerk_rad_s3=(50.0,) * 3,
    torque_nm=(3.0,) * 3,
    home_rad=(0.0, 1.0, 0.0),
    gripper_width_m=0.08,
    mjcf=Path("toy.xml"),
)
ORDER = ("roll", "finger", "pan", "lift")  # of JointState: not the spec's


class Arm:
    """Goes to the last point of the last trajectory in its time, linearly, and publishes at 100 Hz."""

    def __init__(self) -> None:
        self.q, self.goal, self.left_s = dict.fromkeys(ORDER, 0.1), dict.fromkeys(ORDER, 0.1), 0.0
        self.messages, self.services, self.empty = list[dict[str, Any]](), list[str](), 0
        self.frozen, self.garbage, self.refuse = False, None, False
        self.begin = time.monotonic()
        self.server = serve(self.serve, "127.0.0.1", 0)
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.clients = list[Any]()

    def serve(self, client: Any) -> None:
        self.clients.append(client)
        topics = set[str]()
        threading.Thread(target=self.publish, args=(client, topics), daemon=True).start()
        for text in client:
            message = json.loads(text)
            if message["op"] == "subscribe":
                topics.add(message["topic"])
            elif message["op"] == "publish":
                self.receive(message["topic"], message["msg"])
            elif message["op"] == "call_service":
                self.services.append(message["service"])
                values = {"success": not self.refuse, "message": "the door is open" if self.refuse else ""}
                answer = {"op": "service_response", "id": message["id"], "service": message["service"]}
                client.send(json.dumps({**answer, "values": values, "result": True}))

    def receive(self, topic: str, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if topic == TRAJECTORY and message["points"]:
            assert len(message["points"]) == 1 and "nsecs" not in message["points"][0]["time_from_start"]
            point = message["points"][0]
            after = point["time_from_start"]
            self.goal |= dict(zip(message["joint_names"], point["positions"], strict=True))
            self.left_s = after["sec"] + after["nanosec"] * 1e-9
        elif topic == TRAJECTORY:
            self.empty, self.goal = self.empty + 1, dict(self.q)
        else:
            self.goal["finger"] = message["data"][0]

    def publish(self, client: Any, topics: set[str]) -> None:
        try:
            while True:
                time.sleep(0.01)
                share = min(1.0, 0.01 / max(self.left_s, 0.01))
                velocity = {name: (self.goal[name] - self.q[name]) * share / 0.01 for name in ORDER}
                self.q = {name: self.q[name] + velocity[name] * 0.01 for name in ORDER}
                self.left_s = max(0.0, self.left_s - 0.01)
                if "/joint_states" in topics and not self.frozen:
                    seconds = time.monotonic() - self.begin
                    stamp = {"sec": int(seconds), "nanosec": int(seconds % 1 * 1e9)}
                    message = {"header": {"stamp": stamp}, "name": list(ORDER), "effort": []}
                    message |= {"position": list(self.q.values()), "velocity": list(velocity.values())}
                    message |= self.garbage or {}
                    client.send(json.dumps({"op": "publish", "topic": "/joint_states", "msg": message}))
        except Exception:
            return

    def drop(self) -> None:
        for client in self.clients:
            client.close()

    def close(self) -> None:
        self.drop()
        self.server.shutdown()


@pytest.fixture
def arm() -> Iterator[Arm]:
    arm = Arm()
    yield arm
    arm.close()


@pytest.fixture
def driver(arm: Arm) -> Iterator[RosbridgeDriver]:
    driver = made(arm)
    driver.connect()
    yield driver
    driver.close()


def made(arm: Arm, **options: Any) -> RosbridgeDriver:
    gripper = {"gripper_topic": "/gripper/commands", "gripper_joint": "finger"}
    return RosbridgeDriver(SPEC, port=arm.port, **{**gripper, "disarm_service": "/torque_off", **options})


def raises(call: Callable[[], object], match: str) -> bool:
    try:
        call()
        return False
    except DriverError as error:
        return match in str(error)


def test_follows_a_trajectory_stops_and_disarms(arm: Arm, driver: RosbridgeDriver) -> None:
    first = driver.read()
    np.testing.assert_allclose(first.q_rad, 0.1)
    assert first.gripper == 1.0 and first.torque_nm is None  # 0.1 m is more than open
    wait(lambda: driver.read().sequence > first.sequence + 3)
    later = driver.read()
    assert later.hardware_time_s > first.hardware_time_s and later.receipt_time_s > first.receipt_time_s
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(first.q_rad, 0.5))
    assert arm.messages == []

    driver.arm()
    goal = first.q_rad + np.array([0.3, -0.2, 0.5])
    for tick in range(1, 61):
        share = 0.5 - 0.5 * math.cos(math.pi * tick / 60)
        sent = driver.write(Setpoint(first.q_rad + share * (goal - first.q_rad), 0.25))
        assert sent.gripper == 0.25
        time.sleep(0.01)
    wait(lambda: bool(np.abs(driver.read().q_rad - goal).max() < 1e-6))
    np.testing.assert_allclose([arm.q[name] for name in SPEC.joint_names], goal, atol=1e-6)
    assert driver.read().gripper == pytest.approx(0.25, abs=1e-3) and arm.q["finger"] == pytest.approx(0.02)

    for _ in range(30):
        driver.write(Setpoint(driver._sent.q_rad + [0.01, 0, 0], 0.25))  # type: ignore[union-attr]
        time.sleep(0.01)
    driver.stop()
    wait(lambda: not arm.left_s and np.abs(driver.read().qd_rad_s).max() < 1e-6)
    stood = driver.read().q_rad
    assert 0.4 < stood[0] < 1.0
    assert driver.disarm() == ()
    assert wait(lambda: arm.empty == 1) < 2 and arm.services == ["/torque_off"]
    with pytest.raises(DriverError, match="not armed"):
        driver.write(Setpoint(goal, 0.5))


@pytest.mark.parametrize("effort", [[], [math.nan] * 4, [1.0, 9.0, 2.0, 3.0]])
def test_torque_is_a_capability_where_ros_sends_efforts(arm: Arm, effort: list[float]) -> None:
    arm.garbage = {"effort": effort}
    driver = made(arm)
    assert not driver.capabilities.torque
    driver.connect()
    assert driver.capabilities.torque == (driver.read().torque_nm is not None) == (effort[:1] == [1.0])
    assert driver.capabilities.hardware_clock
    driver.close()


def test_nonsense_never_reaches_the_wire_and_wild_setpoints_move_one_tick(arm: Arm, driver: RosbridgeDriver) -> None:
    driver.arm()
    for bad in ([math.nan] * 3, [math.inf] * 3, [0.0] * 4, ["a"] * 3):
        with pytest.raises(InvalidInputError):
            driver.write(Setpoint(np.array(bad), 0.5))
    with pytest.raises(InvalidInputError):
        driver.write(Setpoint(np.zeros(3), math.nan))
    before = driver.read().q_rad
    for wild in (np.degrees(before), np.full(3, 1e9), np.full(3, -1e9)):
        sent = driver.write(Setpoint(wild, 0.5)).q_rad
        assert (np.abs(sent - before) <= np.array(SPEC.velocity_rad_s) / 100 * 1.001).all()
        before = sent
    wait(lambda: len([m for m in arm.messages if "points" in m]) == 3)
    assert all(np.abs(m["points"][0]["positions"]).max() < 0.3 for m in arm.messages if "points" in m)


def test_a_frozen_stream_keeps_its_old_times(arm: Arm, driver: RosbridgeDriver) -> None:
    arm.frozen = True
    time.sleep(0.1)
    frozen = driver.read()
    time.sleep(0.2)
    again = driver.read()
    assert driver._ros.is_connected  # type: ignore[union-attr]  # so that is no measure
    assert again.hardware_time_s == frozen.hardware_time_s and again.receipt_time_s == frozen.receipt_time_s
    arm.frozen, arm.garbage = False, {"header": {"stamp": {"sec": 7, "nanosec": 0}}}
    wait(lambda: driver.read().hardware_time_s == 7.0)
    repeated = driver.read()
    time.sleep(0.1)
    assert driver.read().receipt_time_s == repeated.receipt_time_s, "the same stamp is the same reading"


def test_a_lost_connection_raises_and_stays_lost(arm: Arm, driver: RosbridgeDriver) -> None:
    driver.arm()
    arm.drop()
    assert wait(lambda: raises(driver.read, "closed the connection")) < 1.0
    with pytest.raises(DriverError, match="closed the connection"):
        driver.write(Setpoint(np.zeros(3), 0.5))
    (failed,) = driver.disarm()
    assert "pan, lift, roll" in failed and "closed" in failed
    clients = len(arm.clients)
    time.sleep(1.5)  # roslibpy would be back after a second
    assert len(arm.clients) == clients
    driver.close()
    driver.connect()
    driver.read()


@pytest.mark.parametrize(
    "garbage",
    [{"position": [math.nan] * 4}, {"position": [1.0]}, {"position": "abcd"}, {"name": 3}, {"header": {}}],
)
def test_a_state_that_cannot_be_read_is_told(arm: Arm, driver: RosbridgeDriver, garbage: dict[str, Any]) -> None:
    arm.garbage = garbage
    wait(lambda: raises(driver.read, "cannot be read"))
    arm.garbage = None
    wait(lambda: not raises(driver.read, "cannot be read"))


def test_what_ros_has_no_value_for_may_be_nan(arm: Arm, driver: RosbridgeDriver) -> None:
    arm.garbage = {"velocity": [math.nan] * 4, "effort": [math.nan] * 4}
    time.sleep(0.1)
    state = driver.read()
    assert not state.qd_rad_s.any() and state.torque_nm is None
    arm.garbage = {"effort": [1.0, 9.0, 2.0, 3.0]}
    wait(lambda: driver.read().torque_nm is not None)
    np.testing.assert_allclose(driver.read().torque_nm, [2.0, 3.0, 1.0])  # type: ignore[arg-type]


def test_a_huge_message_ends_the_connection(arm: Arm, driver: RosbridgeDriver) -> None:
    arm.garbage = {"frame": "x" * (2 << 20)}
    wait(lambda: raises(driver.read, "closed the connection"))


def text_frame(data: bytes) -> bytes:
    return b"\x81\x7f" + len(data).to_bytes(8, "big") + data


CLOSING = {
    "a pickle": lambda pickled: b"\x82" + bytes([len(pickled)]) + pickled,
    "a pickle as text": lambda pickled: text_frame(pickled + bytes(70_000)),
    "garbage": lambda _: hostile.GARBAGE,
    "1 GB announced": lambda _: hostile.frame_header(hostile.GIB, masked=False) + bytes(1000),
}
PASSED_OVER = {
    "deep nesting": hostile.NESTED,
    "no object": b"[1, 2]",
    "no operation": b'{"op": 5}',
    "a number without end": b'{"op": "publish", "topic": "/joint_states", "msg": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("what", CLOSING)
def test_what_is_no_message_ends_the_connection(arm: Arm, driver: RosbridgeDriver, tmp_path: Path, what: str) -> None:
    with hostile.unharmed(tmp_path) as pickled:
        arm.clients[-1].socket.sendall(CLOSING[what](pickled))
        wait(lambda: raises(driver.read, "closed the connection"))
        driver.close()
    driver.connect()
    driver.read()


@pytest.mark.parametrize("what", PASSED_OVER)
def test_a_message_of_nonsense_is_passed_over(arm: Arm, driver: RosbridgeDriver, tmp_path: Path, what: str) -> None:
    with hostile.unharmed(tmp_path):
        arm.clients[-1].send(PASSED_OVER[what].decode())
        before = driver.read().sequence
        wait(lambda: driver.read().sequence > before + 20)


def test_half_a_message_is_a_stream_that_stands(arm: Arm, driver: RosbridgeDriver) -> None:
    arm.frozen = True
    time.sleep(0.1)
    arm.clients[-1].socket.sendall(text_frame(b'{"op": "publish"' + b" " * 70_000)[:50])
    last = driver.read()
    wait(lambda: time.monotonic() - driver.read().receipt_time_s > 0.3)
    assert driver.read() is last


def test_what_is_quoted_of_a_long_message_is_cut(arm: Arm, driver: RosbridgeDriver) -> None:
    arm.garbage = {"position": "x" * 500_000}
    wait(lambda: raises(driver.read, "cannot be read"))
    with pytest.raises(DriverError) as told:
        driver.read()
    assert len(str(told.value)) < 500


def test_services_are_asked_and_their_refusal_told(arm: Arm) -> None:
    driver = made(arm, arm_service="/torque_on")
    driver.connect()
    arm.refuse = True
    with pytest.raises(DriverError, match="refused /torque_on: the door is open"):
        driver.arm()
    arm.refuse = False
    driver.arm()
    arm.refuse = True
    assert "refused /torque_off" in driver.disarm()[0]
    driver.close()


def test_torque_that_stays_on_is_told(arm: Arm) -> None:
    driver = made(arm, disarm_service="")
    assert driver.disarm() == ()
    driver.connect()
    driver.arm()
    (failed,) = driver.disarm()
    assert "disarm_service" in failed and "pan, lift, roll" in failed
    driver.close()
    driver.close()


def test_nobody_there_and_foreign_joints(arm: Arm) -> None:
    driver = RosbridgeDriver(SPEC, port=1, timeout_s=0.3)
    with pytest.raises(DriverError, match="failed to connect"):
        driver.connect()
    with pytest.raises(DriverError, match="call connect"):
        driver.read()
    arm.garbage = {"name": ["roll", "finger", "yaw", "lift"]}
    driver = made(arm, timeout_s=0.5)
    with pytest.raises(DriverError, match=r"has no joints \['pan'\]"):
        driver.connect()
    arm.frozen = True
    with pytest.raises(DriverError, match="sends nothing on /joint_states"):
        driver.connect()

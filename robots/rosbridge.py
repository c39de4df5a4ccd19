"""Any arm behind ROS, by rosbridge's JSON over a websocket and roslibpy.

    /joint_trajectory_controller/joint_trajectory   trajectory_msgs/JointTrajectory, one point, 1 / control_hz ahead
    /joint_states                                   sensor_msgs/JointState, joints by name, in any order
    gripper: std_msgs/Float64MultiArray, metres of width, where a topic is given; read from its joint of /joint_states

Freshness is judged by the stamp in the header of JointState, on ROS's clock, since an open websocket may carry nothing.
A trajectory of one point ends in itself, so that the controller of ROS holds there when setpoints cease. ROS has no
common way to take the torque off: `disarm` sends an empty trajectory, which stops the controller, and then calls
`disarm_service`, a std_srvs/Trigger, if there is one; without one the arm stays held, and disarming says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import roslibpy

from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.setpoints import limited, rest
from latent_mpc.types import LatentMPCError

T = TypeVar("T")
MAX_BYTES = 1 << 20  # of a message
LONGEST = 300  # letters of a complaint that quotes one
TRAJECTORY = "/joint_trajectory_controller/joint_trajectory"


class RosbridgeDriver:
    """An arm with a JointTrajectory controller.

    Attributes:
        host, port: of rosbridge.
        capabilities: torque from `connect` on, if the first JointState has efforts.
    """

    def __init__(
        self,
        spec: RobotSpec,
        host: str = "127.0.0.1",
        port: int = 9090,
        *,
        trajectory_topic: str = TRAJECTORY,
        state_topic: str = "/joint_states",
        gripper_topic: str = "",
        gripper_joint: str = "",
        gripper_joint_m: float | None = None,
        ros: Literal[1, 2] = 2,
        arm_service: str = "",
        disarm_service: str = "",
        timeout_s: float = 2.0,
    ) -> None:
        """
        Args:
            spec: its joint names are those of JointState.
            gripper_topic: of the gripper's position controller; "" when there is none, and the opening reads 1.
            gripper_joint: of JointState, and `gripper_joint_m` its position at opening 1; the spec's width by default.
            ros: its version, which names the fields of a duration.
            arm_service, disarm_service: std_srvs/Trigger, called by `arm` and `disarm`; "" when there is none.
            timeout_s: to connect, and for each service.
        """
        self.spec, self.host, self.port = spec, host, port
        self.capabilities = Capabilities(hardware_clock=True)
        self._topics = trajectory_topic, state_topic, gripper_topic
        self._gripper_joint, self._gripper_joint_m = gripper_joint, gripper_joint_m or spec.gripper_width_m
        self._services, self._timeout_s = (arm_service, disarm_service), timeout_s
        self._duration = {1: ("secs", "nsecs"), 2: ("sec", "nanosec")}[ros]
        self._ros: roslibpy.Ros | None = None
        self._lock, self._arrived = threading.Lock(), threading.Event()
        self._state: RobotState | None = None
        self._complaint = ""
        self._gripper: roslibpy.Topic | None = None
        self._sent: Setpoint | None = None  # not None while armed

    def connect(self) -> None:
        """See Driver.connect. Raises DriverError: unreachable, no state of these joints, or connected already."""
        if self._ros is not None:
            raise self._error("is connected already; close it first")
        self._state, self._complaint = None, ""
        self._arrived.clear()
        ros = roslibpy.Ros(self.host, self.port, transport="asyncio")
        ros.factory.maxRetries = 0  # a connection that was lost stays lost, and so do the setpoints
        ros.factory.setProtocolOptions(maxMessagePayloadSize=MAX_BYTES)
        self._ros = ros
        try:
            self._call("connect", lambda: ros.run(self._timeout_s))
            trajectory, state, gripper = self._topics
            self._states = roslibpy.Topic(ros, state, "sensor_msgs/JointState", queue_length=1)
            self._trajectory = roslibpy.Topic(ros, trajectory, "trajectory_msgs/JointTrajectory", queue_length=1)
            self._gripper = roslibpy.Topic(ros, gripper, "std_msgs/Float64MultiArray") if gripper else None
            self._trajectory.advertise()
            self._states.subscribe(lambda message: self._received(ros, message))
            if not self._arrived.wait(self._timeout_s):
                raise self._error(self._complaint or f"sends nothing on {state}")
            self.capabilities = Capabilities(hardware_clock=True, torque=self.read().torque_nm is not None)
        except BaseException:
            self.close()
            raise

    def arm(self) -> None:
        """Call `arm_service` if there is one; the first setpoint starts from the measured position. DriverError."""
        state = self.read()
        if self._services[0]:
            self._trigger(self._services[0])
        self._sent = Setpoint(state.q_rad, state.gripper)

    def read(self) -> RobotState:
        """See Driver.read; times are ROS's, torques JointState's efforts where there are any. Raises DriverError."""
        self._connected()
        with self._lock:
            if self._complaint:
                raise self._error(self._complaint)
            assert self._state is not None
            return self._state

    def write(self, setpoint: Setpoint) -> Setpoint:
        """See Driver.write. Raises DriverError, InvalidInputError."""
        self._connected()
        if (last := self._sent) is None:
            raise self._error("is not armed; call arm() before write()")
        sent = limited(self.spec, setpoint, last.q_rad)
        self._publish([sent.q_rad], 1 / self.spec.control_hz)
        if (gripper := self._gripper) is None:
            sent = replace(sent, gripper=1.0)
        elif sent.gripper != last.gripper:
            message = roslibpy.Message({"data": [sent.gripper * self.spec.gripper_width_m]})
            self._call("write", lambda: gripper.publish(message))
        self._sent = sent
        return sent

    def stop(self) -> None:
        """To rest where the limits of acceleration allow it. Raises DriverError."""
        self._connected()
        if self._sent is None:
            return
        state = self.read()
        seconds = max(0.05, float(np.max(np.abs(state.qd_rad_s) / self.spec.acceleration_rad_s2)))
        q_rad = rest(self.spec, state, seconds)
        self._publish([q_rad], seconds)
        self._sent = replace(self._sent, q_rad=q_rad)

    def disarm(self) -> tuple[str, ...]:
        """Empty trajectory and `disarm_service`; never raises. Returns what failed, or that the torque stays on."""
        armed, self._sent = self._sent is not None, None
        if self._ros is None:
            return ()
        try:
            self._publish([], 0.0)
            if self._services[1]:
                self._trigger(self._services[1])
                return ()
            reason = f"{self.spec.name}: ROS holds the arm; name a disarm_service to take the torque off"
        except Exception as error:
            reason, armed = str(error), True
        return (f"joints {', '.join(self.spec.joint_names)}: {reason}",) if armed else ()

    def close(self) -> None:
        """Close the websocket; never raises, may be called twice."""
        ros, self._ros, self._sent = self._ros, None, None
        if ros is not None:
            try:
                self._call("close", lambda: ros.close(self._timeout_s))
            except DriverError:
                return

    # ---- parts ----

    def _error(self, complaint: str) -> DriverError:
        return DriverError(f"{self.spec.name} by rosbridge at {self.host}:{self.port} {complaint}")

    def _connected(self) -> roslibpy.Ros:
        if self._ros is None:
            raise self._error("is not connected; call connect() first")
        if not self._ros.is_connected:
            raise self._error("has closed the connection")
        return self._ros

    def _received(self, ros: roslibpy.Ros, message: Mapping[str, Any]) -> None:
        """A JointState, in roslibpy's thread; one of other joints, the gripper's alone say, is passed over."""
        now = time.monotonic()
        if ros is not self._ros:  # of a connection that was closed
            return
        try:
            names = list(message["name"])
            if missing := [name for name in self.spec.joint_names if name not in names]:
                if self._state is None:
                    self._complaint_now(f"has no joints {missing}, only {names}")
                return
            stamp = message["header"]["stamp"]
            seconds = stamp.get("sec", stamp.get("secs", 0)) + stamp.get("nanosec", stamp.get("nsecs", 0)) * 1e-9
            order = [names.index(name) for name in self.spec.joint_names]
            q_rad, qd_rad_s, effort = (_ordered(message.get(key), order) for key in ("position", "velocity", "effort"))
            if q_rad is None:
                raise ValueError(f"positions {message.get('position')}")
            gripper = 1.0
            if self._gripper_joint in names:
                width = float(message["position"][names.index(self._gripper_joint)])
                gripper = float(np.clip(width / self._gripper_joint_m, 0, 1))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            return self._complaint_now(f"sends a JointState that cannot be read: {error!r}")
        with self._lock:
            last, self._complaint = self._state, ""
            if last is not None and last.hardware_time_s == seconds:
                return
            self._state = RobotState(
                q_rad=q_rad,
                qd_rad_s=qd_rad_s if qd_rad_s is not None else np.zeros_like(q_rad),
                gripper=gripper,
                hardware_time_s=seconds,
                receipt_time_s=now,
                sequence=0 if last is None else last.sequence + 1,
                torque_nm=effort,
            )
        self._arrived.set()

    def _complaint_now(self, complaint: str) -> None:
        with self._lock:
            self._complaint = complaint[:LONGEST]

    def _publish(self, points: list[Array], seconds: float) -> None:
        self._connected()
        after = dict(zip(self._duration, divmod(round(seconds * 1e9), 10**9), strict=True))
        message = {
            "header": {"frame_id": ""},  # no stamp: now
            "joint_names": list(self.spec.joint_names) if points else [],
            "points": [{"positions": q_rad.tolist(), "time_from_start": after} for q_rad in points],
        }
        self._call("write", lambda: self._trajectory.publish(roslibpy.Message(message)))

    def _trigger(self, name: str) -> None:
        service = roslibpy.Service(self._connected(), name, "std_srvs/Trigger")
        answer = self._call(name, lambda: service.call(roslibpy.ServiceRequest(), timeout=self._timeout_s))
        if not answer.get("success"):
            raise self._error(f"refused {name}: {answer.get('message', '')}")

    def _call(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except LatentMPCError:
            raise
        except Exception as error:
            raise self._error(f"failed to {what}: {error}") from error


def _ordered(values: Any, order: list[int]) -> Array | None:
    """The joints' values in the spec's order; None where ROS sends none, or NaN for none."""
    if not values:
        return None
    ordered = np.array([values[index] for index in order], np.float64)
    return ordered if np.isfinite(ordered).all() else None

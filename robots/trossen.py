"""Trossen WidowX AI by trossen-arm: TCP 50001 for the modes, UDP 50000 for joints, a daemon thread of the library's.

    joints:   q_target -> set_all_positions(q_target, goal_time = 1 / control_hz), interpolated linearly
    gripper:  opening x travel, metres of one finger's carriage
    state:    the controller's counter and microseconds; an output that does not change is old

`arm` puts every joint into position mode, `disarm` into idle, in which the maker says that they are braked. `stop` is
a quintic to rest. The library's thread goes on sending the last setpoint while the process hangs: this arm has no
watchdog of its own to rely on. The controller serves one client at a time; connecting puts every joint into idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from trossen_arm import Mode, Model, StandardEndEffector, TrossenArmDriver

from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.setpoints import limited, rest
from latent_mpc.robots.wxai import GRIPPER_TRAVEL_M, wxai
from latent_mpc.types import LatentMPCError

T = TypeVar("T")
GRIPPER_M_S = 0.2  # of a carriage; the controller faults past 0.5
STOP_S = 0.3  # of the quintic, which the library uses from 0.2 s on


class TrossenDriver:
    """A WidowX AI follower arm.

    Attributes:
        host: name or address of the controller. Its ports are fixed.
    """

    capabilities = Capabilities(hardware_clock=True, torque=True, temperature=True)

    def __init__(
        self,
        host: str = "192.168.1.2",
        spec: RobotSpec | None = None,
        *,
        clear_error: bool = False,
        timeout_s: float = 3.0,
    ) -> None:
        """
        Args:
            clear_error: whether `connect` clears an error that the controller holds; look at the arm first.
            timeout_s: to reach the controller. An answer over TCP takes 3 s at most, by the library.
        """
        self.host, self.spec = host, spec or wxai()
        self._clear_error, self._timeout_s = clear_error, timeout_s
        self._arm: TrossenArmDriver | None = None
        self._state: RobotState | None = None
        self._sent: Setpoint | None = None  # not None while armed

    def connect(self) -> None:
        """See Driver.connect. Raises DriverError: unreachable, another arm, in error, or connected already."""
        if self._arm is not None:
            raise self._error("is connected already; close it first")
        arm = TrossenArmDriver()
        follower = StandardEndEffector.wxai_v0_follower
        self._call(
            "connect",
            lambda: arm.configure(Model.wxai_v0, follower, self.host, self._clear_error, timeout=self._timeout_s),
        )
        self._arm, self._state = arm, None
        try:
            limits = self._call("limits", arm.get_joint_limits)
            if len(limits) != self.spec.num_joints + 1:
                raise self._error(f"has {len(limits)} joints with the gripper, not {self.spec.num_joints + 1}")
            for name, low, high, limit in zip(
                self.spec.joint_names, self.spec.q_low_rad, self.spec.q_high_rad, limits[:-1], strict=True
            ):
                if low < limit.position_min or high > limit.position_max:
                    found = f"{limit.position_min:.4f} to {limit.position_max:.4f}"
                    raise self._error(f"joint {name} ranges from {found} rad, and the spec from {low} to {high}")
            self.read()
        except BaseException:
            self.close()
            raise

    def arm(self) -> None:
        """Position mode, at the measured position. Raises DriverError."""
        arm, state = self._connected(), self.read()
        self._call("position mode", lambda: arm.set_all_modes(Mode.position))
        self._sent = Setpoint(state.q_rad, state.gripper)

    def read(self) -> RobotState:
        """See Driver.read; temperatures are the rotors'. Raises DriverError, also for an error of the controller."""
        arm = self._connected()
        output = self._call("read", arm.get_robot_output)
        if self._state is not None and self._state.sequence == output.header.id:
            return self._state
        joints = output.joint.all
        self._state = RobotState(
            q_rad=np.array(joints.positions)[:-1],
            qd_rad_s=np.array(joints.velocities)[:-1],
            gripper=float(np.clip(joints.positions[-1] / GRIPPER_TRAVEL_M, 0, 1)),
            hardware_time_s=output.header.timestamp * 1e-6,
            receipt_time_s=time.monotonic(),
            sequence=output.header.id,
            torque_nm=np.array(joints.efforts)[:-1],
            temperature_c=np.array(joints.rotor_temperatures)[:-1],
        )
        return self._state

    def write(self, setpoint: Setpoint) -> Setpoint:
        """See Driver.write; the fingers are no faster than GRIPPER_M_S. Raises DriverError, InvalidInputError."""
        self._connected()
        if (last := self._sent) is None:
            raise self._error("is not armed; call arm() before write()")
        sent = limited(self.spec, setpoint, last.q_rad)
        step = GRIPPER_M_S / GRIPPER_TRAVEL_M / self.spec.control_hz
        sent = replace(sent, gripper=float(np.clip(sent.gripper, last.gripper - step, last.gripper + step)))
        self._send(sent.q_rad, sent.gripper, 1 / self.spec.control_hz)
        self._sent = sent
        return sent

    def stop(self) -> None:
        """To rest in STOP_S where a constant deceleration would end. Raises DriverError."""
        self._connected()
        if self._sent is None:
            return
        q_rad = rest(self.spec, self.read(), STOP_S)
        self._send(q_rad, self._sent.gripper, STOP_S)
        self._sent = replace(self._sent, q_rad=q_rad)

    def disarm(self) -> tuple[str, ...]:
        """Every joint into idle, in one message; never raises. Returns what failed."""
        arm, self._sent = self._arm, None
        if arm is None:
            return ()
        try:
            self._call("idle mode", lambda: arm.set_all_modes(Mode.idle))
            return ()
        except Exception as error:
            return (f"joints {', '.join(self.spec.joint_names)}: {error}",)

    def close(self) -> None:
        """Release the controller, which leaves every joint in idle; never raises, may be called twice."""
        arm, self._arm, self._sent = self._arm, None, None
        if arm is not None:
            try:
                self._call("close", arm.cleanup)
            except DriverError:
                return

    # ---- parts ----

    def _error(self, complaint: str) -> DriverError:
        return DriverError(f"{self.spec.name} at {self.host} {complaint}")

    def _connected(self) -> TrossenArmDriver:
        if self._arm is None:
            raise self._error("is not connected; call connect() first")
        return self._arm

    def _send(self, q_rad: Array, gripper: float, goal_time_s: float) -> None:
        arm, goal = self._connected(), [*q_rad.tolist(), gripper * GRIPPER_TRAVEL_M]
        self._call("write", lambda: arm.set_all_positions(goal, goal_time_s, False))

    def _call(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except LatentMPCError:
            raise
        except Exception as error:  # the library raises RuntimeError, and AssertionError for its LogicError
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._error(f"failed to {what}: {reason}") from error

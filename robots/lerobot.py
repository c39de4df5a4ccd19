"""Any LeRobot `Robot` as a driver of ours; as_lerobot.py is the other way round.

    degrees:  value = sign (q - zero) 180 / pi          gripper: value = 100 opening
    range:    value = 100 sign (2 (q - q_low) / (q_high - q_low) - 1)

Written against LeRobot's documented interface, by duck typing; LeRobot itself is never imported here: `connect`,
`disconnect`, `is_connected`, `is_calibrated`, `observation_features`, `action_features`, `get_observation()` and
`send_action()`, which returns what was really sent, with keys "joint.pos".

What that interface lacks, this driver cannot have: there is no hardware clock, so that a robot which repeats old
values looks alive; a call takes as long as the robot takes; most robots switch their torque on in `connect`, and off
in `disconnect` unless configured otherwise. Where the robot has a motor bus as LeRobot's own arms do (`bus`, with
`enable_torque` and `disable_torque`), `arm` and `disarm` use that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.setpoints import limited
from latent_mpc.types import InvalidInputError

T = TypeVar("T")
Units = Literal["degrees", "range"]


class LeRobotLike(Protocol):
    """The part of LeRobot's `Robot` that is used."""

    @property
    def is_connected(self) -> bool: ...
    @property
    def is_calibrated(self) -> bool: ...
    @property
    def observation_features(self) -> dict[str, Any]: ...
    @property
    def action_features(self) -> dict[str, Any]: ...
    def connect(self, calibrate: bool = True) -> None: ...
    def get_observation(self) -> dict[str, Any]: ...
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]: ...
    def disconnect(self) -> None: ...


class JointUnits:
    """Joints in radians to and from LeRobot's values, keys "joint.pos"."""

    def __init__(
        self, spec: RobotSpec, units: Units, sign: tuple[int, ...], zero_rad: tuple[float, ...], gripper: str
    ) -> None:
        """
        Raises:
            InvalidInputError: unknown units, or a sign or a zero is missing or impossible.
        """
        count = spec.num_joints
        if units not in ("degrees", "range"):
            raise InvalidInputError(f"units must be 'degrees' or 'range', got {units!r}")
        if len(sign) != count or not set(sign) <= {1, -1}:
            raise InvalidInputError(f"sign needs {count} numbers, 1 or -1, one a joint, got {sign}")
        if len(zero_rad) != count or not np.isfinite(zero_rad).all():
            raise InvalidInputError(f"zero_rad needs {count} finite numbers, one a joint, got {zero_rad}")
        if units == "range" and any(zero_rad):
            raise InvalidInputError("zero_rad is of degrees; with units 'range' the spec's range says where zero is")
        self.keys = [f"{name}.pos" for name in spec.joint_names]
        self.gripper_key = f"{gripper}.pos" if gripper else ""
        low, high = np.array(spec.q_low_rad), np.array(spec.q_high_rad)
        if units == "degrees":
            self._zero, self._scale = np.array(zero_rad), np.array(sign) * 180 / np.pi
        else:
            self._zero, self._scale = (low + high) / 2, np.array(sign) * 200 / (high - low)

    @property
    def all_keys(self) -> list[str]:
        return [*self.keys, *([self.gripper_key] if self.gripper_key else [])]

    def to_values(self, q_rad: Array, gripper: float) -> dict[str, float]:
        values = dict(zip(self.keys, ((q_rad - self._zero) * self._scale).tolist(), strict=True))
        return values | ({self.gripper_key: 100.0 * gripper} if self.gripper_key else {})

    def from_values(self, values: Mapping[str, Any]) -> tuple[Array, float]:
        """Joints (J,) and the opening, 1 without a gripper. Raises InvalidInputError: a key lacks, or NaN or inf."""
        if missing := [key for key in self.all_keys if key not in values]:
            raise InvalidInputError(f"there is no {missing}; there are {sorted(map(str, values))}")
        found = np.array([float(values[key]) for key in self.all_keys])
        if not np.isfinite(found).all():
            raise InvalidInputError(f"NaN or inf in {dict(zip(self.all_keys, found, strict=True))}")
        q_rad = found[: len(self.keys)] / self._scale + self._zero
        return q_rad, float(found[-1] / 100) if self.gripper_key else 1.0


class LeRobotDriver:
    """A LeRobot `Robot` as a driver. Configure it without cameras: they make every reading wait for a frame."""

    capabilities = Capabilities()

    def __init__(
        self,
        robot: LeRobotLike,
        spec: RobotSpec,
        *,
        units: Units = "degrees",
        sign: tuple[int, ...] | None = None,
        zero_rad: tuple[float, ...] | None = None,
        gripper: str = "gripper",
    ) -> None:
        """
        Args:
            robot: made by LeRobot, not connected yet; its motors are called as the spec's joints are.
            units: as the robot was configured; "range" is -100..100 over the calibrated range, taken for the spec's.
            sign, zero_rad: of each joint, where the robot's calibration differs from the spec's zero; 1 and 0.
            gripper: name of its motor, 0..100; "" when there is none.
        """
        self._robot, self.spec = robot, spec
        self._units = JointUnits(
            spec, units, sign or (1,) * spec.num_joints, zero_rad or (0.0,) * spec.num_joints, gripper
        )
        self._state: RobotState | None = None
        self._q_sent: Array | None = None  # not None while armed

    def connect(self) -> None:
        """See Driver.connect; never calibrates. Raises DriverError: fails, is uncalibrated, or lacks a joint."""
        if self._robot.is_connected:
            raise self._error("is connected already; close it first")
        self._call("connect", lambda: self._robot.connect(calibrate=False))
        try:
            if not self._robot.is_calibrated:
                raise self._error("is not calibrated; run LeRobot's own calibration first")
            for kind, features in (
                ("observes", self._robot.observation_features),
                ("takes", self._robot.action_features),
            ):
                if missing := [key for key in self._units.all_keys if key not in features]:
                    raise self._error(f"{kind} no {missing}, only {sorted(features)}; names must be the spec's")
            self._state = None
            self.read()
        except BaseException:
            self.close()
            raise

    def arm(self) -> None:
        """Torque on, at the measured position. Raises DriverError."""
        state = self.read()
        if bus := self._bus():
            self._send(state.q_rad, state.gripper)
            self._call("enable torque", bus.enable_torque)
        self._q_sent = state.q_rad

    def read(self) -> RobotState:
        """See Driver.read; velocities are differences of readings where the robot has none ("joint.vel")."""
        if not self._robot.is_connected:
            raise self._error("is not connected; call connect() first")
        observation = self._call("read", self._robot.get_observation)
        now = time.monotonic()
        q_rad, gripper = self._call("read", lambda: self._units.from_values(observation))
        last = self._state
        qd_rad_s = np.zeros_like(q_rad)
        if last is not None and now > last.receipt_time_s:
            qd_rad_s = (q_rad - last.q_rad) / (now - last.receipt_time_s)
        sequence = 0 if last is None else last.sequence + 1
        self._state = RobotState(q_rad, qd_rad_s, float(np.clip(gripper, 0, 1)), now, now, sequence)
        return self._state

    def write(self, setpoint: Setpoint) -> Setpoint:
        """See Driver.write; returned is what the robot says that it sent. Raises DriverError, InvalidInputError."""
        if self._q_sent is None:
            raise self._error("is not armed; call arm() before write()")
        sent = limited(self.spec, setpoint, self._q_sent)
        q_rad, gripper = self._send(sent.q_rad, sent.gripper)
        self._q_sent = q_rad
        return replace(sent, q_rad=q_rad, gripper=gripper)

    def stop(self) -> None:
        """Hold the measured position. Raises DriverError."""
        if self._q_sent is not None:
            state = self.read()
            self._q_sent, _ = self._send(state.q_rad, state.gripper)

    def disarm(self) -> tuple[str, ...]:
        """Torque off by the motor bus, or else by `disconnect`; never raises. Returns what failed."""
        self._q_sent = None
        try:
            if not self._robot.is_connected:
                return ()
            bus = self._bus()
            self._call("disable torque", bus.disable_torque if bus else self._robot.disconnect)
            return ()
        except Exception as error:
            return (f"joints {', '.join(self.spec.joint_names)}: {error}",)

    def close(self) -> None:
        """Disconnect; never raises, may be called twice."""
        self._q_sent = None
        try:
            if self._robot.is_connected:
                self._call("disconnect", self._robot.disconnect)
        except Exception:
            return

    # ---- parts ----

    def _error(self, complaint: str) -> DriverError:
        return DriverError(f"LeRobot's {getattr(self._robot, 'name', type(self._robot).__name__)} {complaint}")

    def _bus(self) -> Any:
        bus = getattr(self._robot, "bus", None)
        return bus if hasattr(bus, "enable_torque") and hasattr(bus, "disable_torque") else None

    def _send(self, q_rad: Array, gripper: float) -> tuple[Array, float]:
        action = self._units.to_values(q_rad, gripper)
        sent = self._call("write", lambda: self._robot.send_action(action))
        return self._call("write", lambda: self._units.from_values(sent))

    def _call(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except DriverError:
            raise
        except Exception as error:  # of the robot's, whatever it is
            raise self._error(f"failed to {what}: {error}") from error

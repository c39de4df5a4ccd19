"""What the controller knows of an arm: its limits, its state, what is sent to it, and the driver that sends it.

SI units throughout. J joints in the order of `RobotSpec.joint_names`; the gripper is apart from them, an opening
from 0 (closed) to 1 (open). Frame B is the robot's base, T its tool: z out of the hand, y along the fingers' travel.
Times are of the monotonic clock (`time.monotonic`), the same in every process of one machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import InvalidInputError, LatentMPCError

Array = NDArray[np.float64]


class DriverError(LatentMPCError, RuntimeError):
    """The device refused, vanished or answered nonsense; the message names the device and the joint."""


@dataclass(frozen=True)
class RobotSpec:
    """An arm's names, limits and model.

    Attributes:
        name: of the arm, for messages.
        joint_names: J names, also of the joints in `mjcf`.
        q_low_rad, q_high_rad: the range of each joint.
        velocity_rad_s, acceleration_rad_s2, jerk_rad_s3, torque_nm: the largest magnitude at each joint.
        home_rad: a pose to start from, inside the range.
        gripper_width_m: distance of the fingers at opening 1.
        mjcf: model of the arm alone, in frame B: kinematics, and geometry to keep clear of itself and of the scene.
        tool_site: the site of `mjcf` that is frame T.
        control_hz: setpoints a second.
    """

    name: str
    joint_names: tuple[str, ...]
    q_low_rad: tuple[float, ...]
    q_high_rad: tuple[float, ...]
    velocity_rad_s: tuple[float, ...]
    acceleration_rad_s2: tuple[float, ...]
    jerk_rad_s3: tuple[float, ...]
    torque_nm: tuple[float, ...]
    home_rad: tuple[float, ...]
    gripper_width_m: float
    mjcf: Path
    tool_site: str = "tcp"
    control_hz: float = 100.0

    def __post_init__(self) -> None:
        count = len(self.joint_names)
        if not count or len(set(self.joint_names)) < count:
            raise InvalidInputError(f"joint_names must be distinct and not empty, got {self.joint_names}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and field.name != "joint_names":
                if len(value) != count or not all(map(math.isfinite, value)):
                    raise InvalidInputError(f"{field.name} needs {count} finite numbers, one a joint, got {value}")
        for name in ("velocity_rad_s", "acceleration_rad_s2", "jerk_rad_s3", "torque_nm"):
            if min(getattr(self, name)) <= 0:
                raise InvalidInputError(f"{name} must be positive, got {getattr(self, name)}")
        for joint, low, home, high in zip(
            self.joint_names, self.q_low_rad, self.home_rad, self.q_high_rad, strict=True
        ):
            if not low < high or not low <= home <= high:
                raise InvalidInputError(f"joint {joint}: need low < high and home between, got {low}, {home}, {high}")
        if self.gripper_width_m <= 0 or self.control_hz <= 0:
            raise InvalidInputError("gripper_width_m and control_hz must be positive")

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.joint_names)


@dataclass(frozen=True)
class RobotState:
    """One reading of an arm.

    Attributes:
        q_rad, qd_rad_s: joint positions and velocities, (J,).
        gripper: opening, 0 to 1.
        hardware_time_s: when the device measured it, on the device's clock; equal to `receipt_time_s` without one.
            Two readings with the same hardware time are the same reading: freshness is judged by it.
        receipt_time_s: when it arrived here.
        sequence: counts the device's readings.
        fault: what the device complains of, joint by name; empty when nothing.
        torque_nm, temperature_c: (J,), where the device measures them.
    """

    q_rad: Array
    qd_rad_s: Array
    gripper: float
    hardware_time_s: float
    receipt_time_s: float
    sequence: int
    fault: str = ""
    torque_nm: Array | None = None
    temperature_c: Array | None = None


@dataclass(frozen=True)
class Setpoint:
    """What is sent each tick: joint positions (J,) in radians and the gripper's opening, 0 to 1.

    `motion_s` is the controller's motion clock at that tick; a simulated camera stamps its frames with it, and a real
    device ignores it.
    """

    q_rad: Array
    gripper: float
    motion_s: float = 0.0


@dataclass(frozen=True)
class TimedPlan:
    """Where the tool is to be, and when, on the motion clock of the controller, which runs only while it moves.

    A plan made from an observation carries the motion clock's time of that observation, so that it is joined to the
    motion by what was really executed in between, whatever the planner and the camera took.

    Attributes:
        sequence: counts plans; the controller ignores one that is not newer than the last.
        observation: sequence of the observation that it came from.
        times_s: (N,), increasing, on the motion clock.
        position_m, yaw_rad: of T in B, pointing down, (N, 3) and (N,).
        gripper: opening, 0 to 1, (N,).
        expires_s: on the monotonic clock; past it the plan is not to be followed.
        frame: of the positions; only "base" is known.
    """

    sequence: int
    observation: int
    times_s: Array
    position_m: Array
    yaw_rad: Array
    gripper: Array
    expires_s: float
    frame: str = "base"

    def __post_init__(self) -> None:
        count = len(self.times_s)
        shapes = {"times_s": (count,), "position_m": (count, 3), "yaw_rad": (count,), "gripper": (count,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.shape != shape or not count:
                found = getattr(value, "dtype", type(value).__name__), getattr(value, "shape", None)
                raise InvalidInputError(f"plan.{name} must be a float64 array of shape {shape}, N >= 1, got {found}")
            if not np.isfinite(value).all():
                raise InvalidInputError(f"plan.{name} holds NaN or inf")
        if (np.diff(self.times_s) <= 0).any():
            raise InvalidInputError("plan.times_s must increase")
        if not math.isfinite(self.expires_s):
            raise InvalidInputError(f"plan.expires_s must be finite, got {self.expires_s}")
        if self.frame != "base":
            raise InvalidInputError(f"plan.frame must be 'base', got {self.frame!r}")


@dataclass(frozen=True)
class Capabilities:
    """What a device offers beyond joint positions.

    Attributes:
        hardware_clock: readings carry the device's own time.
        torque, temperature: they are measured.
        watchdog: the device stops by itself when setpoints cease.
    """

    hardware_clock: bool = False
    torque: bool = False
    temperature: bool = False
    watchdog: bool = False


class Driver(Protocol):
    """One device. Used by one process and one thread; every call returns within its time-out or raises.

    Order: connect, read…, arm, (read, write)…, stop, disarm, close. `disarm` and `close` may come at any time.
    """

    spec: RobotSpec
    capabilities: Capabilities

    def connect(self) -> None:
        """Open the device and check that it is the right one; nothing moves, nothing stiffens.

        Raises:
            DriverError: it is missing, foreign or faulty. Whatever was opened is closed again.
        """
        ...

    def arm(self) -> None:
        """Let the motors hold the position that they are in. Raises DriverError."""
        ...

    def read(self) -> RobotState:
        """The newest reading; the same one again, with its old times, when there is no newer. Raises DriverError."""
        ...

    def write(self, setpoint: Setpoint) -> Setpoint:
        """Send a setpoint and return what was really sent, after the device's own rounding. Raises DriverError."""
        ...

    def stop(self) -> None:
        """Bring the arm to rest by the device's own means and hold it. Raises DriverError."""
        ...

    def disarm(self) -> tuple[str, ...]:
        """Take the torque off every joint that answers; never raises. Returns what failed, each naming its joint."""
        ...

    def close(self) -> None:
        """Release the device; never raises, may be called twice. Does not disarm."""
        ...

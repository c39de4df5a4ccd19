"""An arm in memory: joints that follow their setpoints with first-order lag, faults by script, everything recorded.

    q ← q + (1 - e^(-dt/τ)) (setpoint - q)   after dt

`FakeDriver` runs on a clock that the test turns; `RecordingDriver` on the real one, and writes every call to a
file that a test reads from another process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latent_mpc.robots.parts import Parts
from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.safety import Verdict
from latent_mpc.robots.splice import Waypoint
from latent_mpc.types import InvalidInputError

SPEC = RobotSpec(
    name="fake",
    joint_names=("x", "y", "z"),
    q_low_rad=(-1.0, -1.0, -1.0),
    q_high_rad=(1.0, 1.0, 1.0),
    velocity_rad_s=(2.0, 2.0, 2.0),
    acceleration_rad_s2=(10.0, 10.0, 10.0),
    jerk_rad_s3=(500.0, 500.0, 500.0),
    torque_nm=(1.0, 1.0, 1.0),
    home_rad=(0.0, 0.0, 0.0),
    gripper_width_m=0.08,
    mjcf=Path("none.xml"),
)
TAU_S = 0.02


class FakeDriver:
    """Set an attribute, and the device behaves so.

    Attributes:
        clock: seconds. frozen: readings are no longer renewed. silent: reads raise. deaf: writes raise.
        fault: what readings complain of. nan: readings hold NaN. stubborn: joints that keep their torque.
        calls: names of the calls but read and write. written: (time, setpoint) of each write.
    """

    capabilities = Capabilities()

    def __init__(self, clock: Callable[[], float], spec: RobotSpec = SPEC) -> None:
        self.clock, self.spec = clock, spec
        self.frozen = self.silent = self.deaf = self.nan = self.missing = False
        self.fault = ""
        self.stubborn: tuple[str, ...] = ()
        self.connected = self.torque = False
        self.q_rad, self.gripper = np.array(spec.home_rad), 0.5
        self.target = Setpoint(self.q_rad, self.gripper)
        self.calls: list[str] = []
        self.written: list[tuple[float, Setpoint]] = []
        self._state: RobotState | None = None
        self._moved_s = clock()

    def connect(self) -> None:
        self.calls.append("connect")
        if self.connected:
            raise DriverError("fake: connected already")
        if self.missing:
            raise DriverError("fake: there is no such device")
        self.connected = True

    def arm(self) -> None:
        self.calls.append("arm")
        self._move()
        self.torque, self.target = True, Setpoint(self.q_rad, self.gripper)

    def read(self) -> RobotState:
        if not self.connected or self.silent:
            raise DriverError("fake: no answer")
        self._move()
        if self._state is None or not self.frozen:
            now_s, number = self.clock(), self._state.sequence + 1 if self._state else 0
            velocity = (self.target.q_rad - self.q_rad) / TAU_S if self.torque else np.zeros_like(self.q_rad)
            q_rad = self.q_rad * np.nan if self.nan else self.q_rad
            self._state = RobotState(q_rad.copy(), velocity, self.gripper, now_s, now_s, number, self.fault)
        return self._state

    def write(self, setpoint: Setpoint) -> Setpoint:
        if not self.connected or not self.torque or self.deaf:
            raise DriverError("fake: not armed" if not self.torque else "fake: no answer")
        q_rad = np.asarray(setpoint.q_rad)
        if q_rad.shape != (self.spec.num_joints,) or q_rad.dtype.kind != "f" or not np.isfinite(q_rad).all():
            raise InvalidInputError(f"fake: no setpoint: {setpoint}")
        if not np.isfinite(setpoint.gripper):
            raise InvalidInputError(f"fake: no setpoint: {setpoint}")
        q_rad = np.clip(q_rad, self.spec.q_low_rad, self.spec.q_high_rad)
        setpoint = replace(setpoint, q_rad=q_rad, gripper=float(np.clip(setpoint.gripper, 0, 1)))
        self._move()
        self.target = setpoint
        self.written.append((self.clock(), setpoint))
        return setpoint

    def stop(self) -> None:
        self.calls.append("stop")
        self.target = Setpoint(self.q_rad, self.gripper)

    def disarm(self) -> tuple[str, ...]:
        self.calls.append("disarm")
        self.torque = bool(self.stubborn)
        return self.stubborn

    def close(self) -> None:
        self.calls.append("close")
        self.connected = False

    def _move(self) -> None:
        now_s = self.clock()
        if self.torque:
            share = 1 - np.exp(-(now_s - self._moved_s) / TAU_S)
            self.q_rad = self.q_rad + share * (self.target.q_rad - self.q_rad)
            self.gripper += share * (self.target.gripper - self.gripper)
        self._moved_s = now_s


class RecordingDriver:
    """A `FakeDriver` on the real clock that tells a file what was done to it, with the process and the time.

    `misdeed` scripts a fault: "connect raises", or "read hangs", "read crashes" once `misbehave` lies in the folder.
    """

    capabilities = Capabilities()

    def __init__(self, folder: Path, misdeed: str = "") -> None:
        self.folder, self.misdeed, self.spec = folder, misdeed, SPEC
        self._inner = FakeDriver(time.monotonic)
        self._writes = 0

    def connect(self) -> None:
        self._tell("connect")
        if self.misdeed == "connect raises":
            raise DriverError("fake: there is no such device")
        self._inner.connect()

    def arm(self) -> None:
        self._tell("arm")
        self._inner.arm()

    def read(self) -> RobotState:
        if self.misdeed and (self.folder / "misbehave").exists():
            if self.misdeed == "read hangs":
                time.sleep(1000)
            if self.misdeed == "read crashes":
                raise ZeroDivisionError("a bug")
        return self._inner.read()

    def write(self, setpoint: Setpoint) -> Setpoint:
        sent = self._inner.write(setpoint)
        self._tell("write", q_rad=sent.q_rad.tolist())
        return sent

    def stop(self) -> None:
        self._tell("stop")
        self._inner.stop()

    def disarm(self) -> tuple[str, ...]:
        self._tell("disarm")
        return self._inner.disarm()

    def close(self) -> None:
        self._tell("close")
        self._inner.close()

    def _tell(self, call: str, **more: Any) -> None:
        line = json.dumps({"call": call, "pid": os.getpid(), "time_s": time.monotonic(), **more}) + "\n"
        descriptor = os.open(self.folder / "calls.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def calls_of(folder: Path) -> list[dict[str, Any]]:
    """What a `RecordingDriver` told, in order."""
    file = folder / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def gantry(spec: RobotSpec = SPEC, rejects: Callable[[Setpoint], str] = lambda _: "") -> Parts:
    """A robot whose joints are the tool's coordinates; the yaw is lost. `rejects` scripts the gate's reason."""

    def gate(wanted: Setpoint, last: Setpoint, state: RobotState, now_s: float, *, sent_rad: Array) -> Verdict:
        if why := rejects(wanted):
            return Verdict("rejected", last, (why,))
        if wanted.q_rad.shape != last.q_rad.shape or not np.isfinite(wanted.q_rad).all():
            return Verdict("rejected", last, ("not finite joints",))
        q_rad: Array = np.clip(wanted.q_rad, spec.q_low_rad, spec.q_high_rad)
        return Verdict(
            "ok" if (q_rad == wanted.q_rad).all() else "clamped", Setpoint(q_rad, wanted.gripper), ("range",)
        )

    return Parts(
        forward=lambda q_rad: Waypoint(q_rad.copy(), 0.0, 0.0),
        solve=lambda q_rad, position_m, yaw_rad: position_m.copy(),
        gate=gate,
    )

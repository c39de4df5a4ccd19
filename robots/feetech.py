"""An arm of Feetech STS3215 servos over a serial port, such as the SO-101.

    read:   one SYNC_READ of all servos; new only when all of them answered         (`feetech_reader`)
    write:  one SYNC_WRITE of all goals, inside the calibrated range and a tick's way from the goals before
    arm:    goal <- position, then torque on, servo after servo
    disarm: torque off, all in one packet, then each until it confirms

When a servo dies or the port is lost, the torque is taken off every servo that answers, the port is closed, and the
error names what failed; `connect` starts again. The servos have no watchdog: they hold their last goal when nobody
speaks to them, so somebody else has to call `disarm` when this process dies. That needs no connection.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.calibration import Calibration, Servo
from latent_mpc.robots.feetech_bus import CONTROL, GOAL, MOTION, TORQUE, FeetechBus, usb_serial
from latent_mpc.robots.feetech_reader import Reader, Reading
from latent_mpc.robots.robot import Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.setpoints import limited
from latent_mpc.robots.so101 import SERVOS, so101
from latent_mpc.types import InvalidInputError

READ_BUDGET_S = 0.02  # of one reading, with all its repetitions
DEAD_AFTER_S = 0.2  # of silence: with the rest below, all others are limp within half a second
CONNECT_S = 2.0  # until the first reading
RELEASE_BUDGET_S, RELEASE_ROUNDS = 0.12, 2  # each servo is tried so often, and more while there is time
TRIES = 10  # of a write that is read back
NM_PER_CURRENT = 0.0065 * 0.8  # ampere of a unit, times stall torque over stall current at 7.4 V
FULL_ACCELERATION = 254
BEYOND_TICKS = 12  # how far outside its range a joint may lie when it is armed


class FeetechDriver:
    """An arm and its jaw; see `robots.robot.Driver`. Times are those of the question, so no joint is older than they.

    `torque_nm` is estimated from the motors' current and right to about a third: it holds the gears' friction.
    `disarm` opens the port itself when it is not connected, also one that a hanging process still holds.
    """

    capabilities = Capabilities(torque=True, temperature=True)

    def __init__(
        self,
        port: str,
        calibration: str | Path,
        spec: RobotSpec | None = None,
        servos: Sequence[Servo] | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            port: such as /dev/ttyACM0.
            calibration: file of `latent-mpc calibrate`, read by `connect`.
            spec: of the arm, an SO-101 by default.
            servos: in the order of its joints, and the jaw's, "gripper", last; by default those of the arm's name.
        """
        self.spec = spec or so101()
        self.servos = tuple(SERVOS.get(self.spec.name, ()) if servos is None else servos)
        names = [s.name for s in self.servos]
        if names != [*self.spec.joint_names, "gripper"]:
            raise InvalidInputError(f"need servos for {[*self.spec.joint_names, 'gripper']}, got {names}")
        self._port, self._file = port, calibration
        self._bus: FeetechBus | None = None
        self._armed = False
        self._sequence = 0
        self._q_sent = np.zeros(self.spec.num_joints)

    def connect(self) -> None:
        if self._bus is not None:
            raise DriverError(f"{self._port} is connected already")
        try:
            calibration = Calibration.load(self._file)
        except InvalidInputError as error:
            raise DriverError(str(error)) from error
        self._bus = bus = FeetechBus(self._port)
        try:
            calibration.check(bus, self.servos, self.spec.name, usb_serial(self._port))
            self._joints = [calibration.joints[s.name] for s in self.servos]
            self._limit()
            self._reader = Reader(bus, self.servos, DEAD_AFTER_S)
            deadline = time.monotonic() + CONNECT_S
            while not self._update():
                if time.monotonic() > deadline:
                    raise DriverError(f"the servos never all answered within {CONNECT_S} s; check cables and power")
        except DriverError as error:
            self.close()
            raise DriverError(f"{error} [{self._port}, {self._file}]") from error

    def _limit(self) -> None:
        """The range of each servo's goals, whole ticks, (J + 1,): calibrated, and inside the spec's."""
        *arm, jaw = self._joints
        spec = [
            sorted((joint.ticks(low), joint.ticks(high)))
            for joint, low, high in zip(arm, self.spec.q_low_rad, self.spec.q_high_rad, strict=True)
        ]
        self._low = np.array([*(max(j.low, math.ceil(low)) for j, (low, _) in zip(arm, spec, strict=True)), jaw.low])
        self._high = np.array(
            [*(min(j.high, math.floor(high)) for j, (_, high) in zip(arm, spec, strict=True)), jaw.high]
        )
        if (self._low >= self._high).any():
            raise DriverError("a calibrated range lies outside the arm's own; calibrate again")
        self._closed = jaw.low if jaw.direction > 0 else jaw.high
        self._travel = jaw.direction * (jaw.high - jaw.low)
        self._jaw_step = max(self.spec.velocity_rad_s) / self.spec.control_hz / abs(jaw.rad_per_tick)

    def arm(self) -> None:
        """Raises DriverError also when a servo complains or a joint lies outside its range; the arm is limp then."""
        with self._live() as bus:
            problem = self._stiffen(bus)
        if problem:
            raise DriverError("; ".join((f"cannot arm: {problem}", *self.disarm())))
        self._armed = True

    def _stiffen(self, bus: FeetechBus) -> str:
        """Hold every servo where it is; returns what is in the way."""
        goals = []
        for i, (servo, joint) in enumerate(zip(self.servos, self._joints, strict=True)):
            reading, low, high = self._reading(servo), int(self._low[i]), int(self._high[i])
            beyond = max(low - reading.position, reading.position - high)
            if reading.fault:
                return f"{servo.name} complains of {reading.fault}; let it cool, or switch its power off and on"
            if beyond > BEYOND_TICKS:
                degrees = math.degrees(abs(beyond * joint.rad_per_tick))
                return f"{servo.name} is {degrees:.0f} degrees outside its range; move it back by hand, or calibrate"
            goals.append(min(max(reading.position, low), high))
            speed = math.ceil(max(self.spec.velocity_rad_s) / abs(joint.rad_per_tick))
            motion = struct.pack("<BHHHH", FULL_ACCELERATION, goals[-1], 0, speed, servo.torque_limit)
            goal = struct.pack("<H", goals[-1])
            if not self._written(bus, servo, MOTION[0], motion, GOAL, goal):
                return f"{servo.name} (servo {servo.id}) does not take a goal"
            if not self._written(bus, servo, TORQUE[0], b"\x01", TORQUE, b"\x01"):
                return f"{servo.name} (servo {servo.id}) does not switch its torque on"
        self._remember(np.array(goals))
        return ""

    def _reading(self, servo: Servo) -> Reading:
        reading = self._reader.one(servo)
        if reading is None:
            raise DriverError(f"no sound answer from {servo.name} (servo {servo.id}) on {self._port}")
        return reading

    def _written(
        self, bus: FeetechBus, servo: Servo, address: int, data: bytes, register: tuple[int, int], value: bytes
    ) -> bool:
        """Write control registers until the register given reads back as the value given."""
        start = register[0] - CONTROL[0]
        for _ in range(TRIES):
            bus.write(servo.id, address, data)
            reply = bus.read(servo.id, CONTROL, 2)
            if reply is not None and reply.data[start : start + len(value)] == value:
                return True
        return False

    def read(self) -> RobotState:
        with self._live():
            self._update()
        return self._state

    def _update(self) -> bool:
        """Take a new reading, if all servos answer; whether they did. Raises DriverError when one is dead."""
        start = time.monotonic()
        readings = self._reader.all(READ_BUDGET_S)
        if readings is not None:
            self._sequence += 1
            self._state = self._describe(readings, start)
            return True
        dead = [f"{s.name} (servo {s.id})" for s in self._reader.dead()]
        if dead:
            raise DriverError(
                f"no sound answer from {', '.join(dead)} on {self._port}; check cables and the power supply"
            )
        return False

    def _describe(self, readings: list[Reading], start: float) -> RobotState:
        arm = list(zip(self._joints[:-1], readings[:-1], strict=True))
        opening = (readings[-1].position - self._closed) / self._travel
        return RobotState(
            q_rad=np.array([joint.angle(r.position) for joint, r in arm]),
            qd_rad_s=np.array([joint.rad_per_tick * r.speed for joint, r in arm]),
            gripper=min(max(opening, 0.0), 1.0),
            hardware_time_s=start,
            receipt_time_s=start,
            sequence=self._sequence,
            fault="; ".join(f"{s.name}: {r.fault}" for s, r in zip(self.servos, readings, strict=True) if r.fault),
            torque_nm=np.array(
                [math.copysign(r.current, r.load * j.direction) * j.gear * NM_PER_CURRENT for j, r in arm]
            ),
            temperature_c=np.array([float(r.temperature) for _, r in arm]),
        )

    def write(self, setpoint: Setpoint) -> Setpoint:
        wanted = limited(self.spec, setpoint, self._q_sent)
        if not self._armed:
            raise DriverError(f"the arm on {self._port} is not armed: connect and arm it before write")
        ticks = [joint.ticks(q) for joint, q in zip(self._joints, wanted.q_rad.tolist(), strict=False)]
        jaw = self._closed + wanted.gripper * self._travel
        ticks.append(min(max(jaw, self._goals[-1] - self._jaw_step), self._goals[-1] + self._jaw_step))
        goals = np.clip(np.round(ticks), self._low, self._high).astype(int)
        ids = [s.id for s in self.servos]
        with self._live() as bus:
            bus.sync_write(GOAL[0], {i: struct.pack("<H", g) for i, g in zip(ids, goals.tolist(), strict=True)})
        self._remember(goals)
        return replace(setpoint, q_rad=self._q_sent, gripper=float((goals[-1] - self._closed) / self._travel))

    def _remember(self, goals: NDArray[np.int_]) -> None:
        self._goals = goals
        self._q_sent = np.array([joint.angle(goal) for joint, goal in zip(self._joints, goals[:-1], strict=False)])

    def stop(self) -> None:
        """Hold where each servo is now. Does nothing to an arm without torque."""
        if not self._armed:
            return
        with self._live() as bus:
            goals, deaf = self._goals.copy(), []
            for i, servo in enumerate(self.servos):
                goals[i] = np.clip(self._reading(servo).position, self._low[i], self._high[i])
                goal = struct.pack("<H", int(goals[i]))
                if not self._written(bus, servo, GOAL[0], goal, GOAL, goal):
                    deaf.append(f"{servo.name} (servo {servo.id})")
            if deaf:
                raise DriverError(f"{', '.join(deaf)} did not take the order to stop")
            self._remember(goals)

    def disarm(self) -> tuple[str, ...]:
        self._armed = False
        left, reason = list(self.servos), ""
        for own in (self._bus, None):
            try:
                bus = own or FeetechBus(self._port, exclusive=False)
                try:
                    left, reason = _release(bus, left), ""
                    break
                finally:
                    if bus is not own:
                        bus.close()
            except Exception as error:  # whatever it is, the caller has other arms to disarm
                reason = f": {error}"
        return tuple(f"{s.name} (servo {s.id}) does not confirm that its torque is off{reason}" for s in left)

    def close(self) -> None:
        self._armed = False
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    @contextmanager
    def _live(self) -> Iterator[FeetechBus]:
        """The bus. What goes wrong with it takes the torque off every servo that answers, and closes it."""
        if self._bus is None:
            raise DriverError(f"{self._port} is not connected")
        try:
            yield self._bus
        except DriverError as error:
            left = self.disarm()
            self.close()
            rest = left or ("the torque is off",)
            raise DriverError("; ".join((str(error), *rest))) from error


def _release(bus: FeetechBus, servos: Sequence[Servo]) -> list[Servo]:
    """Take the torque off: of all at once, then of each until it confirms. Returns those that did not."""
    left, start, rounds = list(servos), time.monotonic(), 0
    while left and (rounds < RELEASE_ROUNDS or time.monotonic() - start < RELEASE_BUDGET_S):
        bus.sync_write(TORQUE[0], {s.id: b"\x00" for s in left})
        left = [s for s in left if not bus.write(s.id, TORQUE[0], b"\x00")]
        rounds += 1
    return left

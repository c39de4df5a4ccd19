"""Calibrating an arm of Feetech servos: sweep each joint through its range, then centre it.

The encoder's seam may lie anywhere in the range of a joint that was just built. The sweep counts turns,

    u <- u + ((encoder - u + 2048) mod 4096 - 2048),

so it measures the range nevertheless, and `calibration.centre` then moves the seam out of it, or refuses. Questions
and progress go through callbacks; nothing here prints or reads a keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from latent_mpc.robots.calibration import (
    MULTI_TURN,
    SEAM_TICKS,
    Calibration,
    JointCalibration,
    Servo,
    centre,
    read_eeprom,
)
from latent_mpc.robots.feetech_bus import (
    CENTRE,
    CONTROL,
    EEPROM,
    LOCK,
    MODE,
    OFFSET,
    OFFSET_BIT,
    PHASE,
    RANGE,
    RESPONSE_LEVEL,
    RETURN_DELAY,
    SIGN_BIT,
    STATE,
    TICKS,
    TORQUE,
    FeetechBus,
    sign_magnitude,
    signed,
)
from latent_mpc.robots.feetech_reader import Reader
from latent_mpc.robots.robot import DriverError

TRIES = 12  # of one register on a disturbed bus
READ_BUDGET_S = 0.05  # of one reading of all servos
DEAD_AFTER_S = 1.0  # of silence: nothing moves by itself here
Ask = Callable[[str], bool]  # puts a question to the person; whether they agree
Report = Callable[[dict[str, tuple[int, int, int]]], bool]  # {joint: (low, now, high)}; whether the person is done


def sweep(
    bus: FeetechBus, servos: Sequence[Servo], offsets: Mapping[str, int], report: Report
) -> dict[str, tuple[int, int]]:
    """Record how far a person turns each joint, until they say that it is enough.

    Args:
        offsets: the ones in the servos.
        report: told {name: (low, now, high)} in encoder ticks, several times a second; true when the person is done.
    Returns:
        {name: (low, high)} in encoder ticks that count on over the seam.
    Raises:
        DriverError: a servo stopped answering, or a joint turned too fast to be followed.
    """
    reader = Reader(bus, servos, DEAD_AFTER_S)
    now: dict[str, int] = {}
    reach: dict[str, tuple[int, int]] = {}
    while True:
        readings = reader.all(READ_BUDGET_S)
        if dead := reader.dead():
            raise DriverError(f"{dead[0].name} (servo {dead[0].id}) stopped answering during the sweep")
        if readings is None:
            continue
        for servo, reading in zip(servos, readings, strict=True):
            encoder = reading.position + offsets[servo.name]
            last = now.get(servo.name, encoder)
            step = (encoder - last + CENTRE) % TICKS - CENTRE
            if abs(step) > TICKS // 4:
                raise DriverError(f"{servo.name} turned too fast to be followed; sweep again, more slowly")
            now[servo.name] = last + step
            low, high = reach.get(servo.name, (last, last))
            reach[servo.name] = min(low, last + step), max(high, last + step)
        if report({name: (low, now[name], high) for name, (low, high) in reach.items()}):
            return reach


def write_eeprom(bus: FeetechBus, servo: Servo, address: int, data: bytes) -> None:
    """Write registers that survive the power, read them back, and lock them again.

    A locked servo takes a value too, and forgets it without power: nothing is written before it says that it is open.

    Raises:
        DriverError: the servo does not hold what was written.
    """
    start, lock = address - EEPROM[0], LOCK[0] - CONTROL[0]
    for _ in range(TRIES):
        bus.write(servo.id, LOCK[0], b"\x00")
        control = bus.read(servo.id, CONTROL, TRIES)
        if control is None or control.data[lock]:
            continue
        bus.write(servo.id, address, data)
        block = bus.read(servo.id, EEPROM, TRIES)
        if block is not None and block.data[start : start + len(data)] == data:
            for _ in range(TRIES):
                if bus.write(servo.id, LOCK[0], b"\x01"):
                    return
    raise DriverError(f"{servo.name} (servo {servo.id}) does not keep what is written to its register {address}")


def calibrate(
    bus: FeetechBus,
    servos: Sequence[Servo],
    ask: Ask,
    report: Report,
    arm: str = "so101",
    serial: str = "",
) -> Calibration:
    """Lead a person through the calibration of an arm; write it into the servos and return it.

    Nothing is written before the person agrees, and no range before all joints were swept.

    Args:
        ask: puts a question; false breaks off. report: see `sweep`.
        serial: of the USB adapter (`feetech_bus.usb_serial`).
    Raises:
        DriverError: broken off, a servo is missing or refuses, or a joint was not moved through its range.
        InvalidInputError: a joint was moved through a range that lies across the encoder's seam.
    """
    found = {servo.name: read_eeprom(bus, servo) for servo in servos}
    _agree(ask("Hold the arm: its motors go limp now, and stay so. Servos are set to position mode, one turn."))
    for servo in servos:
        limp = any(bus.write(servo.id, TORQUE[0], b"\x00") for _ in range(TRIES))
        if not limp:
            raise DriverError(f"{servo.name} (servo {servo.id}) does not confirm that its torque is off")
        phase = bus.read(servo.id, PHASE, TRIES)
        if phase is None:
            raise DriverError(f"{servo.name} (servo {servo.id}) stopped answering")
        for register, value in (
            (RETURN_DELAY, 0),
            (RESPONSE_LEVEL, 1),
            (MODE, 0),
            (PHASE, phase.data[0] & ~MULTI_TURN),
        ):
            write_eeprom(bus, servo, register[0], bytes((value,)))

    _agree(ask("Move every joint from stop to stop, one after the other; then end the sweep."))
    reach = sweep(bus, servos, {name: values["offset"] for name, values in found.items()}, report)
    joints = {}
    for servo in servos:
        offset, low, high = centre(*reach[servo.name], servo.name)
        travel = (high - low) * 2 * math.pi / TICKS / servo.gear
        if travel < servo.travel_rad / 2:
            raise DriverError(
                f"{servo.name} moved through {math.degrees(travel):.0f} degrees, and its range is about "
                f"{math.degrees(servo.travel_rad):.0f}; sweep again, from stop to stop"
            )
        joints[servo.name] = JointCalibration(servo.id, low, high, offset, servo.direction, servo.gear)

    _agree(ask("Write these ranges into the servos?"))
    for servo in servos:
        joint = joints[servo.name]
        write_eeprom(bus, servo, OFFSET[0], sign_magnitude(joint.offset, OFFSET_BIT).to_bytes(2, "little"))
        write_eeprom(bus, servo, RANGE[0], joint.low.to_bytes(2, "little") + joint.high.to_bytes(2, "little"))
        reply = bus.read(servo.id, STATE, TRIES)
        position = -TICKS if reply is None else signed(int.from_bytes(reply.data[:2], "little"), SIGN_BIT)
        if not joint.low - 2 * SEAM_TICKS <= position <= joint.high + 2 * SEAM_TICKS:
            raise DriverError(
                f"{servo.name} (servo {servo.id}) reads {position} after it was centred, outside {joint.low} to "
                f"{joint.high}: its firmware does not apply the offset, or it was moved past its stop; calibrate again"
            )
    return Calibration(arm, serial, joints)


def _agree(answer: bool) -> None:
    if not answer:
        raise DriverError("the calibration was broken off; nothing more was written, and the motors are limp")

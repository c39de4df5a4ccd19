"""The calibration of an arm of Feetech servos: which angle a servo's position means, kept in a file and in the servo.

    position p = (encoder - offset) mod 4096        q = direction (p - 2048) 2 pi / 4096 / gear

The offset puts the middle of a joint's range at 2048, and with it the encoder's seam, where 4095 meets 0, outside the
range, where no servo has to cross it. The file and the servos' own registers must agree before an arm is driven.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from latent_mpc.robots.feetech_bus import (
    CENTRE,
    EEPROM,
    MODE,
    MODEL,
    MODEL_STS3215,
    OFFSET,
    OFFSET_BIT,
    PHASE,
    RANGE,
    RESPONSE_LEVEL,
    TICKS,
    FeetechBus,
    signed,
)
from latent_mpc.robots.robot import DriverError
from latent_mpc.types import InvalidInputError

SEAM_TICKS = 32  # a range stays this far from the seam
LARGEST_FILE = 65536  # bytes
PATIENCE_S = 1.0  # with a servo that does not answer, while nothing moves
MULTI_TURN = 16  # the bit of PHASE with which a servo counts beyond one turn


@dataclass(frozen=True)
class Servo:
    """What the description of an arm says of one joint: how far it turns, which way, and how strong it may be.

    Attributes:
        travel_rad: from stop to stop.
        gear: turns of the servo for one of the joint.
        torque_limit: thousandths of the servo's stall torque.
    """

    name: str
    id: int
    travel_rad: float
    direction: int = 1
    gear: float = 1.0
    torque_limit: int = 1000


@dataclass(frozen=True)
class JointCalibration:
    """One servo's: `low` and `high` in ticks bound its position, `offset` is the one written into it."""

    id: int
    low: int
    high: int
    offset: int
    direction: int
    gear: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kinds = getattr(self, field.name), (int, float) if field.name == "gear" else (int,)
            if type(value) not in kinds or not math.isfinite(value):
                raise InvalidInputError(f"servo {self.id}: {field.name} is {value!r}, not a number of its kind")
        if not 0 <= self.low < self.high < TICKS:
            raise InvalidInputError(
                f"servo {self.id}: the range {self.low} to {self.high} is empty or lies across the encoder's seam "
                f"(0 to {TICKS - 1}); calibrate again"
            )
        if not 0 <= self.id < 254 or self.direction not in (1, -1) or self.gear <= 0 or abs(self.offset) >= CENTRE:
            raise InvalidInputError(f"servo {self.id}: need id < 254, direction 1 or -1, gear > 0, |offset| < {CENTRE}")

    @property
    def rad_per_tick(self) -> float:
        return self.direction * 2 * math.pi / TICKS / self.gear

    def angle(self, ticks: float) -> float:
        """Radians of the joint."""
        return (ticks - CENTRE) * self.rad_per_tick

    def ticks(self, angle: float) -> float:
        """Position of the servo, not rounded."""
        return CENTRE + angle / self.rad_per_tick


@dataclass(frozen=True)
class Calibration:
    """An arm's: its name, the serial number of its USB adapter (empty where unknown), and each joint's."""

    arm: str
    serial: str
    joints: Mapping[str, JointCalibration]

    def save(self, path: str | Path) -> None:
        """Write YAML with a check sum over it."""
        content = {"arm": self.arm, "serial": self.serial, "joints": {n: asdict(j) for n, j in self.joints.items()}}
        text = yaml.safe_dump({**content, "checksum": _checksum(content)}, sort_keys=False)
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InvalidInputError: there is no such file; it is no calibration, or was changed by hand or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise InvalidInputError(f"there is no calibration {path}; make one: latent-mpc calibrate")
        if path.stat().st_size > LARGEST_FILE:
            raise InvalidInputError(f"{path} is too large for a calibration")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            checksum = content.pop("checksum")
            if checksum != _checksum(content):
                raise InvalidInputError("it was changed by hand or damaged")
            joints = {str(name): JointCalibration(**values) for name, values in content["joints"].items()}
            return cls(str(content["arm"]), str(content["serial"]), joints)
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError, InvalidInputError) as error:
            raise InvalidInputError(
                f"{path} is not a sound calibration: {error}; make one: latent-mpc calibrate"
            ) from error

    def check(self, bus: FeetechBus, servos: Sequence[Servo], arm: str, serial: str = "") -> None:
        """Compare with the arm's description, and with what its servos hold.

        Args:
            serial: of the USB adapter that the servos are on.
        Raises:
            DriverError: this calibration is of another arm, is swapped, or a servo is missing or set otherwise.
        """
        names = [s.name for s in servos]
        if self.arm != arm or sorted(self.joints) != sorted(names):
            raise DriverError(f"this is a calibration of {self.arm} with {[*self.joints]}, not of {arm} with {names}")
        if self.serial and serial and self.serial != serial:
            raise DriverError(f"this is a calibration of the arm at USB adapter {self.serial}, and here is {serial}")
        for servo in servos:
            joint, held, who = self.joints[servo.name], read_eeprom(bus, servo), f"{servo.name} (servo {servo.id})"
            if (joint.id, joint.gear) != (servo.id, servo.gear):
                raise DriverError(f"{who} is calibrated as servo {joint.id} with gear {joint.gear}; calibrate again")
            if joint.direction != servo.direction:
                raise DriverError(f"{who} is calibrated with its direction swapped; calibrate again")
            if joint.offset and held["offset"] == -joint.offset:
                raise DriverError(f"{who} is calibrated with the sign of its offset swapped; calibrate again")
            if (joint.offset, joint.low, joint.high) != (held["offset"], held["low"], held["high"]):
                raise DriverError(
                    f"{who} holds offset {held['offset']} and range {held['low']} to {held['high']}, and the "
                    f"calibration says {joint.offset} and {joint.low} to {joint.high}: it is another arm's, or the "
                    "servo was changed; take the right file, or calibrate again"
                )
            if held["mode"] or held["multi_turn"] or held["response_level"] != 1:
                raise DriverError(f"{who} is not set to position mode, one turn, all answers; calibrate again")


def _checksum(content: Mapping[str, object]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def eeprom_values(block: bytes) -> dict[str, int]:
    """The registers of the EEPROM block that matter here, by name."""

    def value(register: tuple[int, int]) -> int:
        start = register[0] - EEPROM[0]
        return int.from_bytes(block[start : start + register[1]], "little")

    return {
        "model": value(MODEL),
        "response_level": value(RESPONSE_LEVEL),
        "low": value((RANGE[0], 2)),
        "high": value((RANGE[0] + 2, 2)),
        "multi_turn": value(PHASE) & MULTI_TURN,
        "offset": signed(value(OFFSET), OFFSET_BIT),
        "mode": value(MODE),
    }


def read_eeprom(bus: FeetechBus, servo: Servo) -> dict[str, int]:
    """Ping a servo, and read its EEPROM.

    Raises:
        DriverError: it does not answer, or is no STS3215.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        reply = bus.read(servo.id, EEPROM) if bus.ping(servo.id) else None
        if reply is not None:
            values = eeprom_values(reply.data)
            if values["model"] != MODEL_STS3215:
                raise DriverError(
                    f"{servo.name} (servo {servo.id}) is model {values['model']}, not an STS3215 ({MODEL_STS3215})"
                )
            return values
    raise DriverError(
        f"{servo.name} (servo {servo.id}) does not answer on {bus.port}; check the power supply, its cable, and its id"
    )


def centre(low: int, high: int, name: str = "joint") -> tuple[int, int, int]:
    """The offset that puts the middle of a range at 2048.

    Args:
        low, high: of the sweep, in encoder ticks that count on over the seam.
    Returns:
        offset, and the range seen through it.
    Raises:
        InvalidInputError: the range is so wide that it would still lie across the seam.
    """
    if high - low >= TICKS - 2 * SEAM_TICKS:
        raise InvalidInputError(
            f"{name} went through {(high - low) * 360 / TICKS:.0f} degrees, so its range lies across the encoder's "
            f"seam (0/{TICKS - 1}) whatever the offset; sweep again, and turn it by less than a full turn"
        )
    middle = (low + high) // 2
    offset = max(middle % TICKS - CENTRE, 1 - CENTRE)  # the register holds 11 bits: half a turn less one tick
    position = (middle - offset) % TICKS
    return offset, low - middle + position, high - middle + position

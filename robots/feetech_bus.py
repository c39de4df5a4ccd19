"""The serial bus of Feetech STS servos: packets, and exchanges in which no damaged answer is believed.

    request  FF FF ID LEN INSTRUCTION PARAMETERS... SUM     LEN counts the bytes behind it,
    answer   FF FF ID LEN STATUS      DATA...       SUM     SUM = ~(ID + LEN + ... ) mod 256

1 Mbaud, half duplex, little endian; a servo answers when it is asked, by its own number, and never by itself. The sum
finds every damage to one byte and 255 of 256 others, so whoever reads positions checks that they are plausible too.
Answers to different questions are told apart only by their length: each block below has a length of its own.
"""

from __future__ import annotations

import termios
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import serial
from serial.tools import list_ports

from latent_mpc.robots.robot import DriverError
from latent_mpc.types import InvalidInputError

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x82, 0x83
BROADCAST = 0xFE
HEADER = b"\xff\xff"

# Registers: (address, bytes). EEPROM, CONTROL and STATE are the blocks that hold the single ones.
EEPROM = (3, 31)  # what survives the power: written only by the calibration
MODEL, RETURN_DELAY, RESPONSE_LEVEL = (3, 2), (7, 1), (8, 1)
RANGE, PHASE, OFFSET, MODE = (9, 4), (18, 1), (31, 2), (33, 1)
CONTROL = (40, 16)
TORQUE, MOTION, GOAL, LOCK = (40, 1), (41, 9), (42, 2), (55, 1)  # MOTION: acceleration, goal, time, speed, torque limit
STATE = (56, 15)  # position, velocity, load, volts, temperature, ..., status, ..., current

MODEL_STS3215 = 777
TICKS = 4096  # a turn
CENTRE = TICKS // 2
OFFSET_BIT, LOAD_BIT, SIGN_BIT = 11, 10, 15  # where a register keeps its sign


class Reply(NamedTuple):
    """What a servo answered: its status bits (`feetech.STATUS` names them) and the registers asked for."""

    status: int
    data: bytes


def packet(servo: int, instruction: int, parameters: bytes = b"") -> bytes:
    """A request, or with a status for the instruction an answer, ready for the wire."""
    body = bytes((servo, len(parameters) + 2, instruction)) + parameters
    return HEADER + body + bytes((~sum(body) & 0xFF,))


def parse(buffer: bytes, servos: Sequence[int], size: int) -> dict[int, Reply]:
    """The sound answers in what came: of the servos asked, of the length asked, whole, with the right sum.

    An answer that holds another header was cut off and swallowed its neighbour, and is not believed.
    """
    found: dict[int, Reply] = {}
    start = buffer.find(HEADER)
    while start >= 0:
        body = buffer[start + 2 : start + size + 6]
        sound = len(body) == size + 4 and body[0] in servos and body[1] == size + 2 and HEADER not in body
        if sound and sum(body) & 0xFF == 0xFF:
            found.setdefault(body[0], Reply(body[2], bytes(body[3:-1])))
            start += size + 5
        start = buffer.find(HEADER, start + 1)
    return found


def signed(value: int, bit: int) -> int:
    """The number in a register that keeps magnitude and sign apart."""
    magnitude = value & ((1 << bit) - 1)
    return -magnitude if value >> bit & 1 else magnitude


def sign_magnitude(value: int, bit: int) -> int:
    """The inverse of `signed`. Raises InvalidInputError where the magnitude does not fit."""
    if abs(value) >= 1 << bit:
        raise InvalidInputError(f"{value} does not fit a register of {bit} bits and a sign")
    return abs(value) | (value < 0) << bit


def usb_serial(port: str) -> str:
    """The serial number of the USB adapter behind a port; empty where it has none."""
    return next((p.serial_number or "" for p in list_ports.comports() if p.device == port), "")


class FeetechBus:
    """A port with servos on it. A servo that does not answer is None or absent; a lost port is a DriverError."""

    def __init__(self, port: str, timeout_s: float = 0.008, exclusive: bool = True) -> None:
        """Open the port.

        Args:
            port: such as /dev/ttyACM0.
            timeout_s: the longest wait for the answers to one request, which take 0.3 ms a servo on the wire.
            exclusive: refuse a port that another process holds.
        Raises:
            DriverError: there is no such port, or it is held.
        """
        self.port = port
        try:
            self._serial = serial.Serial(port, 1_000_000, timeout=timeout_s, write_timeout=0.05, exclusive=exclusive)
        except (OSError, ValueError) as error:
            ports = [p.device for p in list_ports.comports()]
            raise DriverError(f"cannot open {port}: {error}; ports here: {ports or 'none'}") from error

    def ping(self, servo: int) -> Reply | None:
        return self._ask(packet(servo, PING), [servo], 0).get(servo)

    def read(self, servo: int, register: tuple[int, int], tries: int = 1) -> Reply | None:
        """The registers (address, bytes) of one servo."""
        for _ in range(tries):
            reply = self._ask(packet(servo, READ, bytes(register)), [servo], register[1]).get(servo)
            if reply is not None:
                return reply
        return None

    def write(self, servo: int, address: int, data: bytes) -> bool:
        """Write registers of one servo; whether it confirmed that it received them."""
        return bool(self._ask(packet(servo, WRITE, bytes((address,)) + data), [servo], 0))

    def sync_read(self, servos: Sequence[int], register: tuple[int, int]) -> dict[int, Reply]:
        """The same registers of several servos, in one request."""
        return self._ask(packet(BROADCAST, SYNC_READ, bytes((*register, *servos))), servos, register[1])

    def sync_write(self, address: int, values: Mapping[int, bytes]) -> None:
        """Write registers of several servos in one request, {servo: bytes}; none of them confirms."""
        size = len(next(iter(values.values())))
        body = b"".join(bytes((servo,)) + data for servo, data in values.items())
        self._ask(packet(BROADCAST, SYNC_WRITE, bytes((address, size)) + body), [], 0)

    def close(self) -> None:
        """Release the port; never raises, may be called twice."""
        try:
            self._serial.close()
        except OSError:
            pass

    def _ask(self, request: bytes, servos: Sequence[int], size: int) -> dict[int, Reply]:
        """Send a request and wait until all servos asked have answered, as many bytes have come, or time is over."""
        expected, buffer = len(servos) * (size + 6), b""
        try:
            self._serial.read(self._serial.in_waiting)  # a late answer to an earlier question
            try:
                self._serial.write(request)
            except serial.SerialTimeoutException:  # what the port did not take in time must not leave it later
                self._serial.reset_output_buffer()
                return {}
            while len(buffer) < expected:
                chunk = self._serial.read(expected - len(buffer))
                if not chunk:
                    break
                buffer = (buffer + chunk).removeprefix(request)  # some adapters return what was sent
            replies = parse(buffer, servos, size)
            if len(replies) < len(servos):
                self._await_silence()
        except (OSError, TypeError, termios.error) as error:  # pyserial: TypeError once the port is closed
            raise DriverError(f"lost {self.port}: {error}; plug it in again and connect") from error
        return replies

    def _await_silence(self) -> None:
        """Drop what has not left yet, and let answers under way pass: neither may be taken for something newer."""
        self._serial.reset_output_buffer()
        for _ in range(5):
            time.sleep(0.001)
            waiting = self._serial.in_waiting
            if not waiting:
                return
            self._serial.read(waiting)

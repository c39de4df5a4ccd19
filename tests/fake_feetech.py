"""A Feetech bus on a pseudo-terminal: STS3215 servos that speak the protocol, turn like servos, and fail by script.

    v <- v + clip(v_goal - v, +-a dt),  |v_goal| <= min(speed, sqrt(2 a |goal - p|))        while the torque is on

`FakeBus` serves the port in a thread. Its attributes and those of its servos are the script: set them, and the bus
behaves so. `wrong` counts what no sound driver does to it.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latent_mpc.robots.calibration import Calibration, JointCalibration
from latent_mpc.robots.so101 import SO101_SERVOS

MODEL = 777
PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
TICKS = 4096
FASTEST, HARDEST = 3400.0, 25400.0  # ticks / s, ticks / s^2
AMBIENT_C, PROTECTED = 30, 32


def signed(value: int, bit: int) -> int:
    return -(value & (1 << bit) - 1) if value >> bit & 1 else value


def magnitude(value: float, bit: int) -> int:
    return min(abs(round(value)), (1 << bit) - 1) | (value < 0) << bit


class FakeServo:
    """One servo.

    Attributes:
        encoder: where its shaft is, ticks; the first turn is 0 to 4095.
        dead: answers nothing, and keeps its torque. blocked: its shaft does not turn. load: what pushes it, 0 to 1.
        temperature: degrees. status: bits that it complains of, besides those that it finds itself.
        patience_s: how long it pushes against what blocks it before it gives up. ignores_offset: as old firmware.
        registers: 0 to 255. eeprom: what survives `power_cycle`.
    """

    def __init__(self, number: int, encoder: float = 2048.0, dead: bool = False) -> None:
        self.id, self.encoder, self.dead = number, encoder, dead
        self.blocked = self.ignores_offset = False
        self.patience_s = 0.5
        self.load, self.temperature, self.status = 0.0, float(AMBIENT_C), 0
        self.velocity, self.pushed_since = 0.0, math.inf
        self.registers = bytearray(256)
        self.set(3, MODEL, 2)
        for address, value in ((5, number), (7, 250), (8, 1), (13, 70), (18, 12), (40, 0), (55, 1), (62, 74)):
            self.registers[address] = value
        self.set(11, TICKS - 1, 2)
        self.set(48, 1000, 2)
        self.eeprom = bytes(self.registers[:40])
        self.now = time.monotonic()

    def get(self, address: int, size: int = 2) -> int:
        return int.from_bytes(self.registers[address : address + size], "little")

    def set(self, address: int, value: int, size: int = 2) -> None:
        self.registers[address : address + size] = value.to_bytes(size, "little")

    @property
    def torque(self) -> bool:
        return self.registers[40] == 1

    @property
    def position(self) -> float:
        """As the servo sees it, offset and all."""
        offset = 0 if self.ignores_offset else signed(self.get(31), 11)
        return (self.encoder - offset) % TICKS

    def calibrate(self, low: int, high: int, offset: int) -> None:
        """Hold a calibration, and lie in its middle."""
        self.set(9, low)
        self.set(11, high)
        self.set(31, magnitude(offset, 11))
        self.registers[7] = 0
        self.eeprom = bytes(self.registers[:40])
        self.encoder = ((low + high) // 2 + offset) % TICKS

    def power_cycle(self) -> None:
        self.registers[:40] = self.eeprom
        self.registers[40], self.registers[55] = 0, 1
        self.status &= ~PROTECTED
        self.velocity = 0.0

    def write(self, address: int, data: bytes) -> None:
        self.advance()
        self.registers[address : address + len(data)] = data
        if self.registers[55] == 0:
            self.eeprom = bytes(self.registers[:40])

    def read(self, address: int, size: int) -> bytes:
        self.advance()
        current = 0.0
        if self.torque:
            current = 20 + 380 * self.load + (400 if self.pushed_since < math.inf else 0)
        push = math.copysign(1, self.goal - self.position) * (self.load + (self.pushed_since < math.inf)) * 1000
        self.set(56, round(self.position) % TICKS)
        self.set(58, magnitude(self.velocity, 15))
        self.set(60, magnitude(max(-1000, min(1000, push)), 10))
        self.registers[63] = round(self.temperature)
        self.registers[65] = self.complaint
        self.registers[66] = abs(self.velocity) > 1
        self.set(69, round(current))
        return bytes(self.registers[address : address + size])

    @property
    def complaint(self) -> int:
        return self.status | (4 if self.temperature > self.registers[13] else 0)

    @property
    def goal(self) -> float:
        return min(max(self.get(42), self.get(9)), self.get(11))

    def advance(self) -> None:
        """Turn for the time that has passed, in steps of at most 2 ms."""
        left = min(time.monotonic() - self.now, 2.0)
        self.now += time.monotonic() - self.now
        while left > 0:
            dt = min(left, 0.002)
            left -= dt
            self.step(dt)

    def step(self, dt: float) -> None:
        if not self.torque or self.status & PROTECTED:
            self.velocity, self.pushed_since = 0.0, math.inf
            return
        error = self.goal - self.position
        if self.blocked:
            self.velocity = 0.0
            if abs(error) < 20:
                self.pushed_since = math.inf
            else:
                self.pushed_since = min(self.pushed_since, self.now)
                if self.now - self.pushed_since > self.patience_s and self.get(48) > 800:
                    self.status |= PROTECTED
            return
        acceleration = 100.0 * (self.registers[41] or 254)
        fastest = min(self.get(46) or FASTEST, FASTEST)
        wanted = math.copysign(min(fastest, math.sqrt(2 * acceleration * abs(error)), abs(error) / dt), error)
        self.velocity += min(max(wanted - self.velocity, -acceleration * dt), acceleration * dt)
        self.encoder += self.velocity * dt


class FakeBus:
    """A port with servos.

    Attributes:
        port: path to open; `replug` puts a new terminal there.
        servos: by number.
        corrupt, drop, truncate: the share of packets that are damaged so, in each direction.
        lose: whether a request is lost; asked of each.
        corrupt_bytes: how many bytes of a packet are damaged; one is always found by the check sum.
        chained: as some firmware, a servo waits for the one before it, so who follows a dead one is silent too.
        frozen: nothing answers, and the port stays open. deaf: servos whose torque cannot be switched off.
        goals: every goal that arrived, (time, servo, goal). asked: requests that arrived.
        released: when each servo last lost its torque.
        wrong: what no sound driver does, in words.
    """

    def __init__(self, folder: Path, servos: int = 6, seed: int = 0) -> None:
        self.port = str(folder / "ttyFAKE")
        self.servos = {i: FakeServo(i) for i in range(1, servos + 1)}
        self.corrupt = self.drop = self.truncate = 0.0
        self.corrupt_bytes = 1
        self.lose: Callable[[bytes], bool] = lambda request: False
        self.chained = self.frozen = self.echo = False
        self.deaf: set[int] = set()
        self.goals: list[tuple[float, int, int]] = []
        self.released: dict[int, float] = {}
        self.asked = 0
        self.wrong: list[str] = []
        self._random = np.random.default_rng(seed)
        self._thread: threading.Thread | None = None
        self.replug()

    def __enter__(self) -> FakeBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def replug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        link = Path(self.port)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._slave))
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._serve, args=(self._master, self._wake), daemon=True)
        self._thread.start()

    def hang_up(self) -> None:
        """As when the cable is pulled: the terminal is gone, and the servos keep their torque."""
        if self._thread is None:
            return
        os.write(self._woken, b"x")
        self._thread.join()
        self._thread = None
        Path(self.port).unlink(missing_ok=True)
        for fd in (self._master, self._slave, self._wake, self._woken):
            os.close(fd)

    def _serve(self, master: int, wake: int) -> None:
        buffer = b""
        while True:
            ready, _, _ = select.select([master, wake], [], [])
            if wake in ready:
                return
            buffer += os.read(master, 4096)
            answers = b""
            while (end := self._whole(buffer)) > 0:
                request, buffer = buffer[:end], buffer[end:]
                self.asked += 1
                if self.echo:
                    answers += request
                arrived = self._damaged(request)
                if (
                    not self.frozen
                    and not self.lose(request)
                    and arrived.startswith(b"\xff\xff")
                    and sum(arrived[2:]) & 0xFF == 0xFF
                ):
                    answers += b"".join(self._damaged(a) for a in self._answers(arrived))
            if answers:
                os.write(master, answers)

    def _whole(self, buffer: bytes) -> int:
        """Length of the request at the start of the buffer; 0 while it is not whole."""
        if len(buffer) < 4:
            return 0
        return 4 + buffer[3] if len(buffer) >= 4 + buffer[3] else 0

    def _damaged(self, packet: bytes) -> bytes:
        dice = self._random.random()
        if dice < self.drop:
            return b""
        if dice < self.drop + self.truncate:
            return packet[: self._random.integers(1, len(packet))]
        if dice < self.drop + self.truncate + self.corrupt:
            damaged = bytearray(packet)
            for i in self._random.choice(len(packet), min(self.corrupt_bytes, len(packet)), replace=False):
                damaged[i] ^= int(self._random.integers(1, 256))
            return bytes(damaged)
        return packet

    def _answers(self, request: bytes) -> list[bytes]:
        number, instruction, body = request[2], request[4], request[5:-1]
        if instruction == SYNC_READ:
            answers = []
            for servo in body[2:]:
                answers += self._answer(servo, lambda s: s.read(body[0], body[1]))
                if self.chained and servo in self.servos and self.servos[servo].dead:
                    break
            return answers
        if instruction == SYNC_WRITE:
            for start in range(2, len(body), body[1] + 1):
                self._write(body[start], body[0], body[start + 1 : start + 1 + body[1]])
            return []
        if instruction == WRITE:
            self._write(number, body[0], body[1:])
            if number in self.servos and not self.servos[number].registers[8]:
                return []
        size = body[1] if instruction == READ else 0
        return self._answer(number, lambda s: s.read(body[0], size) if size else b"")

    def _answer(self, number: int, data: Callable[[FakeServo], bytes]) -> list[bytes]:
        servo = self.servos.get(number)
        if servo is None or servo.dead:
            return []
        payload = data(servo)
        body = bytes((number, len(payload) + 2, servo.complaint)) + payload
        return [b"\xff\xff" + body + bytes((~sum(body) & 0xFF,))]

    def _write(self, number: int, address: int, data: bytes) -> None:
        servo = self.servos.get(number)
        if servo is None or servo.dead:
            return
        if address <= 40 < address + len(data) and number in self.deaf:
            return
        if address < 40 and servo.torque:
            self.wrong.append(f"servo {number}: register {address} of its EEPROM written under torque")
        if address == 40 and data[0] == 1 and not servo.torque and abs(servo.goal - servo.position) > 20:
            self.wrong.append(f"servo {number}: torque on at {servo.position:.0f} with goal {servo.goal:.0f}")
        before, stiff = servo.get(42), servo.torque
        servo.write(address, data)
        if stiff and not servo.torque:
            self.released[number] = time.monotonic()
        if address <= 42 < address + len(data):
            goal = servo.get(42)
            self.goals.append((time.monotonic(), number, goal))
            if not servo.get(9) <= goal <= servo.get(11):
                self.wrong.append(f"servo {number}: goal {goal} outside {servo.get(9)} to {servo.get(11)}")
            whole = not (self.drop or self.truncate or self.corrupt)  # who loses packets sees longer steps
            if whole and servo.torque and abs(goal - before) > 30 and abs(goal - servo.position) > 60:
                self.wrong.append(f"servo {number}: goal jumps from {before} to {goal}")


def so101_bus(folder: Path, seed: int = 0) -> tuple[FakeBus, Path]:
    """An SO-101 in the middle of all its ranges, and the calibration that its servos hold."""
    bus, joints = FakeBus(folder, seed=seed), {}
    for servo in SO101_SERVOS:
        half = round(servo.travel_rad / 2 * TICKS / (2 * math.pi))
        offset = (-1) ** servo.id * 100 * servo.id
        joints[servo.name] = JointCalibration(servo.id, 2048 - half, 2048 + half, offset, 1, 1.0)
        bus.servos[servo.id].calibrate(2048 - half, 2048 + half, offset)
    Calibration("so101", "", joints).save(folder / "so101.yaml")
    return bus, folder / "so101.yaml"

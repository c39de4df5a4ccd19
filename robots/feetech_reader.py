"""Readings of Feetech servos: none that was damaged, none that is impossible, and who has fallen silent.

One SYNC_READ asks all servos; who did not answer soundly is asked again alone. A position is believed when it follows
the last one believed, |p - p_last| <= 40 + 5000 (t - t_last) ticks, t - t_last taken as 0.05 s at most, or when it is
read a second time. So what the check sum lets pass, 1 in 256 of the answers damaged in several bytes, cannot be wrong
by more than that. A servo is dead when it was silent for long enough and for 10 questions on end.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from latent_mpc.robots.calibration import Servo
from latent_mpc.robots.feetech_bus import LOAD_BIT, SIGN_BIT, STATE, TICKS, FeetechBus, Reply, signed

STATUS = {1: "voltage", 2: "encoder", 4: "temperature", 8: "current", 32: "overload"}
SLACK_TICKS, TICKS_PER_S, FORESIGHT_S = 40, 5000, 0.05  # the servo turns at 3400 ticks a second without load
DEAD_AFTER_MISSES = 10
TRIES = 10


class Reading(NamedTuple):
    """One servo's state, in its units: ticks, ticks a second, thousandths of full drive, degrees Celsius, 6.5 mA."""

    position: int
    speed: int
    load: int
    temperature: int
    status: int
    current: int

    @property
    def fault(self) -> str:
        """What the servo complains of, empty when nothing."""
        return ", ".join(name for bit, name in STATUS.items() if self.status & bit)


def decode(reply: Reply) -> Reading | None:
    """The state in an answer; None where a value is one that no working servo has."""
    position, speed, load, volts, temperature, _, status, _, _, current = struct.unpack("<HHHBBBBBHH", reply.data)
    if position >= TICKS or not 20 < volts < 200 or temperature > 150:
        return None
    speed, load, current = signed(speed, SIGN_BIT), signed(load, LOAD_BIT), abs(signed(current, SIGN_BIT))
    if abs(speed) > 2 * TICKS_PER_S or abs(load) > 1000 or current > 1000:
        return None
    return Reading(position, speed, load, temperature, status | reply.status, current)


class Reader:
    """Reads the servos of one bus, and remembers of each what it last believed and when it last heard it."""

    def __init__(self, bus: FeetechBus, servos: Sequence[Servo], dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._bus, self._servos = bus, {s.id: s for s in servos}
        self._trusted: dict[int, tuple[int, float]] = {}  # id: position, time
        self._doubted: dict[int, tuple[int, float]] = {}
        self._heard = dict.fromkeys(self._servos, time.monotonic())
        self._misses = dict.fromkeys(self._servos, 0)

    def all(self, budget_s: float) -> list[Reading] | None:
        """A reading of every servo, in their order; None when not all answered within the time."""
        deadline = time.monotonic() + budget_s
        ids = list(self._servos)
        replies = self._bus.sync_read(ids, STATE)
        found = {i: reading for i in ids if (reading := self._judge(i, replies.get(i))) is not None}
        while len(found) < len(ids) and time.monotonic() < deadline:
            servo = min((i for i in ids if i not in found), key=self._misses.__getitem__)  # the dead come last
            reading = self._judge(servo, self._bus.read(servo, STATE))
            if reading is not None:
                found[servo] = reading
        return [found[i] for i in ids] if len(found) == len(ids) else None

    def one(self, servo: Servo) -> Reading | None:
        """A reading of one servo; None when it does not answer."""
        for _ in range(TRIES):
            reading = self._judge(servo.id, self._bus.read(servo.id, STATE))
            if reading is not None:
                return reading
        return None

    def dead(self) -> list[Servo]:
        """The servos that answer no more."""
        now = time.monotonic()
        return [
            servo
            for i, servo in self._servos.items()
            if now - self._heard[i] > self._dead_after_s and self._misses[i] >= DEAD_AFTER_MISSES
        ]

    def _judge(self, servo: int, reply: Reply | None) -> Reading | None:
        """The reading, if it can be believed."""
        now = time.monotonic()
        reading = None if reply is None else decode(reply)
        if reading is not None and self._follows(servo, reading.position, now):
            self._trusted[servo] = reading.position, now
            self._doubted.pop(servo, None)
            self._heard[servo], self._misses[servo] = now, 0
            return reading
        if reading is not None:
            self._doubted[servo] = reading.position, now
        self._misses[servo] += 1
        return None

    def _follows(self, servo: int, position: int, now: float) -> bool:
        return any(
            abs(position - known[0]) <= SLACK_TICKS + TICKS_PER_S * min(now - known[1], FORESIGHT_S)
            for known in (self._trusted.get(servo), self._doubted.get(servo))
            if known is not None
        )

"""What the reader believes: on a bus in memory that damages several bytes, so that check sums pass now and then."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

import latent_mpc.robots.feetech_reader as feetech_reader
from latent_mpc.robots.calibration import Servo
from latent_mpc.robots.feetech_bus import Reply
from latent_mpc.robots.feetech_reader import FORESIGHT_S, SLACK_TICKS, TICKS_PER_S, Reader, decode

SERVOS = [Servo(name, i, 1.0) for i, name in enumerate("abc", 1)]
LARGEST = SLACK_TICKS + TICKS_PER_S * FORESIGHT_S


def state(
    position: int, speed: int = 0, load: int = 0, volts: int = 74, temperature: int = 30, status: int = 0
) -> bytes:
    return struct.pack("<HHHBBBBBHH", position, speed, load, volts, temperature, 0, status, 0, 0, 0)


class MemoryBus:
    """Answers what `positions` holds; None stays silent."""

    def __init__(self, positions: dict[int, int | None]) -> None:
        self.positions = positions
        self.lies: list[int] = []  # what servo 1 says instead, one after the other

    def read(self, servo: int, register: tuple[int, int], tries: int = 1) -> Reply | None:
        position = self.lies.pop(0) if servo == 1 and self.lies else self.positions[servo]
        return None if position is None else Reply(0, state(position))

    def sync_read(self, servos: Sequence[int], register: tuple[int, int]) -> dict[int, Reply]:
        return {i: reply for i in servos if (reply := self.read(i, register)) is not None}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be turned by hand."""
    now = [100.0]
    monkeypatch.setattr(feetech_reader.time, "monotonic", lambda: now[0])
    return now


def test_a_state_in_the_servo_s_units() -> None:
    reading = decode(Reply(32, state(1000, speed=0x8000 | 300, load=0x400 | 250, temperature=41, status=4)))
    assert reading is not None
    assert (reading.position, reading.speed, reading.load, reading.temperature) == (1000, -300, -250, 41)
    assert reading.fault == "temperature, overload"


@pytest.mark.parametrize(
    "data", [state(4096), state(0, speed=20000), state(0, load=0x3FF), state(0, volts=0), state(0, temperature=200)]
)
def test_values_that_no_servo_has(data: bytes) -> None:
    assert decode(Reply(0, data)) is None


def test_a_leap_is_believed_when_it_is_read_twice(clock: list[float]) -> None:
    bus = MemoryBus({1: 1000, 2: 2000, 3: 3000})
    reader = Reader(bus, SERVOS, 0.15)  # type: ignore[arg-type]
    assert [r.position for r in reader.all(1.0) or []] == [1000, 2000, 3000]
    bus.positions[1] = 2500
    assert reader.all(0.0) is None, "one question, one answer: not believed"
    assert [r.position for r in reader.all(0.0) or []] == [2500, 2000, 3000]


@given(st.lists(st.integers(0, 4095), max_size=30), st.integers(0, 4095))
def test_a_lie_is_small_or_told_twice(lies: list[int], truth: int) -> None:
    """However the sum fails: an error beyond the bound needs two lies on end that agree."""
    bus = MemoryBus({1: truth, 2: 0, 3: 0})
    reader = Reader(bus, SERVOS, 0.15)  # type: ignore[arg-type]
    assert reader.one(SERVOS[0]) is not None
    told, last = [truth, truth], truth
    for lie in lies:
        bus.lies = [lie]
        told.append(lie)
        reading = reader.all(0.0)
        bus.lies = []
        if reading is not None:
            believed = reading[0].position
            assert abs(believed - last) <= LARGEST or abs(believed - told[-2]) <= LARGEST
            last = believed


def test_the_dead_are_those_silent_for_long_and_often_asked(clock: list[float]) -> None:
    bus = MemoryBus({1: 1000, 2: 2000, 3: 3000})
    reader = Reader(bus, SERVOS, 0.15)  # type: ignore[arg-type]
    assert reader.all(1.0) is not None
    bus.positions[2] = None
    for _ in range(9):
        clock[0] += 0.1
        reader.all(0.0)
        assert reader.dead() == []
    reader.all(0.0)
    assert [s.name for s in reader.dead()] == ["b"]
    bus.positions[2] = 2000
    reader.all(0.0)
    assert reader.dead() == []

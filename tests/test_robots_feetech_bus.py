"""Packets of the Feetech bus: published examples, and damage of every kind that must not be believed."""

from __future__ import annotations

import os
import select
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_mpc.robots.feetech_bus import (
    CONTROL,
    EEPROM,
    GOAL,
    READ,
    STATE,
    TORQUE,
    FeetechBus,
    Reply,
    packet,
    parse,
    sign_magnitude,
    signed,
)
from latent_mpc.robots.robot import DriverError
from latent_mpc.types import InvalidInputError

sys.path.insert(0, str(Path(__file__).parent))
from fake_feetech import FakeBus

SIZE = STATE[1]
IDS = [1, 2, 3, 4, 5, 6]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeBus]:
    with FakeBus(tmp_path) as fake:
        yield fake


@pytest.fixture
def bus(fake: FakeBus) -> Iterator[FeetechBus]:
    bus = FeetechBus(fake.port, timeout_s=0.02)
    yield bus
    bus.close()


def test_the_maker_s_examples() -> None:
    assert packet(1, READ, bytes((56, 2))) == bytes.fromhex("ffff 01 04 02 38 02 be")
    assert packet(4, 3, bytes((46, 0x32, 0))) == bytes.fromhex("ffff 04 05 03 2e 32 00 93")
    assert parse(bytes.fromhex("ffff 03 04 00 e8 03 0d"), [3], 2) == {3: Reply(0, bytes((0xE8, 3)))}


@given(st.integers(-2047, 2047))
def test_signs_are_kept_apart_from_magnitudes(value: int) -> None:
    assert signed(sign_magnitude(value, 11), 11) == value
    assert sign_magnitude(value, 11) == (value if value >= 0 else 2048 - value)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="11 bits"):
        sign_magnitude(2048, 11)


payloads = st.lists(st.binary(min_size=SIZE, max_size=SIZE), min_size=6, max_size=6)
damage = st.tuples(st.sampled_from(["corrupt", "drop", "cut"]), st.integers(0, SIZE + 5), st.integers(1, 255))


@given(payloads, st.lists(st.none() | damage, min_size=6, max_size=6), st.binary(max_size=4))
def test_no_damaged_answer_is_believed(data: list[bytes], how: list[tuple | None], stray: bytes) -> None:
    """Any mixture of damage to one byte, loss and truncation: what is found is what was sent."""
    stream = stray
    for number, payload, harm in zip(IDS, data, how, strict=True):
        answer = packet(number, 0, payload)
        if harm and harm[0] == "corrupt":
            answer = answer[: harm[1]] + bytes((answer[harm[1]] ^ harm[2],)) + answer[harm[1] + 1 :]
        elif harm:
            answer = b"" if harm[0] == "drop" else answer[: harm[1]]
        stream += answer
    for number, reply in parse(stream, IDS, SIZE).items():
        assert reply == Reply(0, data[number - 1])


def test_an_answer_cut_off_does_not_swallow_its_neighbour_even_if_the_sum_agrees() -> None:
    cut, neighbour = packet(1, 0, bytes(SIZE))[:10], b""
    for value in range(256):
        neighbour = packet(2, 0, bytes((*[0] * 5, value, *[0] * 9)))
        if sum((cut + neighbour)[2 : SIZE + 6]) & 0xFF == 0xFF:
            break
    else:
        raise AssertionError("no neighbour completes the sum")
    assert parse(cut + neighbour, [1, 2], SIZE) == {2: Reply(0, neighbour[5:-1])}


@given(st.lists(st.binary(min_size=SIZE, max_size=SIZE).filter(lambda b: b"\xff\xff" not in b), min_size=6, max_size=6))
def test_sound_answers_are_all_found(data: list[bytes]) -> None:
    data = [bytes(min(b, 0xFE) for b in payload) for payload in data]
    stream = b"".join(packet(i, 0, payload) for i, payload in zip(IDS, data, strict=True))
    assert parse(stream, IDS, SIZE) == {i: Reply(0, payload) for i, payload in zip(IDS, data, strict=True)}


def test_answers_of_others_and_of_other_lengths_are_not_taken() -> None:
    stream = packet(1, 0, bytes(SIZE)) + packet(2, 0, bytes(4))
    assert parse(stream, [2], SIZE) == {} and parse(stream, [1], 4) == {}


def test_blocks_are_told_apart_by_their_length() -> None:
    assert len({STATE[1], CONTROL[1], EEPROM[1], 0, TORQUE[1]}) == 5


def test_reading_and_writing(fake: FakeBus, bus: FeetechBus) -> None:
    assert bus.ping(3) == Reply(0, b"") and bus.ping(9) is None
    assert bus.write(2, TORQUE[0], b"\x01") and fake.servos[2].torque and not fake.servos[1].torque
    bus.sync_write(42, {i: (1000 + i).to_bytes(2, "little") for i in IDS})
    replies = bus.sync_read(IDS, CONTROL)
    assert [int.from_bytes(replies[i].data[2:4], "little") for i in IDS] == [1000 + i for i in IDS]


def test_an_adapter_that_returns_what_was_sent(fake: FakeBus, bus: FeetechBus) -> None:
    fake.echo = True
    assert bus.ping(9) is None and bus.ping(3) == Reply(0, b"")
    assert sorted(bus.sync_read(IDS, STATE)) == IDS


def test_silence_takes_no_longer_than_the_time_out(fake: FakeBus, bus: FeetechBus) -> None:
    fake.frozen = True
    start = time.monotonic()
    assert bus.sync_read(IDS, STATE) == {}
    assert 0.02 <= time.monotonic() - start < 0.1


def test_what_a_port_does_not_take_in_time_does_not_leave_it_later() -> None:
    """A frozen adapter that takes nothing: no error, as silence tells, and old goals do not follow when it wakes."""
    master, slave = os.openpty()
    tty.setraw(slave)
    bus = FeetechBus(os.ttyname(slave))
    sent, took = 0, 0.0
    while took < 0.045:
        start = time.monotonic()
        bus.sync_write(GOAL[0], {i: b"\x00\x08" for i in IDS})
        took, sent = time.monotonic() - start, sent + 26
    arrived = 0
    while select.select([master], [], [], 0.1)[0]:
        arrived += len(os.read(master, 65536))
    assert arrived < sent / 2
    bus.close()
    os.close(master)
    os.close(slave)


def test_a_missing_port_and_a_held_one(fake: FakeBus, bus: FeetechBus, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"cannot open .*nowhere.*ports here"):
        FeetechBus(str(tmp_path / "nowhere"))
    with pytest.raises(DriverError, match="cannot open"):
        FeetechBus(fake.port)


def test_a_lost_port_is_an_error_at_once(fake: FakeBus, bus: FeetechBus) -> None:
    fake.hang_up()
    with pytest.raises(DriverError, match=r"lost .*plug it in again"):
        bus.ping(1)
    bus.close()
    bus.close()
    with pytest.raises(DriverError, match="lost"):
        bus.ping(1)

"""Latest-value slots: what is read was written whole, the newest wins, nothing is left behind."""

import multiprocessing
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.slots import Slot
from latent_mpc.types import InvalidInputError

RECORD = np.dtype([("number", "i8"), ("copies", "i8", 4000)])  # large enough for a torn read


def record(number):
    r = np.zeros((), RECORD)
    r["number"], r["copies"] = number, number
    return r


@pytest.fixture
def slot():
    slot = Slot(RECORD)
    yield slot
    slot.close()


def test_nothing_before_the_first_write_then_the_newest_with_its_count(slot):
    other = Slot(RECORD, slot.name)
    assert other.read() is None
    for number in (3, 5):
        slot.write(record(number))
    found, count = other.read()
    assert (found["number"], count) == (5, 2)
    other.close()


def test_what_is_read_is_a_copy(slot):
    slot.write(record(1))
    found, _ = slot.read()
    slot.write(record(2))
    assert (found["copies"] == 1).all()


def write_for(name, seconds):
    slot, number, end_s = Slot(RECORD, name), 0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        number += 1
        slot.write(record(number))
    slot.close()


def test_no_record_is_torn_under_a_busy_writer(slot, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])  # the process imports `write_for`
    writer = multiprocessing.get_context("spawn").Process(target=write_for, args=(slot.name, 1.0))
    writer.start()
    seen = []
    while writer.is_alive():
        if (read := slot.read()) is not None:
            assert (read[0]["copies"] == read[0]["number"]).all()
            seen.append(int(read[0]["number"]))
    writer.join()
    assert seen == sorted(seen) and len(set(seen)) > 20


def test_a_writer_killed_in_mid_write_leaves_no_value_and_the_next_one_heals_it(slot):
    slot.write(record(1))
    slot._header[0] += 1  # as its death would
    assert slot.read() is None
    slot.write(record(2))
    assert slot.read()[0]["number"] == 2


def test_a_foreign_record_and_a_missing_slot_are_refused(slot):
    with pytest.raises(InvalidInputError, match=f"holds {RECORD.itemsize} bytes, not the 8"):
        Slot(np.dtype([("x", "f8")]), slot.name)
    with pytest.raises(InvalidInputError, match="no slot 'gone'"):
        Slot(RECORD, "gone")


def test_the_owner_removes_it_and_closing_twice_is_fine():
    slot = Slot(RECORD)
    name = slot.name
    other = Slot(RECORD, name)
    other.close()
    other.close()
    shared_memory.SharedMemory(name).close()  # still there
    slot.close()
    slot.close()
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory(name)

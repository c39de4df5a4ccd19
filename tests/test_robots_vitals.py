"""Age is counted from the newest reading by the device's clock, and from nothing else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.robot import RobotState
from latent_mpc.robots.vitals import Vitals

sys.path.insert(0, str(Path(__file__).parent))
from fake_driver import FakeDriver


class Read:
    def __init__(self) -> None:
        self.now_s = 50.0
        self.driver = FakeDriver(lambda: self.now_s)
        self.driver.connect()
        self.said: list[str] = []
        self.vitals = Vitals(self.driver, 0.05, 0.2, lambda _, text: self.said.append(text))

    def give(self, hardware_s: float, receipt_s: float, **changes: object) -> str:
        state = RobotState(np.zeros(3), np.zeros(3), 0.5, hardware_s, receipt_s, 0)
        self.driver.read = lambda: replace(state, **changes)  # type: ignore[method-assign]
        return self.vitals.read(self.now_s)


def test_nothing_said_is_infinitely_old() -> None:
    read = Read()
    assert read.vitals.age_s(50.0) == read.vitals.silence_s(50.0) == np.inf
    assert not read.vitals.fresh(50.0) and not read.vitals.beating(50.0)


@pytest.mark.parametrize("hardware_s", [7.0, 6.9, -1e9])
def test_the_same_or_an_older_reading_keeps_its_age(hardware_s: float) -> None:
    read = Read()
    read.give(7.0, 50.0)
    read.now_s = 50.04
    read.give(hardware_s, 50.04)
    assert read.vitals.age_s(50.06) == pytest.approx(0.06) and not read.vitals.fresh(50.06)
    read.now_s = 50.06
    read.give(7.001, 50.05)
    assert read.vitals.age_s(50.06) == pytest.approx(0.01)


def test_a_reading_of_the_future_is_worth_no_more_than_one_of_now() -> None:
    read = Read()
    read.give(7.0, 1e9)
    assert read.vitals.age_s(50.0) == 0 and not read.vitals.fresh(50.1)


def test_after_a_restart_the_devices_clock_may_begin_anew() -> None:
    read = Read()
    read.give(1000.0, 50.0)
    read.now_s = 51.0
    read.give(0.1, 51.0)
    assert not read.vitals.fresh(51.0)
    read.vitals.forget()
    read.give(0.2, 51.0)
    assert read.vitals.fresh(51.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"q_rad": np.array([0, np.nan, 0])},
        {"qd_rad_s": np.array([0, 0, np.inf])},
        {"q_rad": np.zeros(4)},
        {"gripper": np.nan},
        {"hardware_time_s": np.inf},
        {"receipt_time_s": np.nan},
    ],
)
def test_what_is_no_reading_is_no_sign_of_life_and_said_once(wrong: dict[str, object]) -> None:
    read = Read()
    for k in range(5):
        read.give(7.0 + k, 50.0, **wrong)
    assert read.vitals.state is None and len(read.said) == 1
    read.give(20.0, 50.0)
    read.give(21.0, 50.0, **wrong)
    assert len(read.said) == 2


def test_a_fault_is_told_even_by_a_reading_that_is_not_new() -> None:
    read = Read()
    assert read.give(7.0, 50.0) == ""
    assert read.give(7.0, 50.0, fault="overload") == "overload"


def test_steady_is_both_fresh_without_a_gap() -> None:
    read = Read()

    def pass_(seconds: float, reading: bool = True, beating: bool = True) -> None:
        for _ in range(round(seconds / 0.01)):
            read.now_s += 0.01
            if reading:
                read.give(read.now_s, read.now_s)
            if beating:
                read.vitals.beat(read.now_s)
            read.vitals.watch(read.now_s)

    pass_(0.5)
    assert read.vitals.steady_for_s(read.now_s) == pytest.approx(0.49)
    pass_(0.04, reading=False)
    pass_(0.1)
    assert read.vitals.steady_for_s(read.now_s) == pytest.approx(0.63)
    pass_(0.07, reading=False)
    assert read.vitals.steady_for_s(read.now_s) == 0
    pass_(0.3)
    assert read.vitals.steady_for_s(read.now_s) == pytest.approx(0.29)
    pass_(0.25, beating=False)
    assert read.vitals.steady_for_s(read.now_s) == 0

"""Checking and calibrating an SO-101 as the command line does, on a fake bus."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from latent_mpc.robot_check import calibrate, check
from latent_mpc.robots.calibration import Calibration
from latent_mpc.robots.robot import DriverError
from latent_mpc.stations import RobotChoice

sys.path.insert(0, str(Path(__file__).parent))
from fake_feetech import FakeBus, so101_bus

LOW, HIGH = 900, 3300  # stops of every joint, encoder ticks
STEP = 40  # ticks that the person turns it at a time


class Stdin:
    """A terminal on which Enter is pressed when `entered` is set."""

    def __init__(self) -> None:
        self.entered = threading.Event()

    def readline(self) -> str:
        assert self.entered.wait(30)
        return "\n"


def turn(bus: FakeBus, stdin: Stdin) -> None:
    """A person: every joint from stop to stop and back to the middle, then Enter."""
    for encoder in [*range(2100, HIGH, STEP), HIGH, *range(HIGH, LOW, -STEP), LOW, *range(LOW, 2100, STEP)]:
        for servo in bus.servos.values():
            servo.encoder = encoder
        time.sleep(0.01)
    time.sleep(0.3)
    stdin.entered.set()


def test_enter_ends_the_sweep_and_the_calibration_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = Stdin()
    monkeypatch.setattr(sys, "stdin", stdin)
    with FakeBus(tmp_path) as bus:
        person = threading.Thread(target=turn, args=(bus, stdin), daemon=True)

        def ask(question: str) -> bool:
            if "from stop to stop" in question:
                person.start()
            return True

        said = calibrate(bus.port, tmp_path / "made.yaml", ask)
    assert str(tmp_path / "made.yaml") in said
    for joint in Calibration.load(tmp_path / "made.yaml").joints.values():
        assert joint.high - joint.low == HIGH - LOW


def test_a_check_reads_and_moves_nothing(tmp_path: Path) -> None:
    bus, calibration = so101_bus(tmp_path)
    with bus:
        said = check(RobotChoice("so101", bus.port, None, calibration), 0.5, None)
        assert not any(servo.torque for servo in bus.servos.values())
    assert "readings/s" in said and "fault: none" in said
    assert said.count("rad, range") == 5 and "OUTSIDE" not in said


def test_a_missing_arm_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DriverError):
        check(RobotChoice("so101", str(tmp_path / "none"), None, tmp_path / "none.yaml"), 0.5, None)

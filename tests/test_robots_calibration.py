"""Calibrations: centring against the encoder's arithmetic, files that round-trip, and what is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from latent_mpc.robots.calibration import SEAM_TICKS, Calibration, JointCalibration, centre, read_eeprom
from latent_mpc.robots.feetech_bus import FeetechBus
from latent_mpc.robots.robot import DriverError
from latent_mpc.robots.so101 import SO101_SERVOS
from latent_mpc.types import InvalidInputError

sys.path.insert(0, str(Path(__file__).parent))
from fake_feetech import FakeBus, FakeServo, so101_bus

JOINT = JointCalibration(id=1, low=1000, high=3000, offset=-120, direction=1, gear=1.0)
NAMES = [s.name for s in SO101_SERVOS]


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[tuple[FakeBus, Calibration]]:
    bus, path = so101_bus(tmp_path)
    yield bus, Calibration.load(path)
    bus.hang_up()


@given(st.integers(-8000, 8000), st.integers(1, 4095 - 2 * SEAM_TICKS))
def test_the_range_is_centred_wherever_the_seam_was(low: int, width: int) -> None:
    """The oracle is the servo: every shaft angle of the sweep reads inside the range, in order, far from the seam."""
    offset, new_low, new_high = centre(low, low + width)
    assert -2047 <= offset <= 2047 and abs((new_low + new_high) / 2 - 2048) <= 1.5
    assert new_low >= SEAM_TICKS - 2 and new_high <= 4095 - SEAM_TICKS + 2
    servo = FakeServo(1)
    servo.calibrate(new_low, new_high, offset)
    for encoder in (low, low + width // 3, low + width):
        servo.encoder = encoder % 4096
        assert servo.position == new_low + encoder - low


@pytest.mark.parametrize("width", [4096 - 2 * SEAM_TICKS, 4095, 6000])
def test_a_range_across_the_seam_is_refused(width: int) -> None:
    with pytest.raises(InvalidInputError, match=r"elbow_flex went through \d+ degrees.*seam.*less than a full turn"):
        centre(100, 100 + width, "elbow_flex")


@pytest.mark.parametrize(
    "changes",
    [
        {"low": 3000, "high": 1000},
        {"low": -1},
        {"high": 4096},
        {"offset": 2048},
        {"direction": 0},
        {"gear": 0.0},
        {"gear": math.nan},
        {"id": 254},
        {"low": 1000.0},
        {"low": True},
        {"low": "1000"},
    ],
)
def test_impossible_values_are_refused(changes: dict) -> None:
    with pytest.raises(InvalidInputError, match="servo"):
        replace(JOINT, **changes)


@given(st.floats(-1.5, 1.5), st.sampled_from([1, -1]), st.floats(0.5, 4.0))
def test_angles_and_ticks_are_inverse(angle: float, direction: int, gear: float) -> None:
    joint = replace(JOINT, direction=direction, gear=gear)
    assert joint.angle(joint.ticks(angle)) == pytest.approx(angle, abs=1e-12)
    assert joint.ticks(0.0) == 2048 and (joint.ticks(0.1) > 2048) == (direction > 0)
    assert joint.angle(2048 + 4096 * gear) == pytest.approx(direction * 2 * math.pi)


def test_a_file_round_trips(tmp_path: Path) -> None:
    calibration = Calibration("so101", "5A4B", {"a": JOINT, "b": replace(JOINT, id=2, direction=-1, gear=2.5)})
    calibration.save(tmp_path / "a.yaml")
    assert Calibration.load(tmp_path / "a.yaml") == calibration
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["joints"]["a"]["low"] == 1000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("low: 1000", "low: 1001", "changed by hand or damaged"),
        ("direction: 1", "direction: -1", "changed by hand or damaged"),
        ("checksum", "sum", "not a sound calibration"),
        ("arm: so101", "!!python/object/apply:os.system ['true']", "not a sound calibration"),
        ("arm: so101", "{", "not a sound calibration"),
        ("arm: so101", "a: &a [x]\nb: *a\narm: so101", "changed by hand or damaged"),
        ("arm", "\x00", "not a sound calibration"),
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    Calibration("so101", "", {"a": JOINT}).save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InvalidInputError, match=message):
        Calibration.load(path)


@given(st.binary(max_size=200))
def test_no_bytes_crash_it(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="bytes"):
        Calibration.load(path)


def test_a_missing_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no calibration .*latent-mpc calibrate"):
        Calibration.load(tmp_path / "none.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"a" * 70000)
    with pytest.raises(InvalidInputError, match="too large"):
        Calibration.load(tmp_path / "huge.yaml")


def test_it_agrees_with_the_servos_that_it_was_made_on(arm: tuple[FakeBus, Calibration]) -> None:
    bus, calibration = arm
    port = FeetechBus(bus.port)
    held = read_eeprom(port, SO101_SERVOS[2])
    assert held["model"] == 777 and held["offset"] == -300 == calibration.joints["elbow_flex"].offset
    calibration.check(port, SO101_SERVOS, "so101", "5A4B")
    with pytest.raises(DriverError, match="USB adapter 1111, and here is 2222"):
        replace(calibration, serial="1111").check(port, SO101_SERVOS, "so101", "2222")
    with pytest.raises(DriverError, match=r"calibration of so101 .* not of other"):
        calibration.check(port, SO101_SERVOS, "other")
    bus.servos[4].calibrate(500, 3000, 7)
    with pytest.raises(DriverError, match=r"wrist_flex \(servo 4\) holds offset 7 and range 500 to 3000"):
        calibration.check(port, SO101_SERVOS, "so101")
    port.close()

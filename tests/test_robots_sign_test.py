"""The sign test on a fake arm: what the person is told, how far the arm moves, and what their answer becomes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.feetech import FeetechDriver
from latent_mpc.robots.robot import DriverError
from latent_mpc.robots.sign_test import sign_test
from latent_mpc.robots.so101 import JOINTS, MOTIONS

sys.path.insert(0, str(Path(__file__).parent))
from fake_feetech import FakeBus, so101_bus


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeBus, FeetechDriver]]:
    monkeypatch.setattr("latent_mpc.robots.feetech.DEAD_AFTER_S", 5.0)  # the fake shares a busy machine
    bus, calibration = so101_bus(tmp_path)
    driver = FeetechDriver(bus.port, calibration)
    driver.connect()
    driver.arm()
    yield bus, driver
    driver.close()
    bus.hang_up()
    assert bus.wrong == []


def test_each_joint_is_nudged_after_asking_and_put_back(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    questions: list[str] = []
    encoders: list[np.ndarray] = []

    def ask(question: str) -> bool:
        questions.append(question)
        driver.read()
        encoders.append(np.array([servo.encoder for servo in bus.servos.values()]))
        return not question.startswith("May wrist_roll") and not question.startswith("Did elbow_flex")

    right = sign_test(driver, MOTIONS, ask, nudge_rad=0.06, speed_rad_s=0.6)
    assert right == {"shoulder_pan": True, "shoulder_lift": True, "elbow_flex": False, "wrist_flex": True}
    assert questions[:2] == [
        "May shoulder_pan move by 3 degrees, to the arm's own right?",
        "Did shoulder_pan turn to the arm's own right?",
    ]
    for k in range(4):
        moved = encoders[2 * k + 1] - encoders[2 * k]
        assert moved[k] == pytest.approx(0.06 / 0.001534, abs=5) and np.abs(np.delete(moved, k)).max() < 3
    np.testing.assert_allclose(encoders[-1], encoders[0], atol=3)


def test_near_its_upper_end_a_joint_is_nudged_down(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    driver.disarm()
    bus.servos[1].encoder += round(1.9 / 0.001534)
    driver.arm()
    questions: list[str] = []
    sign_test(driver, MOTIONS, lambda q: bool(questions.append(q)) or JOINTS[0] in q, speed_rad_s=0.6)
    assert questions[1] == "Did shoulder_pan turn to the arm's own left?"


def test_a_joint_that_does_not_follow_is_named(arm: tuple[FakeBus, FeetechDriver]) -> None:
    bus, driver = arm
    bus.servos[2].blocked = True
    with pytest.raises(DriverError, match=r"shoulder_lift moved by .*blocked"):
        sign_test(driver, MOTIONS, lambda _: True, speed_rad_s=0.6)

"""Calibrating a fake arm: a scripted person turns its joints, wherever the encoders' seams lie."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.calibration import Calibration
from latent_mpc.robots.feetech import FeetechDriver
from latent_mpc.robots.feetech_bus import FeetechBus
from latent_mpc.robots.robot import DriverError
from latent_mpc.robots.so101 import SO101_SERVOS
from latent_mpc.robots.sweep import calibrate, write_eeprom
from latent_mpc.types import LatentMPCError

sys.path.insert(0, str(Path(__file__).parent))
from fake_feetech import FakeBus

STOPS = {1: (700, 3200), 2: (3000, 5200), 3: (-900, 1250), 4: (1000, 3100), 5: (2500, 6140), 6: (3500, 4700)}
SEAMS = [2, 3, 5, 6]  # servos whose range holds 4096 or 0


class Person:
    """Turns every joint from stop to stop, `step` ticks between two readings; agrees to everything but `refuse`."""

    def __init__(self, bus: FakeBus, stops: dict[int, tuple[int, int]], step: int = 60, refuse: str = "") -> None:
        self.bus, self.stops, self.step, self.refuse = bus, stops, step, refuse
        self.questions: list[str] = []
        self.progress: list[dict[str, tuple[int, int, int]]] = []
        self.at = {i: (low + high) // 2 for i, (low, high) in stops.items()}
        self.ways = {i: [high, low, (low + high) // 2] for i, (low, high) in stops.items()}
        self.settle = 3
        self.place()

    def place(self) -> None:
        for i, encoder in self.at.items():
            self.bus.servos[i].encoder = encoder % 4096

    def ask(self, question: str) -> bool:
        self.questions.append(question)
        return not (self.refuse and self.refuse in question)

    def report(self, progress: dict[str, tuple[int, int, int]]) -> bool:
        self.progress.append(progress)
        for i, way in self.ways.items():
            if way:
                self.at[i] += int(np.clip(way[0] - self.at[i], -self.step, self.step))
                if self.at[i] == way[0] and not self.bus.corrupt:
                    way.pop(0)
                elif self.at[i] == way[0] and progress[SO101_SERVOS[i - 1].name][1] % 4096 == self.at[i] % 4096:
                    way.pop(0)
        self.place()
        self.settle -= not any(self.ways.values())
        return self.settle < 0


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[FakeBus]:
    """Servos as the maker sends them, one with an old offset, one that counts turns, one stiff."""
    with FakeBus(tmp_path) as bus:
        bus.servos[4].calibrate(0, 4095, -500)
        bus.servos[5].registers[18] |= 16
        bus.servos[2].set(42, sum(STOPS[2]) // 2 % 4096)  # where the person will find it
        bus.servos[2].registers[40] = 1
        yield bus
        assert bus.wrong == []


@pytest.fixture
def port(bus: FakeBus) -> Iterator[FeetechBus]:
    port = FeetechBus(bus.port, timeout_s=0.05)  # the fake shares a busy machine
    yield port
    port.close()


def eeproms(bus: FakeBus) -> list[bytes]:
    return [servo.eeprom for servo in bus.servos.values()]


@pytest.mark.parametrize("corrupt", [0.0, 0.1])
def test_ranges_are_found_across_seams_and_driven(
    bus: FakeBus, port: FeetechBus, tmp_path: Path, corrupt: float
) -> None:
    bus.corrupt = corrupt
    person = Person(bus, STOPS)
    calibration = calibrate(port, SO101_SERVOS, person.ask, person.report, serial="5A4B")
    bus.corrupt = 0.0
    port.close()
    for i, (servo, (low, high)) in enumerate(STOPS.items()):
        joint = calibration.joints[SO101_SERVOS[i].name]
        assert joint.high - joint.low == pytest.approx(high - low, abs=0 if not corrupt else person.step)
        assert abs(joint.low + joint.high - 4096) <= 2
        assert bus.servos[servo].position == pytest.approx(2048, abs=person.step + 1)
    for servo in bus.servos.values():
        servo.power_cycle()
    calibration.save(tmp_path / "made.yaml")
    driver = FeetechDriver(bus.port, tmp_path / "made.yaml")
    driver.connect()
    np.testing.assert_allclose(driver.read().q_rad, 0, atol=0.2)
    driver.arm()
    driver.disarm()
    driver.close()
    assert Calibration.load(tmp_path / "made.yaml").serial == "5A4B"


@pytest.mark.parametrize("question", ["go limp", "from stop to stop", "Write"])
def test_breaking_off_writes_no_range(bus: FakeBus, port: FeetechBus, question: str) -> None:
    before = eeproms(bus)
    person = Person(bus, STOPS, refuse=question)
    with pytest.raises(DriverError, match="broken off"):
        calibrate(port, SO101_SERVOS, person.ask, person.report)
    after = eeproms(bus)
    assert [e[9:13] + e[31:33] for e in after] == [e[9:13] + e[31:33] for e in before]
    assert question != "go limp" or (after == before and bus.servos[2].torque)


@pytest.mark.parametrize(
    ("stops", "step", "message"),
    [
        ({**STOPS, 5: (0, 4090)}, 60, r"wrist_roll went through .*seam.*less than a full turn"),
        ({**STOPS, 3: (1000, 1400)}, 60, r"elbow_flex moved through 35 degrees, and its range is about 194"),
        (STOPS, 1400, "turned too fast to be followed"),
    ],
)
def test_a_bad_sweep_is_refused(
    bus: FakeBus, port: FeetechBus, stops: dict[int, tuple[int, int]], step: int, message: str
) -> None:
    before = eeproms(bus)
    person = Person(bus, stops, step)
    with pytest.raises(LatentMPCError, match=message):
        calibrate(port, SO101_SERVOS, person.ask, person.report)
    assert [e[9:13] + e[31:33] for e in eeproms(bus)] == [e[9:13] + e[31:33] for e in before]


def breaks(bus: FakeBus) -> None:
    bus.servos[3].ignores_offset = True


def dies(bus: FakeBus) -> None:
    bus.servos[3].dead = True


@pytest.mark.parametrize(
    ("harm", "message"),
    [(breaks, r"elbow_flex .*outside .*does not apply the offset"), (dies, r"elbow_flex .*(stopped|does not) answer")],
)
def test_a_servo_that_fails_is_named(
    bus: FakeBus, port: FeetechBus, harm: Callable[[FakeBus], None], message: str
) -> None:
    harm(bus)
    person = Person(bus, {**STOPS, 3: (3000, 5150)})
    with pytest.raises(DriverError, match=message):
        calibrate(port, SO101_SERVOS, person.ask, person.report)


def test_a_servo_that_dies_during_the_sweep_is_named(bus: FakeBus, port: FeetechBus) -> None:
    person = Person(bus, STOPS)

    def report(progress: dict[str, tuple[int, int, int]]) -> bool:
        bus.servos[6].dead = True
        return False

    with pytest.raises(DriverError, match=r"gripper \(servo 6\) stopped answering during the sweep"):
        calibrate(port, SO101_SERVOS, person.ask, report)


def test_nothing_is_written_to_a_servo_that_did_not_hear_that_it_is_open(bus: FakeBus, port: FeetechBus) -> None:
    """It would take the value, show it, and forget it without power."""
    unlock, tries = bytes((0xFF, 0xFF, 3, 4, 3, 55, 0)), []
    bus.lose = lambda request: request.startswith(unlock) and len(tries) < 3 and tries.append(request) is None
    write_eeprom(port, SO101_SERVOS[2], 9, bytes((100, 0, 200, 0)))
    assert len(tries) == 3
    bus.servos[3].power_cycle()
    assert bus.servos[3].get(9) == 100 and bus.servos[3].get(11) == 200 and bus.servos[3].registers[55] == 1
    bus.lose = lambda request: request.startswith(unlock)
    with pytest.raises(DriverError, match=r"elbow_flex \(servo 3\) does not keep"):
        write_eeprom(port, SO101_SERVOS[2], 9, bytes((101, 0, 200, 0)))
    assert bus.servos[3].get(9) == 100

"""The simulated robot between its slots, on a handed-in clock: time, arming, faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest

from latent_mpc.envs.rendering import make_renderer
from latent_mpc.envs.scene import build_model
from latent_mpc.robots.panda import panda
from latent_mpc.robots.simulation_link import Link, Slots
from latent_mpc.robots.simulation_loop import FLASH, Loop
from latent_mpc.robots.world import SceneCamera, SimulationConfig, World

from .leaks import no_memory_left

ROOT = Path(__file__).parents[1]
SPEC = panda(ROOT / "envs/panda.xml")
DT = 0.004
START = 100.0  # of the handed-in clock


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.mjb"
    mujoco.mj_saveModel(build_model(1, DT), str(path), None)
    return path


class Bench:
    """A loop on a clock of its own, and everybody who talks to it."""

    def __init__(self, config: SimulationConfig) -> None:
        self.world = World(config)
        link = Link(config, self.world.model.nq, self.world.model.nv)
        self.slots = Slots(link)
        self.now, self.sequence, self.placing = START, 0, 0
        self.loop = Loop(self.world, self.slots, self.now)
        self.frames: list[tuple[float, np.void]] = []

    def run(self, seconds: float, tick_s: float = 0.001) -> None:
        for _ in range(round(seconds / tick_s)):
            self.now += tick_s
            self.loop.tick(self.now)
            read = self.slots.frame.read()
            if read and read[1] > len(self.frames):
                self.frames.append((self.now, read[0]))

    def command(
        self, q_rad: np.ndarray, arming: int = 1, stop: bool = False, motion_s: float = 0.0, obeyed: bool = True
    ) -> None:
        self.sequence += 1
        record = np.zeros((), self.slots.command.dtype)
        record["sequence"], record["arming"], record["stop"], record["motion_s"] = self.sequence, arming, stop, motion_s
        record["q_rad"], record["gripper"], record["sent_s"] = q_rad, 1.0, self.now
        self.slots.command.write(record)
        self.run(0.01 if obeyed else 0.0)

    def cut(self, arming: int) -> None:
        self.slots.cut.write(np.array((arming, self.now), self.slots.cut.dtype))

    def inject(self, **faults: object) -> None:
        record = np.zeros((), self.slots.control.dtype)
        record["blocked"], record["qpos"], record["placing"] = -1, np.nan, self.placing
        for name, value in faults.items():
            record[name] = value
        self.placing = int(record["placing"])
        self.slots.control.write(record)
        self.run(0.01)

    @property
    def state(self) -> np.void:
        return self.slots.state.read()[0]

    @property
    def truth(self) -> np.void:
        return self.slots.truth.read()[0]


@pytest.fixture
def bench(scene) -> Iterator[Bench]:
    with no_memory_left():
        bench = Bench(SimulationConfig(scene, SPEC))
        yield bench
        bench.slots.close()


@pytest.fixture
def filmed(scene) -> Iterator[Bench]:
    bench = Bench(SimulationConfig(scene, SPEC, camera=SceneCamera(make_renderer, size=32, supersample=1)))
    yield bench
    bench.slots.close()
    bench.world.close()


# ---- time ----


def test_overdue_steps_are_made_up_for_and_none_is_lost(bench) -> None:
    rng = np.random.default_rng(0)
    while bench.now < START + 5:
        bench.now += float(rng.choice([0.0005, 0.003, 0.05]))  # a bad scheduler
        wake = bench.loop.tick(bench.now)
        assert bench.now < wake <= bench.now + DT + 1e-9
        assert -1e-6 < bench.now - START - bench.world.data.time < DT + 1e-6
    assert bench.truth["late_s"] == pytest.approx(0.05, abs=DT)
    assert bench.state["time_s"] == bench.world.data.time
    assert bench.state["sent_s"] <= bench.now


def test_frames_come_at_their_rate_with_their_latency_and_in_order(filmed) -> None:
    filmed.run(5, tick_s=0.0013)  # no divisor of the frames' period: what is late must not add up
    sent = np.array([now for now, _ in filmed.frames])
    captured = np.array([frame["captured_s"] for _, frame in filmed.frames])
    numbers = np.array([frame["sequence"] for _, frame in filmed.frames])
    np.testing.assert_allclose(captured, START + 0.05 * (numbers - 1) + 0.001, atol=2e-3)
    latency = sent - captured
    assert len(numbers) >= 97
    assert (np.diff(numbers) == 1).all()
    assert 0.03 <= latency.min() < 0.035
    assert 0.056 < latency.max() <= 0.0625
    assert 0.03 + 0.03 / np.sqrt(12) == pytest.approx(0.03 + latency.std(), abs=0.002)  # uniform


def test_a_frame_holds_the_arm_and_the_motion_clock_of_its_capture(filmed) -> None:
    q = filmed.world.q_rad
    filmed.command(q)
    history = {}
    for k in range(100):
        q[0] += 0.005
        filmed.command(q, motion_s=0.01 * k)
        history[filmed.now] = (filmed.world.q_rad, 0.01 * k)
    checked = 0
    for _, frame in filmed.frames[3:]:
        at = max(t for t in history if t < frame["captured_s"] + 1e-9)
        np.testing.assert_allclose(frame["q_rad"], history[at][0], atol=0.012)
        assert frame["motion_s"] == pytest.approx(history[at][1], abs=0.0101)
        checked += 1
    assert checked >= 15
    assert filmed.frames[-1][1]["q_rad"][0] > filmed.frames[3][1]["q_rad"][0] + 0.3
    assert np.isnan(filmed.frames[0][1]["motion_s"])


# ---- arming, cutting, watchdog ----


def test_setpoints_count_under_their_arming_only_and_a_cut_is_for_good(bench) -> None:
    start = bench.world.q_rad
    bench.command(start)
    assert bench.state["armed"]
    for _ in range(30):
        bench.command(start + 0.001)
    assert bench.truth["unarmed"] == 0
    bench.cut(1)
    bench.run(0.01)
    assert not bench.state["armed"]
    assert not bench.world.powered
    bench.command(start)  # a controller that has not noticed
    bench.command(start, arming=1, stop=True)
    assert not bench.state["armed"]
    assert bench.truth["unarmed"] == 2
    bench.command(start, arming=2)
    assert bench.state["armed"]
    bench.command(start + 1.0, arming=1)  # the old one again
    assert bench.truth["unarmed"] == 3
    bench.run(0.5)
    np.testing.assert_allclose(bench.world.q_rad, start, atol=0.01)


def test_what_was_sent_before_the_cut_and_is_seen_after_it_is_no_violation(bench) -> None:
    bench.command(bench.world.q_rad)
    bench.command(bench.world.q_rad, obeyed=False)
    bench.now += 0.001
    bench.cut(1)
    bench.run(0.01)
    assert not bench.world.powered
    assert bench.truth["unarmed"] == 0


def test_a_cut_beforehand_forbids_its_arming(bench) -> None:
    bench.cut(3)
    bench.command(bench.world.q_rad, arming=3)
    assert not bench.state["armed"]
    assert bench.state["arming"] == 0, "it was armed for a moment"
    bench.command(bench.world.q_rad, arming=4)
    assert bench.state["armed"]


def test_silence_holds_the_last_setpoint_and_is_counted_once(bench) -> None:
    q = bench.world.q_rad
    bench.command(q)
    for _ in range(50):
        q[1] += 0.005
        bench.command(q)
    assert bench.truth["silences"] == 0
    bench.run(1)
    assert bench.truth["silences"] == 1
    np.testing.assert_allclose(bench.world.q_rad, q, atol=2e-3)
    assert np.abs(bench.world.qd_rad_s).max() < 1e-3


def test_violations_are_what_was_received(bench) -> None:
    q = bench.world.q_rad
    bench.command(q)
    for bad in (q + 0.5, q * np.nan):
        bench.command(bad)
        bench.command(q)
    truth = bench.truth
    assert [int(truth[n]) for n in ("not_finite", "velocity", "acceleration", "position", "unarmed")] == [1, 2, 3, 0, 0]
    assert np.isfinite(bench.world.data.qpos).all()


def test_stop_brakes_and_a_later_setpoint_resumes(bench) -> None:
    q = bench.world.q_rad
    bench.command(q)
    for k in range(50):
        q[0] += min(k, 10) * 1e-3
        bench.command(q)
    bench.command(q, stop=True)
    bench.run(0.5)
    rest = bench.world.q_rad
    assert np.abs(bench.world.qd_rad_s).max() < 1e-3
    assert 0.01 < rest[0] - q[0] < 0.06  # v²/2a = 0.033 rad
    for _ in range(20):
        bench.command(bench.world.data.ctrl[:7].copy())
    assert bench.truth["acceleration"] == bench.truth["velocity"] == 0


# ---- faults ----


def test_a_frozen_stream_repeats_its_last_state_while_the_robot_moves_on(bench) -> None:
    q = bench.world.q_rad
    bench.command(q)
    bench.inject(frozen=True)
    before = bench.state
    bench.command(q + 0.01)
    bench.run(0.5)
    assert bench.state == before
    np.testing.assert_allclose(bench.truth["qpos"][:7], q + 0.01, atol=1e-3)
    bench.inject()
    assert bench.state["sequence"] > before["sequence"] + 100


def test_a_nan_reading_is_in_the_state_only(bench) -> None:
    bench.inject(nan=True)
    assert np.isnan(bench.state["q_rad"]).all()
    assert np.isfinite(bench.truth["qpos"]).all()
    bench.inject()
    assert np.isfinite(bench.state["q_rad"]).all()


def test_a_protective_stop_holds_until_it_is_cleared_and_armed_again(bench) -> None:
    q = bench.world.q_rad
    bench.command(q)
    bench.inject(protective_stop=True)
    assert b"protective stop" in bench.state["fault"]
    bench.command(q + 0.5)
    bench.run(0.5)
    np.testing.assert_allclose(bench.world.q_rad, q, atol=1e-3)
    bench.command(q, arming=2)
    assert not bench.state["armed"]
    bench.inject()
    assert bench.state["fault"] == b"", "nobody could connect again otherwise"
    bench.command(q + 0.5, arming=1)
    assert not bench.state["armed"]
    np.testing.assert_allclose(bench.world.q_rad, q, atol=1e-3)
    bench.command(q, arming=3)
    assert bench.state["armed"]
    assert bench.state["fault"] == b""


def test_an_object_is_put_elsewhere_once(bench) -> None:
    qpos = np.full(bench.world.model.nq, np.nan)
    address = int(bench.world.model.joint("object0").qposadr[0])
    qpos[address : address + 3] = 0.5, 0.1, 0.5
    bench.inject(placing=1, qpos=qpos)
    assert bench.truth["placing"] == 1
    assert bench.truth["qpos"][address + 2] == pytest.approx(0.5, abs=0.01)
    bench.run(1)
    bench.inject(placing=1, qpos=qpos)
    assert bench.truth["qpos"][address + 2] < 0.1  # it fell, and was not lifted again


def test_frame_faults(filmed) -> None:
    def newest(**faults: object) -> np.ndarray:
        filmed.inject(**faults)
        filmed.run(0.2)
        frame = filmed.frames[-1][1]
        return frame["image"][: frame["height"], : frame["width"]]

    sound = newest()
    assert sound.shape == (32, 32, 3)
    assert (newest(frame=2) == 0).all()
    assert (newest() == sound).all()
    assert (newest(frame=4) == sound[..., ::-1]).all()
    assert newest(frame=5).shape == (32, 16, 3)
    bright = np.minimum(sound.astype(int) + FLASH, 255)
    assert (newest(flash=True) == bright).all()
    flashed = [frame["captured_s"] for _, frame in filmed.frames if (frame["image"] == bright).all()]
    assert filmed.truth["flash_s"] == min(flashed)
    newest()
    assert np.isnan(filmed.truth["flash_s"])
    filmed.inject(frame=3)
    filmed.run(0.1)
    filmed.world.data.qpos[:7] += 0.3
    count = len(filmed.frames)
    filmed.run(0.3)
    assert len(filmed.frames) >= count + 5
    assert (filmed.frames[-1][1]["image"] == sound).all()
    assert (newest() != sound).any()
    filmed.inject(frame=1)
    count = len(filmed.frames)
    filmed.run(0.3)
    assert len(filmed.frames) == count

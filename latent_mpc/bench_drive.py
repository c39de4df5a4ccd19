"""The loop that drives an arm, measured in real time: `latent-mpc bench drive`.

driven      episodes of the task through all processes, in real time
rehearsed   the same loop in simulated time: the same on any machine
plain       the environment alone, on the same seeds
reaction    from the first frame that is brighter to the first setpoint of a plan that has seen one
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np
from tqdm import tqdm

from latent_mpc.agent import load_agent
from latent_mpc.drive import Drive, DriveConfig, Station, simulated_station
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.evaluation import wilson_interval
from latent_mpc.loop import run_episode
from latent_mpc.pilot import PilotConfig
from latent_mpc.rehearsal import Outcome, RehearsalConfig, rehearse
from latent_mpc.robots.channels import Phase, Status
from latent_mpc.robots.log import read_run
from latent_mpc.robots.world import Faults
from latent_mpc.types import InvalidInputError

FIRST_SEED = 7_000_000  # no other command gets there
FLASH_EVERY_S = (1.0, 2.0)
FLASH_S = 0.3


@dataclass(frozen=True)
class DriveBenchConfig:
    """What to measure.

    Attributes:
        task: of the simulated arm. episodes: of each row; 50 for a table to publish.
        seconds: of a driven episode at most.
        rehearsed, plain: also run these rows, on the same seeds.
        flashes: how many reactions to time; 0 for none.
        weights: of the agent.
    """

    task: str = "PickPlace"
    episodes: int = 50
    seconds: float = 30.0
    rehearsed: bool = True
    plain: bool = True
    flashes: int = 40
    weights: str = "panda-tabletop"

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.flashes < 0 or self.seconds <= 0:
            raise InvalidInputError(f"need episodes >= 1, flashes >= 0 and seconds > 0, got {self}")


def run_drive_bench(config: DriveBenchConfig, *, seed: int = 0) -> str:
    """Measure; the result in Markdown."""
    lines = ["| | success | 95 % | s an episode | plans/s | ms a plan, most | violations |", "|---" * 7 + "|"]
    driven, times, rates, thoughts, late, violations = 0, [], [], [], [], 0
    for s in tqdm(range(config.episodes), desc="driven", unit="episode"):
        with simulated_station(config.task, FIRST_SEED + seed + s) as station:
            settings = DriveConfig(weights=config.weights, seed=s, seconds=config.seconds)
            with Drive(station, settings) as drive:
                report = drive.run()
            driven += bool(report.success)
            times.append(report.seconds)
            rates.append(report.plans / report.seconds)
            thoughts.append(report.think_ms)
            late.append(report.period_error_ms)
            violations += _violations(station)
        tqdm.write(f"{driven} of {s + 1}")
    mean_ms, most_ms = statistics.fmean(mean for mean, _ in thoughts), max(most for _, most in thoughts)
    lines.append(
        f"| driven | {_rate(driven, config.episodes)} | {statistics.fmean(times):.1f} | {statistics.fmean(rates):.1f} "
        f"| {mean_ms:.0f}, {most_ms:.0f} | {violations} |"
    )
    if config.rehearsed:
        outcomes = _rehearsed(config, seed)
        plans, seconds = sum(o.plans for o in outcomes), sum(o.seconds for o in outcomes)
        lines.append(
            f"| rehearsed in simulated time | {_rate(sum(o.success for o in outcomes), config.episodes)} "
            f"| {seconds / config.episodes:.1f} | {plans / seconds:.1f} | | {sum(o.violations for o in outcomes)} |"
        )
    if config.plain:
        lines.append(f"| plain environment | {_rate(_plain(config, seed), config.episodes)} | | | | |")
    p50, p99, worst = np.median([row[0] for row in late]), max(row[1] for row in late), max(row[2] for row in late)
    lines += ["", f"Ticks at 100 Hz late by {p50:.2f} ms (median), {p99:.1f} (99th percentile), {worst:.1f} (worst)."]
    if config.flashes:
        seen = reactions_s(config, seed)
        median, most = np.quantile(seen, [0.5, 0.95])
        lines.append(
            f"Reaction, {len(seen)} flashes: {1e3 * median:.0f} ms (median), {1e3 * most:.0f} (95th percentile), "
            f"{1e3 * max(seen):.0f} (worst)."
        )
    return "\n".join(lines)


def reactions_s(config: DriveBenchConfig, seed: int = 0) -> list[float]:
    """Seconds from each change of the image to the first setpoint that it changed, as many episodes as it takes."""
    found: list[float] = []
    rng = np.random.default_rng(seed)
    with tqdm(total=config.flashes, desc="reactions", unit="flash") as bar:
        while len(found) < config.flashes:
            seed += 1
            with tempfile.TemporaryDirectory() as folder, simulated_station(config.task, FIRST_SEED + seed) as station:
                log = Path(folder) / "run"
                settings = DriveConfig(weights=config.weights, seed=seed, seconds=config.seconds, log=log)
                endless = replace(station, judge=None)
                flashes = _Flashes(endless, rng)
                with flashes, Drive(endless, settings) as drive:
                    drive.run(flashes.watch)
                ticks = read_run(log).ticks
            running = ticks[ticks["phase"] == Phase.RUNNING]
            for frame, at_s in flashes.seen:
                answer = running[running["observation"] >= frame]
                if len(answer) and len(found) < config.flashes:
                    found.append(float(answer["now_s"][0]) - at_s)
                    bar.update()
    return found


class _Flashes:
    """Brightens the image now and then, while the arm moves; keeps the first frame of each, and when it was taken."""

    def __init__(self, station: Station, rng: np.random.Generator) -> None:
        assert station.simulation is not None
        self._simulation, self._rng = station.simulation, rng
        self._camera = station.make_camera()
        self._camera.connect()
        self._next_s, self._until_s = np.inf, 0.0
        self.seen: list[tuple[int, float]] = []

    def __enter__(self) -> _Flashes:
        return self

    def __exit__(self, *_: object) -> None:
        self._camera.close()

    def watch(self, status: Status, view: object) -> None:
        """For `Drive.run`."""
        now_s = time.monotonic()
        if status.phase is not Phase.RUNNING:
            return
        if self._next_s == np.inf:
            self._next_s = now_s + self._rng.uniform(*FLASH_EVERY_S)
        if self._until_s and now_s > self._until_s:
            self._simulation.inject(Faults())
            self._until_s = 0.0
        elif now_s > self._next_s:
            before = self._simulation.truth().flash_s
            self._simulation.inject(Faults(flash=True))
            self._until_s, self._next_s = now_s + FLASH_S, now_s + self._rng.uniform(*FLASH_EVERY_S)
            self._note(before)

    def _note(self, before: float) -> None:
        """Wait for the first bright frame."""
        deadline_s = time.monotonic() + 0.5
        while time.monotonic() < deadline_s:
            truth, frame = self._simulation.truth(), self._camera.read()
            if truth.flash_s != before and frame is not None and frame.captured_s >= truth.flash_s:
                self.seen.append((frame.sequence, truth.flash_s))
                return
            time.sleep(0.002)


def _rate(successes: int, episodes: int) -> str:
    """Two cells: the success, and its interval."""
    low, high = wilson_interval(successes, episodes)
    return f"{successes} of {episodes} | {100 * low:.0f}–{100 * high:.0f} %"


def _violations(station: Station) -> int:
    """Setpoints that no sound controller sends, as the simulated arm counted them."""
    assert station.simulation is not None
    return sum(vars(station.simulation.truth().violations).values())


def _rehearsed(config: DriveBenchConfig, seed: int) -> list[Outcome]:
    """Episodes in simulated time."""
    agent, env = load_agent(config.weights), TabletopEnv(config.task)
    pilot, rehearsal = PilotConfig(deadline_s=None), RehearsalConfig(seconds=config.seconds)
    seeds = tqdm(range(config.episodes), desc="rehearsed", unit="episode")
    return [rehearse(agent, env, seed=FIRST_SEED + seed + s, config=rehearsal, pilot_config=pilot) for s in seeds]


def _plain(config: DriveBenchConfig, seed: int) -> int:
    """Successes in the plain environment."""
    env = gymnasium.make(f"latent_mpc/{config.task}-v0", disable_env_checker=True)
    agent = load_agent(config.weights)
    seeds = tqdm(range(config.episodes), desc="plain", unit="episode")
    return sum(run_episode(env, agent, seed=FIRST_SEED + seed + s).success for s in seeds)

"""The failure gallery: what is recorded of a real episode, what is counted, pictured and refused."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from latent_mpc import evaluation, failures
from latent_mpc.baselines import ExpertAgent, NoOpAgent
from latent_mpc.cli import app
from latent_mpc.envs.make import make_env
from latent_mpc.envs.tabletop import TabletopConfig
from latent_mpc.evaluation import EvalConfig, Job, evaluate
from latent_mpc.failure_kinds import Failure, Kind, sort_failures
from latent_mpc.failure_strip import FRAMES, MAX_BYTES, SIDE, key_moments, small_png, strip
from latent_mpc.failure_trace import FailureTrace, TraceRecorder
from latent_mpc.failures import Case, Gallery, find_failures, picture_name, typical
from latent_mpc.loop import run_episode
from latent_mpc.types import InvalidInputError, UnknownNameError

SMALL = TabletopConfig(image_size=16, supersample=1)
CONFIG = EvalConfig(tasks=("PickPlace", "Reach"), agents=("no-op", "random"), episodes=2, workers=1, env=SMALL)


class Interrupted(ExpertAgent):
    """The expert until it has the thing up in its fingers, then one and the same action."""

    def __init__(self, env: Any, grip: float) -> None:
        super().__init__(env)
        self._env, self._then, self._up = env, np.array([0, 0, 0, 0, grip], np.float32), False

    def act(self, observation: Any) -> Any:
        self._up |= bool(self._env.grasped()[0]) and self._env.object_positions()[0, 2] > 0.06
        return self._then if self._up else super().act(observation)


def recorded(agent: Any, env: Any, seed: int = 0) -> FailureTrace:
    recorder = TraceRecorder(env.unwrapped, agent)
    run_episode(env, agent, seed=seed, callbacks=[recorder])
    return recorder.finish()


@pytest.fixture(scope="module")
def env():
    env = make_env("latent_mpc/PickPlace-v0", SMALL)
    yield env
    env.close()


@pytest.mark.parametrize(("grip", "kind"), [(1.0, Kind.IN_HAND), (-1.0, Kind.LET_GO)])
def test_a_real_grasp_that_is_held_or_let_go_too_soon(env, grip, kind):
    trace = recorded(Interrupted(env.unwrapped, grip), env)
    (failure,) = sort_failures(trace)
    assert failure.kind == kind and failure.tries == 1 and failure.off_m > 0.06
    lifted = trace.held[:, 0] & (trace.thing_m[:, 0, 2] > 0.05)
    assert lifted.any() and lifted[-1] == (kind == Kind.IN_HAND)
    assert 0 < trace.area[0, 0] < 0.05 and trace.tool_m.shape == (trace.steps + 1, 3)
    assert trace.upright[0, 0] == pytest.approx(1)


def test_the_expert_leaves_no_failure(env):
    assert sort_failures(recorded(ExpertAgent(env.unwrapped), env)) == []


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    results = tmp_path_factory.mktemp("eval")
    evaluate(CONFIG, weights="none", out=results, progress=False)
    return results


@pytest.fixture(scope="module")
def found(evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("failures") / "new"
    out.mkdir()
    (out / picture_name(Kind.DRAGGED)).write_bytes(b"of another evaluation")
    return out, find_failures(evaluated, out=out, progress=False)


def test_who_does_nothing_reaches_nothing(found):
    out, gallery = found
    assert gallery.tasks == ("PickPlace",) and gallery.episodes == {"PickPlace": 2} and gallery.changed == ()
    assert [(case.job.seed, case.failure.kind) for case in gallery.cases] == [
        (1_000_000, Kind.NOT_REACHED),
        (1_000_001, Kind.NOT_REACHED),
    ]
    table = (out / "table.md").read_text()
    assert table == f"{gallery}\n" and "| never reached | 2 | **2** |" in table and "| 2 of 2 | 2 of 2 |" in table
    report = json.loads((out / "failures.json").read_text())
    assert [row["kind"] for row in report["failures"]] == ["never reached"] * 2
    assert report["failures"][0]["seen_off_m"] is None  # valid JSON has no NaN


def test_only_kinds_that_occur_are_pictured(found):
    out, _ = found
    assert [file.name for file in out.glob("*.png")] == ["not-reached.png"]
    picture = Image.open(out / "not-reached.png")
    assert (out / "not-reached.png").stat().st_size <= MAX_BYTES and picture.width > (FRAMES + 1) * SIDE


def test_another_agent_of_the_evaluation(evaluated, tmp_path):
    gallery = find_failures(evaluated, out=tmp_path, agent="random", progress=False)
    assert {case.job.agent for case in gallery.cases} == {"random"} and "`random`" in gallery.source


def test_what_succeeds_this_time_is_left_out(evaluated, tmp_path, monkeypatch):
    class Lucky(NoOpAgent):
        """Does nothing, but for one episode, in which it is the expert."""

        def __init__(self, env: Any) -> None:
            super().__init__(5)
            self._expert, self._lucky = ExpertAgent(env), False

        def reset(self, goal_image: Any, *, seed: int | None = None) -> None:
            self._lucky = seed == 1_000_001
            self._expert.reset(goal_image, seed=seed)

        def act(self, observation: Any) -> Any:
            return (self._expert if self._lucky else super()).act(observation)

    monkeypatch.setattr(evaluation, "make_agent", lambda name, env, *_: Lucky(env.unwrapped))
    gallery = find_failures(evaluated, out=tmp_path, progress=False)
    assert [case.job.seed for case in gallery.cases] == [1_000_000]
    assert gallery.changed == (Job("PickPlace", "no-op", 1_000_001),) and "1 more had failed" in str(gallery)


def case(kind: Kind, task: str, seed: int, moment: int) -> Case:
    nan = float("nan")
    failure = Failure(
        thing=0,
        kind=kind,
        moment=moment,
        off_m=0.05,
        tries=3,
        on_top=2,
        beside_m=0.031,
        aimed_m=nan,
        seen_off_m=0.012,
        hidden_off_m=0.07,
        goal_off_m=nan,
        hidden=0.5,
        satisfied=nan,
        in_focus=1.0,
    )
    return Case(Job(task, "flat", seed), "cube", failure, b"")


def test_the_table_counts_things_and_episodes():
    cases = (
        case(Kind.LET_GO, "PickPlace", 1, 3),
        case(Kind.DRAGGED, "Rearrange", 1, 9),
        case(Kind.DRAGGED, "Rearrange", 1, 4),
        case(Kind.DRAGGED, "PickPlace", 2, 5),
    )
    gallery = Gallery(("PickPlace", "Rearrange"), {"PickPlace": 5, "Rearrange": 6}, cases, (), "these")
    assert [(kind, len(of)) for kind, of in gallery.kinds()] == [(Kind.DRAGGED, 3), (Kind.LET_GO, 1)]
    text = str(gallery)
    assert "these: 3 of 11 episodes failed, in which 4 things were not placed." in text
    assert "| dragged to its goal, never lifted | 1 | 2 | **3** |" in text
    assert "| let go on the way | 1 |  | **1** |" in text
    assert "| episodes failed | 2 of 5 | 1 of 6 | 3 of 11 |" in text
    assert "| let go on the way | 5.0 cm | 1.2 cm | 7.0 cm | – | 50 % | – | 100 % | 3 | 2 | 3.1 cm | – |" in text


def test_the_typical_case_is_the_one_in_the_middle():
    cases = [case(Kind.LET_GO, "PickPlace", seed, moment) for seed, moment in enumerate([2, 40, 11, 9, 12])]
    assert typical(cases).job.seed == 2


@pytest.mark.parametrize("steps", [3, 8, 9, 20, 45, 135])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_key_moments_are_in_order_around_the_one_that_decided(steps, share):
    moment = round(share * steps)
    moments = key_moments(moment, steps)
    assert moments == sorted(set(moments)) and moments[0] == 0 and moments[-1] == steps
    assert len(moments) == min(FRAMES, steps + 1)
    assert min(abs(t - moment) for t in moments) <= 1


def test_a_strip_marks_the_moment_and_stays_small():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for _ in range(FRAMES)]  # nothing compresses worse
    picture = strip("a title", (1, 0, 0), pictures, list(range(FRAMES)), 3, pictures[0])
    assert (picture[10, 8] == [255, 0, 0]).all()
    png = small_png(picture)
    assert Image.open(io.BytesIO(png)).size == picture.shape[1::-1]
    flat = [np.full((SIDE, SIDE, 3), 90, np.uint8)] * FRAMES
    assert len(small_png(strip("a title", (1, 0, 0), flat, list(range(FRAMES)), 3, flat[0]))) < 5_000


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("no folder", InvalidInputError, "no folder"),
        ("unfinished", InvalidInputError, "no finished evaluation.*results.json"),
        ("foreign", InvalidInputError, "only tasks of ours that move things"),
        ("all succeed", InvalidInputError, "none of the 2 episodes of 'no-op'"),
        ("agent", UnknownNameError, "unknown agent of this evaluation 'flat'; available.*no-op"),
        ("weights", InvalidInputError, "not those of"),
    ],
)
def test_what_cannot_be_sorted_says_why(evaluated, tmp_path, monkeypatch, change, error, message):
    results = tmp_path / "results"
    if change != "no folder":
        results.mkdir()
        for file in evaluated.iterdir():
            (results / file.name).write_bytes(file.read_bytes())
    if change == "unfinished":
        (results / "results.json").unlink()
    if change == "foreign":
        report = json.loads((results / "results.json").read_text())
        report["settings"]["tasks"] = ["Reacher", "Reach"]
        (results / "results.json").write_text(json.dumps(report))
    if change == "all succeed":
        log = (results / "episodes.jsonl").read_text().replace('"success": false', '"success": true')
        (results / "episodes.jsonl").write_text(log)
    if change == "weights":
        settings = json.loads((results / "settings.json").read_text()) | {"weights_sha256": "other"}
        (results / "settings.json").write_text(json.dumps(settings))
        monkeypatch.setattr(failures, "weights_digest", lambda _: "these")
    with pytest.raises(error, match=message):
        find_failures(results, out=tmp_path / "out", agent="flat" if change == "agent" else None, progress=False)


def test_the_command_says_what_is_missing_and_shows_an_example(tmp_path):
    runner = CliRunner()
    missing = runner.invoke(app, ["failures", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert missing.exit_code == 2 and "give one that `latent-mpc eval --out` wrote" in missing.stderr
    assert not (tmp_path / "out").exists()
    assert "latent-mpc failures results/objects" in runner.invoke(app, ["failures", "--help"]).output

"""The evaluation: intervals against published values, scores that tell agents apart, and runs that resume."""

import json
import math
from dataclasses import asdict, replace

import gymnasium
import numpy as np
import pytest

from latent_mpc import agents, evaluation
from latent_mpc.baselines import NoOpAgent
from latent_mpc.envs.tabletop import DEFAULTS, TabletopConfig
from latent_mpc.evaluation import EvalConfig, Scene, evaluate, scene_of, wilson_interval
from latent_mpc.goal_sequence import GoalSequence
from latent_mpc.types import InvalidInputError, UnknownNameError

CONFIG = EvalConfig(
    tasks=("PickPlace",),
    agents=("no-op", "random", "expert"),
    episodes=2,
    workers=1,
    env=TabletopConfig(image_size=16, supersample=1),
)


def run(config, out, **kwargs):
    return evaluate(config, weights="none", out=out, progress=False, **kwargs)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "new"
    return out, run(CONFIG, out)


@pytest.mark.parametrize(
    "successes, trials, low, high",
    [  # Newcombe 1998 (Statistics in Medicine 17), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("successes, trials", [(0, 1), (3, 10), (85, 100), (100, 100)])
def test_wilson_ends_solve_its_equation(successes, trials):
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    for p in (low, high):
        if 0 < p < 1:
            distance = abs(successes / trials - p)
            assert distance == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / trials), rel=1e-6)


def test_wilson_mirrors_and_widens_with_confidence():
    low, high = wilson_interval(7, 20)
    assert wilson_interval(13, 20) == pytest.approx((1 - high, 1 - low))
    wide = wilson_interval(7, 20, confidence=0.99)
    assert wide[0] < low and high < wide[1]


@pytest.mark.parametrize("successes, trials", [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes, trials):
    with pytest.raises(InvalidInputError, match="successes"):
        wilson_interval(successes, trials)


def test_scores_tell_the_expert_from_doing_nothing(evaluated):
    rows = {row.agent: row for row in evaluated[1].rows}
    assert rows["expert"].successes == 2 and rows["expert"].grasped == 1 and rows["expert"].median_error_m < 0.03
    assert rows["no-op"].successes == rows["random"].successes == 0
    assert rows["no-op"].median_error_m >= 0.1  # starts are at least 10 cm from the goal, and nothing moved
    assert rows["no-op"].mean_steps == 45 > rows["expert"].mean_steps
    assert (rows["expert"].success_low, rows["expert"].success_high) == wilson_interval(2, 2)


def test_every_agent_starts_from_the_same_states(evaluated):
    lines = [json.loads(line) for line in (evaluated[0] / "episodes.jsonl").read_text().splitlines() if line]
    seeds = {agent: [e["seed"] for e in lines if e["agent"] == agent] for agent in CONFIG.agents}
    assert seeds["no-op"] == seeds["random"] == seeds["expert"] == [1_000_000, 1_000_001]


def test_writes_table_and_report(evaluated):
    out, result = evaluated
    table = (out / "table.md").read_text()
    assert table == f"{result}\n" and "| PickPlace | expert | 2 of 2 | 34–100 % | 100% | 100% |" in table
    columns = {line.count("|") for line in table.splitlines()}
    assert len(columns) == 1
    report = json.loads((out / "results.json").read_text())
    assert report["rows"] == [asdict(row) for row in result.rows]
    assert report["settings"]["env"]["image_size"] == 16 and report["machine"]["cores"] >= 1


def test_two_processes_score_what_one_does(evaluated, tmp_path):
    rows = run(replace(CONFIG, workers=2, agents=("random", "expert")), tmp_path).rows
    timing = {"mean_act_s": 0.0, "slowest_act_s": 0.0}
    assert [replace(r, **timing) for r in rows] == [replace(r, **timing) for r in evaluated[1].rows[1:]]


def test_an_interrupted_run_resumes_with_what_is_missing(tmp_path, monkeypatch):
    real, seeds = evaluation.run_episode, []

    def third_time_interrupted(env, agent, *, seed):
        seeds.append((type(agent).__name__, seed))
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return real(env, agent, seed=seed)

    monkeypatch.setattr(evaluation, "run_episode", third_time_interrupted)
    config = replace(CONFIG, agents=("no-op", "expert"))
    with pytest.raises(KeyboardInterrupt, match="same command resumes"):
        run(config, tmp_path)
    with open(tmp_path / "episodes.jsonl", "a") as log:
        log.write('{"task": "PickPl')  # a kill in the middle of a line
    resumed = run(config, tmp_path)
    assert seeds[3:] == [("ExpertAgent", 1_000_000), ("ExpertAgent", 1_000_001)]
    assert [row.successes for row in resumed.rows] == [0, 2]
    again = run(config, tmp_path)
    assert len(seeds) == 5 and again == resumed


def test_another_seed_is_another_set_of_episodes(evaluated, tmp_path):
    config = replace(CONFIG, agents=("no-op",))
    other = run(config, tmp_path, seed=1)
    assert other.rows[0].median_error_m != evaluated[1].rows[0].median_error_m


def test_results_of_other_settings_are_not_mixed(evaluated):
    other = replace(CONFIG, env=TabletopConfig(image_size=24, supersample=1))
    with pytest.raises(InvalidInputError, match="another env"):
        run(other, evaluated[0])
    with pytest.raises(InvalidInputError, match="another split"):
        run(replace(CONFIG, split="light"), evaluated[0])


def test_a_split_and_several_objects_are_scored(tmp_path):
    env = replace(CONFIG.env, num_objects=2)
    row = run(replace(CONFIG, tasks=("Rearrange",), agents=("expert",), env=env, split="light"), tmp_path).rows[0]
    assert row.successes == 2 and row.placed == 1 and row.mean_steps < 90
    with pytest.raises(InvalidInputError, match="2 to 4 objects"):
        replace(CONFIG, tasks=("Rearrange",))
    with pytest.raises(UnknownNameError, match="unseen-shapes"):
        replace(CONFIG, split="fog")


def test_the_split_reaches_the_environment(monkeypatch):
    asked = {}
    monkeypatch.setattr(evaluation, "_process_env", lambda task, config, split: asked.update(split=split))
    monkeypatch.setattr(evaluation, "make_agent", lambda *_: None)
    monkeypatch.setattr(evaluation, "run_episode", lambda *_, **__: None)
    evaluation._run(replace(CONFIG, split="light"), "none", "cpu", evaluation.Job("PickPlace", "no-op", 0))
    assert asked == {"split": "light"}


PLAIN = TabletopConfig()


@pytest.mark.parametrize(
    ("label", "task", "env", "split"),
    [
        ("PickPlace", "PickPlace", PLAIN, None),
        ("PickPlace:4", "PickPlace", replace(PLAIN, num_objects=4), None),
        ("PickPlace@light", "PickPlace", PLAIN, "light"),
        ("PickPlace:3@unseen-colours", "PickPlace", replace(PLAIN, num_objects=3), "unseen-colours"),
        ("Rearrange", "Rearrange", DEFAULTS["Rearrange"], None),
        ("Rearrange:4@camera-jitter", "Rearrange", replace(DEFAULTS["Rearrange"], num_objects=4), "camera-jitter"),
        ("ClearTable", "ClearTable", DEFAULTS["ClearTable"], None),
        ("ClearTable:4", "ClearTable", replace(DEFAULTS["ClearTable"], num_objects=4), None),
        ("FetchPush", "FetchPush", PLAIN, None),
        ("somebodys:Own-v0", "somebodys:Own-v0", PLAIN, None),
        ("gymnasium_robotics/Own-v0", "gymnasium_robotics/Own-v0", PLAIN, None),
    ],
)
def test_a_label_says_task_objects_and_looks(label, task, env, split):
    assert scene_of(label, EvalConfig(tasks=(label,))) == Scene(task, env, split)


def test_a_label_says_how_many_goal_images():
    for label, split in (("PickPlace#3", None), ("PickPlace:1#3@light", "light")):
        assert scene_of(label, EvalConfig(tasks=(label,))) == Scene("PickPlace", PLAIN, split, goal_images=3)


@pytest.mark.parametrize("label", ["PickPlace#2", "PickPlace#0", "PickPlace:2#3", "Push#3", "Reach#3"])
def test_only_a_pick_and_place_of_one_object_has_three_goal_images(label):
    with pytest.raises(InvalidInputError, match="only PickPlace of one object"):
        EvalConfig(tasks=(label,))


def test_goal_images_are_shown_in_turn_to_agents_that_plan(monkeypatch):
    env = gymnasium.make("latent_mpc/PickPlace-v0", config=CONFIG.env)
    monkeypatch.setattr(agents, "load_agent", lambda *_, **__: NoOpAgent(5))
    agents.planning_agent.cache_clear()
    kinds = {
        (name, images): type(agents.make_agent(name, env, agents.AgentSource("w"), images))
        for name in ("hierarchy", "flat-x10", "expert", "no-op")
        for images in (1, 3)
    }
    agents.planning_agent.cache_clear()
    assert [name for (name, images), kind in kinds.items() if kind is GoalSequence] == ["hierarchy", "flat-x10"]
    assert kinds["expert", 3] is kinds["expert", 1] and kinds["no-op", 3] is NoOpAgent


def test_what_a_label_does_not_say_is_the_evaluations():
    given = TabletopConfig(shapes=("box",), image_size=32)
    config = EvalConfig(tasks=("PickPlace:3", "PickPlace@unseen-shapes"), env=given, split="light")
    assert scene_of("PickPlace:3", config) == Scene("PickPlace", replace(given, num_objects=3), "light")
    assert scene_of("PickPlace@unseen-shapes", config) == Scene("PickPlace", given, "unseen-shapes")
    assert scene_of("ClearTable", config).env == given  # in place of the task's own
    assert scene_of("ClearTable:2", replace(config, env=PLAIN)).env.shapes == ("cup", "plate", "box")


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        ("PickPlace@fog", UnknownNameError, "unknown split 'fog'.*unseen-shapes"),
        ("PickPlace:2@fog", UnknownNameError, "unknown split 'fog'"),
        ("PickPlace:9", InvalidInputError, "num_objects must be 1 to 8, got 9"),
        ("PickPlace:0", InvalidInputError, "num_objects must be 1 to 8, got 0"),
        ("Rearrange:5", InvalidInputError, "Rearrange takes 2 to 4 objects, got num_objects 5"),
        ("Stack:1", InvalidInputError, "Stack takes"),
        ("Juggle", UnknownNameError, "unknown task 'Juggle'"),
        ("Juggle@light", UnknownNameError, "unknown task 'Juggle@light'"),
        ("Reacher@light", UnknownNameError, "unknown task 'Reacher@light'"),
        ("Juggle:4", UnknownNameError, "unknown task 'Juggle:4'"),
        ("Reacher:2", UnknownNameError, "unknown task 'Reacher:2'"),
        ("", UnknownNameError, "unknown task ''"),
    ],
)
def test_a_label_that_cannot_be_is_refused_at_once(label, error, message):
    with pytest.raises(error, match=message):
        EvalConfig(tasks=("PickPlace", label))


@pytest.mark.parametrize("label", ["Reach", "Reach:2", "Reach@light", "Reach:3@light"])
def test_the_expert_leaves_out_reach_under_any_label(label):
    with pytest.raises(InvalidInputError, match="leave out Reach"):
        EvalConfig(tasks=(label,), agents=("expert",))


def test_labels_are_scored_beside_each_other(tmp_path, monkeypatch):
    """Each in its own environment, in rows and lines of its own."""
    made, real = [], evaluation.make_env

    def make_env(env_id, config, split):
        made.append((env_id.removeprefix("latent_mpc/").removesuffix("-v0"), config.num_objects, split))
        return real(env_id, config, split)

    monkeypatch.setattr(evaluation, "make_env", make_env)
    evaluation._process_env.cache_clear()
    labels = ("PickPlace", "PickPlace:3@light", "Reach@light")
    result = run(replace(CONFIG, tasks=labels, agents=("no-op",), episodes=1), tmp_path)
    evaluation._process_env.cache_clear()
    assert made == [("PickPlace", 1, None), ("PickPlace", 3, "light"), ("Reach", 1, "light")]
    assert [row.task for row in result.rows] == list(labels)
    lines = str(result).splitlines()[2:]
    assert [line.split("|")[5:7] == [" – ", " – "] for line in lines] == [False, False, True]
    logged = [json.loads(line)["task"] for line in (tmp_path / "episodes.jsonl").read_text().splitlines() if line]
    assert logged == list(labels)


@pytest.mark.parametrize(
    ("task", "scores_objects"),
    [
        ("PickPlace", True),
        ("ClearTable:4@light", True),
        ("latent_mpc/PickPlace-v0", True),
        ("Reach:2@light", False),
        ("Reacher", False),
        ("somebodys:Own-v0", False),
    ],
)
def test_only_tabletop_tasks_that_move_objects_say_how_many_were_placed(task, scores_objects, evaluated):
    line = str(evaluation.Evaluation((replace(evaluated[1].rows[-1], task=task),))).splitlines()[2]
    assert line.split("|")[5:7] == ([" 100% ", " 100% "] if scores_objects else [" – ", " – "])


def test_planning_agents_are_loaded_once_and_told_how_to_plan(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")
    loaded = []

    def load_agent(name, *, config, device):
        loaded.append((name, device, config.planner, config.coarse_horizon, config.flat.num_samples))
        return NoOpAgent(5)

    monkeypatch.setattr(agents, "load_agent", load_agent)
    agents.planning_agent.cache_clear()
    config = replace(CONFIG, agents=("hierarchy", "flat", "flat-x10"), agent=replace(CONFIG.agent, coarse_horizon=9))
    out = tmp_path / "out"
    evaluate(config, weights=weights, out=out, device="cpu", progress=False)
    given = str(weights), "cpu"
    assert loaded == [(*given, "hierarchy", 9, 51), (*given, "flat", 9, 51), (*given, "flat", 9, 510)]
    (weights / "model.safetensors").write_bytes(b"two")
    with pytest.raises(InvalidInputError, match="another weights_sha256"):
        evaluate(config, weights=weights, out=out, device="cpu", progress=False)
    agents.planning_agent.cache_clear()


def test_unknown_weights_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown weights 'none'"):
        run(replace(CONFIG, agents=("no-op", "flat")), tmp_path)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"tasks": ("Juggle",)}, UnknownNameError, "PickPlace"),
        ({"agents": ("ppo",)}, UnknownNameError, "hierarchy"),
        ({"agents": ()}, InvalidInputError, "at least one agent"),
        ({"episodes": 0}, InvalidInputError, "at least 1"),
        ({"tasks": ("Reach", "PickPlace")}, InvalidInputError, "leave out Reach"),
        ({"tasks": ("Reach",), "agents": ("oracle-subgoals",)}, InvalidInputError, "leave out Reach"),
        ({"tasks": ("Reacher",), "agents": ("simulator",)}, InvalidInputError, "know only .*PickPlace"),
        ({"tasks": ("PickPlace:2",), "agents": ("oracle-subgoals",)}, InvalidInputError, "one object"),
        ({"agents": ("inverse-dynamics",)}, InvalidInputError, "latent-mpc baseline"),
        ({"tasks": ("PickPlace#3",), "agents": ("oracle-subgoals",)}, InvalidInputError, "take one goal image"),
    ],
)
def test_impossible_evaluations_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        replace(CONFIG, **changes)


def test_reach_is_scored_by_the_tool(tmp_path):
    row = run(replace(CONFIG, tasks=("Reach",), agents=("no-op",), episodes=3), tmp_path).rows[0]
    assert row.successes == 0 and row.median_error_m > 0.02 and np.isfinite(row.median_error_m)

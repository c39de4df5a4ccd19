"""Other people's environments behind goal images: the goal is what the camera sees there, to the pixel."""

import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from latent_mpc.agent import load_agent
from latent_mpc.baselines import NoOpAgent, RandomAgent
from latent_mpc.collect import CollectConfig, collect
from latent_mpc.config import load_config
from latent_mpc.envs import FOREIGN
from latent_mpc.envs.goal_image import GoalImageEnv, smooth_actions
from latent_mpc.envs.make import make_env
from latent_mpc.envs.tabletop import TabletopConfig
from latent_mpc.evaluation import EvalConfig, evaluate
from latent_mpc.loop import run_episode
from latent_mpc.training import PretrainConfig, TrainConfig
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.dataset import PlayDataset, read_header

DOCS = Path(__file__).parents[1] / "docs" / "tasks.md"


class Dot(gymnasium.Env):
    """A white pixel of an 8 x 8 picture; an action in [0, 4] moves it by two less than itself along the row."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(0, 7, (1,), np.float64)

    def __init__(self, render_mode="rgb_array", high=4.0):
        self.render_mode = render_mode
        self.action_space = spaces.Box(0.0, high, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.commands = float(self.np_random.integers(8)), []
        return np.array([self.x]), {}

    def step(self, action):
        self.commands.append(float(action[0]))
        self.x = float(np.clip(self.x + action[0] - 2, 0, 7))
        return np.array([self.x]), 0.0, False, False, {}

    def render(self):
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[0, round(self.x)] = 200
        return picture


class Row:
    """The dot at a place of the row."""

    region_m = ((0.0, -1.0), (7.0, 1.0))

    def arrange_goal(self, env, rng):
        env.x = float(rng.integers(8))
        return self.positions(env)

    def positions(self, env):
        return np.array([[env.x, 0.0, 0.0]])

    def is_success(self, env, goal_positions):
        return abs(env.x - goal_positions[0, 0]) < 0.5

    def proprio(self, env):
        return np.array([env.x, 0.0, 0.0])

    def play(self, env, rng):
        return smooth_actions(rng, 1)


def dots(**settings):
    return GoalImageEnv(Dot(), Row(), **({"size": 8} | settings))


@pytest.fixture(scope="module")
def reacher():
    env = make_env("latent_mpc/Reacher-v0", TabletopConfig())
    yield env
    env.close()


@pytest.fixture(scope="module")
def fetch():
    pytest.importorskip("gymnasium_robotics", reason="pip install 'latent-mpc[foreign]'")
    env = make_env("latent_mpc/FetchPush-v0", TabletopConfig())
    yield env
    env.close()


@pytest.fixture(params=["reacher", "fetch"])
def env(request):
    return request.getfixturevalue(request.param)


# ---- the wrapper, on a dot whose every number is known ----


@pytest.mark.parametrize("seed", range(20))
def test_the_goal_image_shows_the_goal_and_the_start_is_elsewhere(seed):
    env = dots()
    observation, info = env.reset(seed=seed)
    goal, start = info["goal_positions"][0, 0], info["object_positions"][0, 0]
    assert observation["goal_image"][0, round(goal)].tolist() == [200] * 3 and observation["goal_image"].sum() == 600
    assert observation["image"][0, round(start)].tolist() == [200] * 3 and observation["proprio"][0] == start
    assert goal != start and info["position_error_m"] == abs(goal - start) and not info["is_success"]


def test_starts_and_goals_differ_between_seeds():
    infos = [dots().reset(seed=seed)[1] for seed in range(20)]
    assert len({(i["object_positions"][0, 0], i["goal_positions"][0, 0]) for i in infos}) > 10


@pytest.mark.parametrize("limit, action, command", [(1, -1, 0), (1, 0, 2), (1, 1, 4), (1, 7, 4), (0.25, 1, 2.5)])
def test_actions_are_scaled_clipped_and_repeated(limit, action, command):
    env = dots(action_limit=limit, action_repeat=3)
    env.reset(seed=0)
    env.step(np.array([action], np.float32))
    assert env.env.commands == [command] * 3
    assert env.control_dt_s == pytest.approx(0.3)


def test_success_must_last_for_the_steps_asked_for():
    env = dots(hold_steps=2)
    _, info = env.reset(seed=0)
    results = []
    for _ in range(9):
        gap = info["goal_positions"][0, 0] - info["object_positions"][0, 0]
        _, reward, terminated, _, info = env.step(np.array([gap / 2], np.float32))
        results.append((info["position_error_m"] < 0.5, info["is_success"], reward, terminated, info["share_placed"]))
    there = [r[0] for r in results].index(True)
    assert results[there] == (True, False, 0.0, False, 0.0) and results[there + 1] == (True, True, 1.0, True, 1.0)


def test_images_are_means_over_blocks():
    observation, info = dots(size=4).reset(seed=0)
    assert observation["image"].shape == (4, 4, 3)
    assert observation["image"][0, round(info["object_positions"][0, 0]) // 2].tolist() == [50] * 3


def test_without_a_goal_nothing_is_shown_and_nothing_succeeds():
    env = dots()
    observation, info = env.reset(seed=0, options={"goal_image": False})
    assert not observation["goal_image"].any() and np.isnan(info["goal_positions"]).all()
    assert not any(env.step(env.action_space.sample())[4]["is_success"] for _ in range(20))


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: GoalImageEnv(Dot(render_mode="human"), Row(), size=8), "rgb_array"),
        (lambda: GoalImageEnv(Dot(high=np.inf), Row(), size=8), "bounded Box"),
        (lambda: dots(size=3), "whole number"),
        (lambda: dots(size=16), "whole number"),
        (lambda: dots(action_limit=0), "action_limit"),
        (lambda: dots().reset(options={"arm_pose": 1}), "unknown reset options"),
        (lambda: dots().step(np.array([np.nan])), "finite"),
        (lambda: dots().step(np.zeros(2)), "shape"),
    ],
)
def test_what_cannot_be_is_refused(make, word):
    with pytest.raises(InvalidInputError, match=word):
        make()


def test_a_test_of_success_that_lets_all_pass_is_found_out(monkeypatch):
    monkeypatch.setattr(Row, "is_success", lambda *_: True)
    with pytest.raises(InvalidInputError, match="100 starts"):
        dots().reset(seed=0)


def test_smooth_actions_have_the_standard_deviation_and_memory_asked_for():
    actions = smooth_actions(np.random.default_rng(0), 3, std=0.4, memory=0.9)
    drawn = np.stack([next(actions) for _ in range(20_000)])
    assert drawn.std(axis=0) == pytest.approx(0.4, rel=0.1)
    assert np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1] == pytest.approx(0.9, abs=0.02)


# ---- the two that are not ours ----


def test_gymnasiums_own_checker_is_content(env):
    check_env(env.unwrapped, skip_render_check=True)


def test_the_same_seed_is_the_same_episode_to_the_pixel(env):
    def episode():
        observation, _ = env.reset(seed=5)
        actions = np.random.default_rng(0).uniform(-1, 1, (3, *env.action_space.shape))
        return [observation, *(env.step(a.astype(np.float32))[0] for a in actions)]

    for one, other in zip(episode(), episode(), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    first, second = episode()[0], env.reset(seed=6)[0]
    assert (first["goal_image"] != second["goal_image"]).any()


def test_doing_nothing_never_succeeds(env):
    results = [run_episode(env, NoOpAgent(env.action_space.shape[0]), seed=seed) for seed in range(3)]
    assert not any(r.success for r in results) and all(r.steps == env.spec.max_episode_steps for r in results)


def test_play_moves_what_counts_and_knows_no_goal(env):
    def play(seed, with_goal):
        _, info = env.reset(seed=seed, options={"goal_image": with_goal})
        policy, before, actions = env.unwrapped.play(np.random.default_rng(seed)), info["object_positions"], []
        for _ in range(40 if with_goal else 5):
            actions.append(policy.act())
            info = env.step(actions[-1])[4]
        return np.abs(info["object_positions"] - before).max() > 0.03, np.array(actions)

    moved, actions = zip(*(play(seed, True) for seed in range(3)), strict=True)
    assert sum(moved) >= 2
    assert np.abs(actions).max() <= 1 and np.std(actions) > 0.2
    np.testing.assert_array_equal(play(0, False)[1], actions[0][:5])


def test_reachers_goal_image_is_what_the_camera_sees_with_the_fingertip_there(reacher):
    simulator = reacher.unwrapped.env.unwrapped
    for seed in range(5):
        observation, info = reacher.reset(seed=seed)
        x, y = info["goal_positions"][0, :2]
        if np.hypot(x, y) > 0.02:  # nearer to the base the elbow ends
            assert info["goal_positions"][0, :2] == pytest.approx(simulator.data.body("target").xpos[:2], abs=1e-6)
        # Both ways to have the fingertip there, by the law of cosines.
        r = np.hypot(x, y)
        inner = np.arccos(np.clip((0.1**2 + r**2 - 0.11**2) / (2 * 0.1 * r), -1, 1))
        bend = np.pi - np.arccos(np.clip((0.1**2 + 0.11**2 - r**2) / (2 * 0.1 * 0.11), -1, 1))
        seen = []
        for side in (-1, 1):
            shoulder = np.arctan2(y, x) - side * inner
            simulator.set_state(np.array([shoulder, side * bend, 0.1, 0.1]), np.zeros(4))
            seen.append(reacher.unwrapped._image())
            after = reacher.unwrapped.step(np.zeros(2, np.float32))[4]
            assert after["position_error_m"] < 1e-3
        assert after["is_success"] and after["share_placed"] == 1  # the second step in a row
        assert any((image == observation["goal_image"]).all() for image in seen)
        assert (seen[0] != seen[1]).any()


def test_reachers_success_ends_at_two_centimetres(reacher):
    simulator = reacher.unwrapped.env.unwrapped
    for offset, success in ((0.019, True), (0.021, False)):
        _, info = reacher.reset(seed=3)
        goal = info["goal_positions"].copy()
        simulator.set_state(np.zeros(4), np.zeros(4))
        tip = simulator.data.body("fingertip").xpos.copy()
        goal[0] = tip + [offset, 0, 0]
        assert reacher.unwrapped.task.is_success(simulator, goal) is success


def test_fetchs_goal_image_is_what_the_camera_sees_with_the_cube_there(fetch):
    simulator = fetch.unwrapped.env.unwrapped
    for seed in range(3):
        observation, info = fetch.reset(seed=seed)
        assert info["goal_positions"][0] == pytest.approx(simulator.goal, abs=1e-6)
        assert np.linalg.norm(info["object_positions"] - info["goal_positions"]) > simulator.distance_threshold
        for _ in range(3):  # up, out of its way
            fetch.unwrapped.step(np.array([0, 0, 1, 0], np.float32))
        simulator._utils.set_joint_qpos(
            simulator.model, simulator.data, "object0:joint", [*info["goal_positions"][0], 1, 0, 0, 0]
        )
        simulator._mujoco.mj_forward(simulator.model, simulator.data)
        np.testing.assert_array_equal(fetch.unwrapped._image(), observation["goal_image"])
        info = fetch.unwrapped.step(np.zeros(4, np.float32))[4]
        assert info["is_success"] and info["position_error_m"] < 0.005


# ---- the commands ----


@pytest.mark.parametrize("name, proprio, action", [("reacher", 6, 2), ("fetch_push", 3, 4)])
def test_each_has_one_recipe_for_all_four_commands(name, proprio, action):
    kinds = {"collect": CollectConfig, "pretrain": PretrainConfig, "train": TrainConfig, "eval": EvalConfig}
    recipe = {section: load_config(kind, name, [], section=section) for section, kind in kinds.items()}
    task = recipe["eval"].tasks[0]
    assert task in FOREIGN and recipe["collect"].env_id == f"latent_mpc/{task}-v0"
    assert (recipe["train"].model.proprio_dim, recipe["train"].model.action_dim) == (proprio, action)
    assert recipe["eval"].agent.guardrails.weight == 0  # they are about a gripper above a table


def test_sizes_of_the_recipes_are_those_of_the_environments(env):
    recipe = {"latent_mpc/Reacher-v0": "reacher", "latent_mpc/FetchPush-v0": "fetch_push"}[env.spec.id]
    model = load_config(TrainConfig, recipe, [], section="train").model
    assert env.observation_space["proprio"].shape == (model.proprio_dim,)
    assert env.action_space.shape == (model.action_dim,)
    assert (
        env.observation_space["image"].shape[0]
        == load_config(PretrainConfig, recipe, [], section="pretrain").encoder.image_size
    )


@pytest.mark.parametrize("recipe, task", [("reacher", "Reacher")])
def test_the_shipped_weights_reach_goals_where_chance_does_not(recipe, task, request):
    env = request.getfixturevalue(recipe.split("_")[0])
    config = load_config(EvalConfig, recipe, [], section="eval")
    agents = load_agent(recipe.replace("_", "-"), config=config.agent), RandomAgent(env.action_space.shape[0])
    planned, chance = ([run_episode(env, agent, seed=seed).success for seed in range(20, 24)] for agent in agents)
    assert config.tasks == (task,) and sum(planned) >= 3 and sum(chance) <= 1


def test_reacher_is_collected_and_scored(tmp_path):
    config = CollectConfig(env_id="latent_mpc/Reacher-v0", num_episodes=2, episode_length=4)
    statistics = collect(config, out=tmp_path / "play", workers=1, progress=False)
    data = PlayDataset.load(tmp_path / "play", progress=False)
    assert statistics.frames == len(data.image) == 10 and data.proprio.shape == (10, 6) and data.action.shape[1] == 2
    assert read_header(tmp_path / "play").control_dt_s == pytest.approx(0.08)
    rows = evaluate(
        EvalConfig(tasks=("Reacher",), agents=("no-op",), episodes=2, workers=1),
        weights="none",
        out=tmp_path / "eval",
        progress=False,
    ).rows
    assert rows[0].successes == 0 and rows[0].median_error_m > 0.02 and rows[0].mean_steps == 50


def test_what_is_not_ours_is_not_configured_as_ours(tmp_path):
    with pytest.raises(InvalidInputError, match="tabletop"):
        make_env("latent_mpc/Reacher-v0", TabletopConfig(image_size=32))
    with pytest.raises(InvalidInputError, match="expert"):
        EvalConfig(tasks=("Reacher",), agents=("expert",))
    with pytest.raises(InvalidInputError, match="no GoalImageEnv"):
        collect(CollectConfig(env_id="Reacher-v5"), out=tmp_path / "new", workers=1, progress=False)
    with pytest.raises(InvalidInputError, match="no_such_module"):
        make_env("no_such_module:Mine-v0", TabletopConfig())


def test_the_example_of_the_manual_runs_as_it_stands(tmp_path, monkeypatch):
    [example] = [code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "class Pusher" in code]
    (tmp_path / "my_pusher.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    env_id = "my_pusher:MyPusher-v0"
    env = make_env(env_id, TabletopConfig())
    observation, info = env.reset(seed=0)
    simulator = env.unwrapped.env.unwrapped
    rest = simulator.data.qpos.copy()
    rest[-4:-2] += (info["goal_positions"] - info["object_positions"])[0, [1, 0]]  # the slides: y first, then x
    simulator.set_state(rest, np.zeros(simulator.model.nv))
    np.testing.assert_array_equal(env.unwrapped._image(), observation["goal_image"])
    assert env.step(np.zeros(7, np.float32))[4]["is_success"]
    env.close()
    config = CollectConfig(env_id=env_id, num_episodes=1, episode_length=3)
    assert collect(config, out=tmp_path / "play", workers=1, progress=False).frames == 4
    evaluation = evaluate(
        EvalConfig(tasks=(env_id,), agents=("no-op",), episodes=1, workers=1),
        weights="none",
        out=tmp_path / "eval",
        progress=False,
    )
    assert evaluation.rows[0].successes == 0
    del sys.modules["my_pusher"]

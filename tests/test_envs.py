"""The environments: one contract for all, physics against the scripted expert, and refusals."""

from __future__ import annotations

import dataclasses

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import latent_mpc  # noqa: F401  (registers the environments)
from latent_mpc.envs import MAX_EPISODE_STEPS, scene, splits
from latent_mpc.envs.play import PlayConfig, PlayPolicy, ScriptedExpert
from latent_mpc.envs.tabletop import RandomisationConfig, TabletopConfig
from latent_mpc.types import InvalidInputError, UnknownNameError

ENV_IDS = [f"latent_mpc/{name}-v0" for name in MAX_EPISODE_STEPS]
OPEN, CLOSED = -1.0, 1.0


@pytest.fixture
def make():
    made = []

    def build(env_id="latent_mpc/PickPlace-v0", **kwargs):
        made.append(gymnasium.make(env_id, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_contract(env_id, make):
    env = make(env_id, num_objects=3, render_mode="rgb_array", width=80, height=60)
    check_env(env.unwrapped, skip_render_check=False)
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert info["object_positions"].shape == info["goal_positions"].shape == (3, 3)
    assert info["placed"].dtype == bool and info["placed"].tolist() == [False] * 3 and info["share_placed"] == 0
    assert env.render().shape == (60, 80, 3)
    assert not info["is_success"] and not info["is_grasped"]


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_same_seed_same_pixels_and_motion(env_id, make):
    env, other = make(env_id), make(env_id)
    other.reset(seed=99)  # whatever went before leaves no trace
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 5)).astype(np.float32)
    first, second = env.reset(seed=7)[0], other.reset(seed=7)[0]
    for action in actions:
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])
        first, second = env.step(action)[0], other.step(action)[0]


def test_starts_are_never_successes(make):
    env = make()
    for seed in range(30):
        _, info = env.reset(seed=seed)
        assert np.linalg.norm(info["object_positions"] - info["goal_positions"]) >= 0.10


def test_action_moves_the_tool_by_its_scale(make):
    env = make()
    start = env.reset(seed=0, options={"arm_pose": [0.45, 0.0, 0.2, 0.0]})[0]["proprio"]
    np.testing.assert_allclose(start[:3], [0.45, 0.0, 0.2], atol=1e-4)
    end = env.step(np.array([0.5, -0.5, 0.5, 0.5, OPEN], np.float32))[0]["proprio"]
    np.testing.assert_allclose(end[:3] - start[:3], [0.03, -0.03, 0.03], atol=0.003)
    assert np.arctan2(end[3], end[4]) == pytest.approx(0.15, abs=0.02)


def test_the_tool_stays_in_its_box(make):
    env = make()
    env.reset(seed=0)
    for _ in range(15):
        proprio = env.step(np.array([1, 1, -1, 0, CLOSED], np.float32))[0]["proprio"]
    config = env.unwrapped.config
    assert np.all(proprio[:3] <= np.array(config.tcp_high_m) + 0.005)
    assert np.all(proprio[:3] >= np.array(config.tcp_low_m) - 0.005)


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_expert_picks_and_places_every_shape(shape, make):
    env = make(config=TabletopConfig(shapes=(shape,), half_size_m=(0.018, 0.022)))
    expert = ScriptedExpert(env.unwrapped)
    wins = 0
    for seed in range(4):
        env.reset(seed=seed)
        expert.reset()
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(expert.act())
            done = terminated or truncated
        wins += info["is_success"]
    assert wins >= (4 if shape in ("cube", "box") else 3)


def test_pick_place_wants_lift_release_and_rest(make):
    env = make()
    goal = [[0.5, 0.1, 0.02, 0.0]]
    options = {"object_poses": [[0.5, -0.05, 0.02, 0.0]], "goal_poses": goal, "arm_pose": [0.5, -0.05, 0.1, 0.0]}
    u = env.unwrapped

    def go(target, grip, steps):
        for _ in range(steps):
            move = np.clip((np.array(target) - u.arm.pose(u.data)[0]) / u.config.step_m, -1, 1)
            *_, info = env.step(np.array([*move, 0.0, grip], np.float32))
        return info

    # Dragged along the table to the goal, never lifted: no success.
    env.reset(seed=0, options=options)
    go([0.5, -0.05, 0.02], OPEN, 3)
    go([0.5, -0.05, 0.02], CLOSED, 2)
    go([0.5, 0.1, 0.021], CLOSED, 6)
    info = go([0.5, 0.1, 0.02], OPEN, 4)
    assert np.linalg.norm(info["object_positions"][0] - goal[0][:3]) < 0.03 and not info["is_success"]
    # Lifted and held at the goal: no success before it is released and has rested.
    env.reset(seed=0, options=options)
    go([0.5, -0.05, 0.02], OPEN, 3)
    go([0.5, -0.05, 0.02], CLOSED, 2)
    assert go([0.5, -0.05, 0.12], CLOSED, 3)["is_grasped"]
    go([0.5, 0.1, 0.12], CLOSED, 4)
    info = go([0.5, 0.1, 0.02], CLOSED, 4)
    assert np.linalg.norm(info["object_positions"][0] - goal[0][:3]) < 0.03 and not info["is_success"]
    assert not go([0.5, 0.1, 0.02], OPEN, 1)["is_success"]
    assert go([0.5, 0.1, 0.1], OPEN, 3)["is_success"]


def test_goal_image_shows_the_goal(make):
    env = make()
    pose = [[0.42, 0.12, 0.02, 0.3]]
    home = [*env.unwrapped.config.home_m, 0.0]
    goal = env.reset(seed=0, options={"object_poses": [[0.6, -0.1, 0.02, 0]], "goal_poses": pose})[0]["goal_image"]
    there = env.reset(seed=0, options={"object_poses": pose, "arm_pose": home, "goal_poses": [[0.6, -0.1, 0.02, 0]]})
    np.testing.assert_array_equal(goal, there[0]["image"])


def test_any_object_may_move_and_only_the_goal_image_says_which(make):
    env = make(config=TabletopConfig(num_objects=4, image_size=16))
    movers = set()
    for seed in range(25):
        _, info = env.reset(seed=seed)
        moved = np.flatnonzero(np.linalg.norm(info["object_positions"] - info["goal_positions"], axis=1))
        assert len(moved) == 1
        movers.add(int(moved[0]))
    assert movers == {0, 1, 2, 3}
    poses = np.array([[0.4, -0.1, 0.02, 0], [0.5, 0.1, 0.02, 0], [0.6, -0.1, 0.02, 0], [0.6, 0.1, 0.02, 0]])
    starts, goals = [], []
    for mover in range(4):
        goal_poses = poses + np.eye(4)[[mover]].T * [-0.1, 0.12, 0, 0]
        observation, _ = env.reset(seed=0, options={"object_poses": poses, "goal_poses": goal_poses})
        starts.append(np.append(observation["image"], observation["proprio"]).tobytes())
        goals.append(observation["goal_image"].tobytes())
    assert len(set(starts)) == 1 and len(set(goals)) == 4


def test_randomisation_changes_looks_only_when_asked(make):
    plain = make()
    looks = RandomisationConfig(light=0.3, table_colour=0.2, object_colour=True, camera_deg=3.0, camera_m=0.02)
    wild = make(config=TabletopConfig(randomisation=looks))
    options = {"object_poses": [[0.5, 0, 0.02, 0]], "arm_pose": [0.4, 0, 0.2, 0], "goal_image": False}
    images = [[e.reset(seed=s, options=options)[0]["image"] for s in (1, 2)] for e in (plain, wild)]
    np.testing.assert_array_equal(*images[0])
    assert np.abs(images[1][0].astype(int) - images[1][1]).mean() > 2


LOOKS = ("geom_rgba", "geom_matid", "light_pos", "light_diffuse", "cam_pos", "cam_quat")
EACH = {
    "light": (0.3, {"light_pos", "light_diffuse"}, {"lamp"}),
    "table_colour": (0.2, {"geom_rgba"}, {"table"}),
    "table_texture": (True, {"geom_matid"}, {"table"}),
    "object_colour": (True, {"geom_rgba"}, {"object0", "object1"}),
    "camera_deg": (3.0, {"cam_quat"}, {"front"}),
    "camera_m": (0.02, {"cam_pos"}, {"front"}),
    "camera_beyond_deg": (22.0, {"cam_pos", "cam_quat"}, {"front"}),
}
HALF = ("table_texture", "camera_beyond_deg")  # of the cases


def named(model, kind, index):
    return {"geom": model.geom, "light": model.light, "cam": model.camera}[kind](index).name


@pytest.mark.parametrize("name", EACH)
def test_each_randomisation_draws_its_own_looks_anew_at_each_step_and_moves_nothing(name, make):
    """Physics is bit for bit that of looks drawn once an episode, whatever was drawn before."""
    value, arrays, owners = EACH[name]

    def made(every_step):
        looks = RandomisationConfig(every_step=every_step, **{name: value})
        return make(config=TabletopConfig(num_objects=2, image_size=16, randomisation=looks)).unwrapped

    once, each = made(False), made(True)
    each.reset(seed=8)
    for env in (once, each):
        env.reset(seed=3)
    first = {a: getattr(each.model, a).copy() for a in LOOKS}
    seen, changed, whose = [], set(), set()
    for action in np.random.default_rng(0).uniform(-1, 1, (12, 5)).astype(np.float32):
        before = [getattr(once.model, a).tobytes() for a in LOOKS]
        (one, *_, info), (other, *_, info_too) = once.step(action), each.step(action)
        assert [getattr(once.model, a).tobytes() for a in LOOKS] == before
        np.testing.assert_array_equal(once.data.qpos, each.data.qpos)
        np.testing.assert_array_equal(one["proprio"], other["proprio"])
        np.testing.assert_array_equal(one["goal_image"], other["goal_image"])
        np.testing.assert_array_equal(info["object_positions"], info_too["object_positions"])
        seen.append(b"".join(getattr(each.model, a).tobytes() for a in LOOKS))
        for a in LOOKS:
            rows = np.flatnonzero((getattr(each.model, a) != first[a]).reshape(len(first[a]), -1).any(1))
            changed |= {a} if len(rows) else set()
            whose |= {named(each.model, a.split("_")[0], int(i)) for i in rows}
    assert (changed, whose) == (arrays, owners)
    assert len(set(seen)) == 12 or (name in HALF and len(set(seen)) > 4)


@pytest.mark.parametrize("name", ["light", "table_colour", "camera_deg", "camera_m"])
def test_an_episode_is_laid_out_as_without_randomisation(name, make):
    looks = RandomisationConfig(every_step=True, **{name: EACH[name][0]})
    plain, wild = (
        make(config=TabletopConfig(num_objects=2, image_size=16, randomisation=r)).unwrapped
        for r in (RandomisationConfig(), looks)
    )
    for env in (plain, wild):
        env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 5)).astype(np.float32):
        one, other = plain.step(action)[0], wild.step(action)[0]
        np.testing.assert_array_equal(plain.data.qpos, wild.data.qpos)
        assert (one["image"] != other["image"]).mean() > 0.1


def test_looks_of_each_step_follow_from_the_seed(make):
    looks = RandomisationConfig(0.3, 0.2, True, True, 3.0, 0.02, every_step=True)
    env, other = (make(config=TabletopConfig(num_objects=2, image_size=16, randomisation=looks)) for _ in range(2))
    other.reset(seed=99), other.step(np.zeros(5, np.float32))  # whatever went before leaves no trace
    env.reset(seed=7), other.reset(seed=7)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 5)).astype(np.float32):
        np.testing.assert_array_equal(env.step(action)[0]["image"], other.step(action)[0]["image"])


@pytest.mark.parametrize("name", EACH)
def test_a_step_shows_the_looks_that_were_drawn_for_it(name, make):
    looks = RandomisationConfig(every_step=True, **{name: EACH[name][0]})
    env = make(config=TabletopConfig(num_objects=2, image_size=16, randomisation=looks)).unwrapped
    env.reset(seed=3)
    for _ in range(3):
        image = env.step(np.zeros(5, np.float32))[0]["image"]
        mujoco.mj_camlight(env.model, env.data)
        np.testing.assert_array_equal(env._observe_image(), image)


def test_half_of_the_tables_have_a_pattern_and_all_patterns_come_up(make):
    looks = RandomisationConfig(table_texture=True, every_step=True)
    env = make(config=TabletopConfig(image_size=8, supersample=1, randomisation=looks)).unwrapped
    table, found = env.model.geom("table").id, []
    for seed in range(200):
        env.reset(seed=seed, options={"goal_image": False})
        found.append(int(env.model.geom_matid[table]))
    assert 0.4 < np.mean(np.array(found) >= 0) < 0.6
    assert len(set(found)) == 1 + len(splits.training_textures())
    assert {env.model.material(i).name for i in set(found) - {-1}} == set(splits.training_textures())


def test_panda_kinematics_match_the_published_table():
    """Denavit–Hartenberg (Craig) parameters of the maker, chained by hand, against the MJCF."""
    from latent_mpc.envs.arm import PANDA_XML

    model = mujoco.MjModel.from_xml_path(str(PANDA_XML))
    data = mujoco.MjData(model)
    quarter = np.pi / 2
    table = [(0, 0.333, 0), (0, 0, -quarter), (0, 0.316, quarter), (0.0825, 0, quarter), (-0.0825, 0.384, -quarter)]
    table += [(0, 0, quarter), (0.088, 0, quarter), (0, 0.107, 0)]  # a, d, alpha; the flange last
    rng = np.random.default_rng(0)
    for _ in range(10):
        q = rng.uniform(*model.jnt_range[:7].T)
        data.qpos[:7] = q
        mujoco.mj_forward(model, data)
        X = np.eye(4)
        for (a, d, alpha), theta in zip(table, [*q, 0.0], strict=True):
            ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
            X = X @ np.array(
                [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
            )
        np.testing.assert_allclose(data.body("hand").xpos, X[:3, 3], atol=1e-6)


def test_play_is_reproducible_and_grasps(make):
    env = make().unwrapped
    runs = []
    for _ in range(2):
        env.reset(seed=5, options={"goal_image": False})
        play = PlayPolicy(env, np.random.default_rng(5))
        grasped, actions = 0, []
        for _ in range(60):
            actions.append(play.act())
            env.step(actions[-1])
            grasped += env.grasped()[0]
        runs.append((np.array(actions), grasped))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"object_pose": [[0, 0, 0, 0]]}, "available"),
        ({"object_poses": [[0.5, 0, 0.02]]}, r"shape \(1, 4\)"),
        ({"arm_pose": [0.5, np.nan, 0.2, 0]}, "finite"),
        ({"object_poses": [[0.5, 0, 0.02, 0]], "goal_poses": [[0.5, 0.05, 0.02, 0]]}, "5.0 cm from its goal"),
    ],
)
def test_bad_reset_options(options, message, make):
    with pytest.raises(InvalidInputError, match=message):
        make().reset(seed=0, options=options)


@pytest.mark.parametrize("action", [np.zeros(4), np.full(5, np.nan), np.zeros((1, 5))])
def test_bad_actions(action, make):
    env = make()
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="action must be finite"):
        env.unwrapped.step(action)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"camera": "webcam"}, UnknownNameError, "front"),
        ({"shapes": ("torus",)}, UnknownNameError, "cube"),
        ({"control_dt_s": 0.25, "physics_dt_s": 0.004}, InvalidInputError, "whole multiple"),
        ({"num_objects": 0}, InvalidInputError, "num_objects"),
        ({"image_size": 0}, InvalidInputError, "positive"),
    ],
)
def test_a_config_cannot_lie(change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(TabletopConfig(), **change)


def test_play_config_refuses_the_impossible():
    with pytest.raises(InvalidInputError, match="chances"):
        PlayConfig(miss=1.5)


def test_unknown_environment_and_camera(make):
    with pytest.raises(gymnasium.error.Error, match="latent_mpc"):
        gymnasium.make("latent_mpc/PickAndPlace-v0")
    with pytest.raises(UnknownNameError, match="overview"):
        make().unwrapped.render_camera("webcam", 8, 8)


def test_no_opengl_names_the_packages(monkeypatch):
    from latent_mpc.envs import rendering

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering.gl_context, "_latent_mpc_selected", False, raising=False)

    def broken(name):
        raise ImportError(f"{name} has no library")

    monkeypatch.setattr(rendering.importlib, "import_module", broken)
    with pytest.raises(rendering.NoOpenGLError, match=r"apt-get install.*libosmesa6"):
        rendering.make_renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)

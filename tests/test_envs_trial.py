"""Trials: what is tried out leaves no trace in the simulation, and the images on the way show what they should."""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
import pytest

import latent_mpc  # noqa: F401  (registers the environments)
from latent_mpc.envs.play import ScriptedExpert
from latent_mpc.envs.tabletop import TabletopConfig
from latent_mpc.envs.trial import pick_place_images, trial
from latent_mpc.types import InvalidInputError

SMALL = TabletopConfig(image_size=16, supersample=1)
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@pytest.fixture
def make():
    made = []

    def build(task="PickPlace", **kwargs):
        made.append(gymnasium.make(f"latent_mpc/{task}-v0", config=SMALL, **kwargs))
        return made[-1].unwrapped

    yield build
    for env in made:
        env.close()


def state(env):
    values = np.empty(mujoco.mj_stateSize(env.model, STATE))
    mujoco.mj_getState(env.model, env.data, values, STATE)
    return values


def test_a_trial_leaves_no_trace(make):
    """Beside an episode without trials, with the object in the hand and let go: the same to the bit."""
    env, plain = make(), make()
    env.reset(seed=3), plain.reset(seed=3)
    expert = ScriptedExpert(plain)
    held = []
    for _ in range(20):
        with trial(env):
            for action in np.random.default_rng(0).uniform(-1, 1, (3, 5)).astype(np.float32):
                env.advance(action)
            assert not np.array_equal(state(env), state(plain))
        np.testing.assert_array_equal(state(env), state(plain))
        action = expert.act()
        tried, expected = env.step(action), plain.step(action)
        for key, value in expected[0].items():
            np.testing.assert_array_equal(tried[0][key], value)
        assert tried[1:4] == expected[1:4]
        held.append(expected[4]["is_grasped"])
    assert any(held) and not held[-1]


def test_a_trial_that_fails_is_put_back_too(make):
    env = make()
    env.reset(seed=3)
    before = state(env)
    with pytest.raises(InvalidInputError, match="finite"), trial(env):
        env.advance(np.ones(5, np.float32))
        env.advance(np.full(5, np.nan, np.float32))
    np.testing.assert_array_equal(state(env), before)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_images_show_grasped_held_above_the_goal_and_placed(make, monkeypatch, seed):
    env = make()
    observation, info = env.reset(seed=seed)
    before, seen, look = state(env), [], env.observe

    def noted():
        seen.append((env.object_positions()[0], env.grasped()[0], env.arm.finger_opening_m(env.data)))
        return look()

    monkeypatch.setattr(env, "observe", noted)
    images = pick_place_images(env)
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[-1], observation["goal_image"])
    np.testing.assert_array_equal(state(env), before)
    (grasped, *in_hand), (above, *still_in_hand) = seen
    start, goal = info["object_positions"][0], info["goal_positions"][0]
    assert np.linalg.norm(grasped - start) < 0.01 and grasped[2] < 0.03  # not lifted yet
    assert np.linalg.norm((above - goal)[:2]) <= 0.02 and above[2] > 0.06
    for held, opening in (in_hand, still_in_hand):
        assert held and opening == pytest.approx(0.04, abs=0.004)  # a cube of 4 cm


@pytest.mark.parametrize("task", ["Reach", "Rearrange"])
def test_three_images_are_of_one_object_that_moves(task):
    env = gymnasium.make(f"latent_mpc/{task}-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="one object"):
        pick_place_images(env)
    env.close()

"""Inverse dynamics in a linear world, where the action between two states is known."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_mpc.baselines import InverseDynamicsAgent
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.fit import FitConfig
from latent_mpc.world_model.inverse_dynamics import (
    InverseDynamicsConfig,
    goals_seen,
    hindsight_pairs,
    load_inverse_dynamics,
    save_inverse_dynamics,
    train_inverse_dynamics,
)
from latent_mpc.world_model.model import ModelConfig, WorldModel, save_world_model
from latent_mpc.world_model.train import Clips, all_states

LENGTH = 9  # frames of an episode
CONFIG = InverseDynamicsConfig(width=32, blocks=1, max_steps=1, fit=FitConfig(400, 64, 5e-3, 10))


def make_model() -> WorldModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = EncoderConfig(image_size=16, channels=(2, 2), num_keypoints=2, hidden=4, latent_dim=4)
        return WorldModel(encoder, ModelConfig(proprio_dim=2, action_dim=4, grasps=False, head_width=8))


def play(episodes: int, seed: int) -> Clips:
    """Four joints move by their four actions, at most 0.8; the image latent is their angles, proprioception of two."""
    g = torch.Generator().manual_seed(seed)
    action = 1.6 * torch.rand(episodes, LENGTH, 4, generator=g) - 0.8
    angle = torch.randn(episodes, 1, 4, generator=g).expand(-1, LENGTH, -1).clone()
    angle[:, 1:] += action[:, :-1].cumsum(1)
    z, at = angle.flatten(0, 1), np.arange(episodes * LENGTH)
    return Clips(z, z[:, :2], action.flatten(0, 1), lambda count: at[at % LENGTH + count <= LENGTH])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    model = make_model().requires_grad_(False)
    folder = tmp_path_factory.mktemp("inverse")
    return model, train_inverse_dynamics(model, play(100, seed=0), CONFIG, seed=0, folder=folder)


def test_the_action_between_two_states_is_found(trained):
    model, network = trained
    clips = play(30, seed=1)
    now = torch.from_numpy(clips.starts(2))
    states, goals, true = all_states(model, clips), goals_seen(model, clips), clips.action[now]
    unknown = true.square().mean()  # what the best constant leaves
    assert (network(states[now], goals[now + 1]) - true).square().mean() < 0.05 * unknown
    elsewhere = goals[now + 1].roll(7, 0)
    assert (network(states[now], elsewhere) - true).square().mean() > unknown


def test_goals_are_up_to_so_many_steps_later_in_the_same_episode():
    clips = play(20, seed=0)
    now, later = hindsight_pairs(clips, max_steps=4, count=20_000)(torch.Generator().manual_seed(0))
    steps, left = later - now, LENGTH - 1 - now % LENGTH
    assert (now // LENGTH == later // LENGTH).all() and (left >= 1).all()
    assert (steps[left < 4] <= left[left < 4]).all()
    free = steps[left >= 4]
    assert free.unique().tolist() == [1, 2, 3, 4]
    assert (free.bincount()[1:] / len(free) - 0.25).abs().max() < 0.02  # each as often


def test_a_goal_comes_without_proprioception(trained):
    model, _ = trained
    clips = play(2, seed=0)
    other = replace(clips, proprio=clips.proprio + 5)
    torch.testing.assert_close(goals_seen(model, clips), goals_seen(model, other))
    assert not torch.allclose(all_states(model, clips), all_states(model, other))


def test_what_is_written_acts_the_same_on_its_own_world_model_only(trained, tmp_path: Path):
    model, network = trained
    save_world_model(tmp_path / "model", model, metrics={}, training={})
    save_inverse_dynamics(tmp_path / "inverse", network, CONFIG, tmp_path / "model", seed=0)
    read = load_inverse_dynamics(tmp_path / "inverse", model, tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    observation = {"image": images[0], "proprio": np.zeros(2, np.float32)}
    agents = [InverseDynamicsAgent(model, each) for each in (network, read)]
    for agent in agents:
        with pytest.raises(InvalidInputError, match="call reset"):
            agent.act(observation)
        agent.reset(images[1])
    first, second = (agent.act(observation) for agent in agents)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (4,) and first.dtype == np.float32 and np.abs(first).max() <= 1
    agents[1].reset(images[0])
    assert not np.array_equal(agents[1].act(observation), first)  # it depends on the goal

    another = copy.deepcopy(model)
    another.proprio_head[0].weight[0, 0] += 1
    save_world_model(tmp_path / "other", another, metrics={}, training={})
    with pytest.raises(InvalidInputError, match="latents of other weights"):
        load_inverse_dynamics(tmp_path / "inverse", another, tmp_path / "other")
    with pytest.raises(InvalidInputError, match="holds no inverse dynamics"):
        load_inverse_dynamics(tmp_path / "model", model, tmp_path / "model")


@pytest.mark.parametrize("values", [{"max_steps": 0}, {"width": 0}, {"num_threads": 0}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(InvalidInputError, match="must be at least 1"):
        InverseDynamicsConfig(**values)

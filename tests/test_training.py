"""From nothing to refined weights by the command line, in miniature: play, encoder, model, practice, refinement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latent_mpc.cli import app
from latent_mpc.world_model.dataset import episode_path, read_episode, read_header
from latent_mpc.world_model.model import load_world_model

CONFIG = """
collect: {num_episodes: 3, episode_length: 24, env: {image_size: 24, supersample: 1}, agent:
  {coarse: {num_samples: 8, num_iterations: 1}, fine: {num_samples: 8, num_iterations: 1},
   settle: {num_samples: 8, num_iterations: 1}}}
pretrain:
  encoder: {image_size: 24, channels: [4, 4], num_keypoints: 4, hidden: 8, latent_dim: 8}
  training: {fit: {steps: 20, batch_size: 8}}
train:
  model: {head_width: 8, predictor_width: 8, predictor_blocks: 1, macro_width: 8, macro_blocks: 1}
  training:
    proprio: {steps: 20, batch_size: 8}
    distance: {steps: 20, batch_size: 8}
    predictor: {steps: 20, batch_size: 8}
    macro: {steps: 20, batch_size: 8}
"""


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `play`, `encoder`, `base`, `practice` and `refined`."""
    at = tmp_path_factory.mktemp("training")
    config = at / "config.yaml"
    config.write_text(CONFIG)
    settings = ("--config", config)
    run("collect", *settings, "--out", at / "play", "--workers", 1)
    run("pretrain", *settings, "--data", at / "play", "--out", at / "encoder")
    run("train", *settings, "--data", at / "play", "--encoder", at / "encoder", "--out", at / "base")
    run("collect", *settings, f"weights={at / 'base'}", "--out", at / "practice", "--workers", 1, "--seed", 1)
    both = ("--data", at / "play", "--data", at / "practice")
    run("train", *settings, *both, "--init", at / "base", "--out", at / "refined")
    return at


def test_refinement_trains_dynamics_and_macro_actions_alone(made: Path) -> None:
    base, refined = load_world_model(made / "base")[0], load_world_model(made / "refined")[0]
    changed = {
        name.split(".")[0]
        for (name, old), new in zip(base.state_dict().items(), refined.state_dict().values(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {"predictor", "macro", "scene_noise"}
    training = load_world_model(made / "refined")[1].config["training"]
    assert training["episodes"] == [3, 3] and training["refines"] == str(made / "base")


def test_practice_pursues_goals_and_says_whose_it_is(made: Path) -> None:
    header = read_header(made / "practice")
    assert (
        header.play_config["weights"] == str(made / "base") and "weights" not in read_header(made / "play").play_config
    )
    practice = read_episode(episode_path(made / "practice", 0))
    assert practice.action.shape == (24, 5) and np.abs(practice.action).max() <= 1
    again = CliRunner().invoke(
        app, ["collect", "--config", str(made / "config.yaml"), "--out", str(made / "practice"), "--seed", "1"]
    )
    assert again.exit_code == 2 and "play_config" in again.output


def test_the_same_command_finds_everything_done(made: Path) -> None:
    before = (made / "refined" / "model.safetensors").read_bytes()
    both = ("--data", made / "play", "--data", made / "practice")
    run("train", "--config", made / "config.yaml", *both, "--init", made / "base", "--out", made / "refined")
    assert (made / "refined" / "model.safetensors").read_bytes() == before


def test_weights_of_other_sizes_are_not_refined(made: Path) -> None:
    result = CliRunner().invoke(
        app, ["train", "--data", str(made / "play"), "--init", str(made / "base"), "--out", str(made / "other")]
    )
    assert result.exit_code == 2 and "head_width" in result.output
    assert not (made / "other").exists()

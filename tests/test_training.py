"""From nothing to refined weights by the command line, in miniature: play, encoder, model, practice, refinement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latent_mpc import training
from latent_mpc.cli import app
from latent_mpc.config import load_config
from latent_mpc.world_model.attention import AttentiveEncoder
from latent_mpc.world_model.dataset import PlayDataset, episode_path, read_episode, read_header, read_solo
from latent_mpc.world_model.gallery import GALLERY_NAME
from latent_mpc.world_model.model import WorldModel, load_world_model
from latent_mpc.world_model.train import Clips

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
    locator: {steps: 20, batch_size: 8}
    predictor: {steps: 20, batch_size: 8}
    macro: {steps: 20, batch_size: 8}
attend:
  attention: {image_size: 24, channels: [4, 4], num_keypoints: 4, hidden: 8, latent_dim: 8}
  training: {fit: {steps: 20, batch_size: 8}}
"""


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `play`, `encoder`, `base`, `practice`, `refined`, `objects` and `attentive`."""
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
    many = ("solo=true", "env.num_objects=2", "env.randomisation.object_colour=true")
    run("collect", *settings, *many, "--out", at / "objects", "--workers", 1)
    run("attend", *settings, "--data", at / "objects", "--weights", at / "base", "--out", at / "attentive")
    return at


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    return result.output


def test_refinement_leaves_what_a_goal_means(made: Path) -> None:
    base, refined = load_world_model(made / "base")[0], load_world_model(made / "refined")[0]
    changed = {
        name.split(".")[0]
        for (name, old), new in zip(base.state_dict().items(), refined.state_dict().values(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {"proprio_head", "locator", "predictor", "macro", "scene_noise"}
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


# ---- one thing among many ----


def test_a_model_that_attends_is_the_one_that_taught_it_with_another_encoder(made: Path) -> None:
    base, (attentive, checkpoint) = load_world_model(made / "base")[0], load_world_model(made / "attentive")
    assert attentive.attends and not base.attends and attentive.config == base.config
    old, new = (
        {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")} for model in (base, attentive)
    )
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    said = checkpoint.config["training"]
    assert said["taught_by"] == str(made / "base") and said["looks"] == 2 * 25 * 2  # of two episodes; one is held out
    assert (made / "attentive" / GALLERY_NAME).read_bytes() == (made / "base" / GALLERY_NAME).read_bytes()


def test_the_teacher_looks_at_each_object_alone(made: Path) -> None:
    model, _ = load_world_model(made / "base")
    dataset = PlayDataset.load(made / "objects", progress=False)
    z, rgb = training.encode_solo(model.encoder, made / "objects", dataset)
    assert z.shape == (75, 2, 8) and rgb.shape == (75, 2, 3)
    for index in range(3):
        images, colours = map(torch.from_numpy, read_solo(episode_path(made / "objects", index)))
        rows = slice(25 * index, 25 * (index + 1))
        assert torch.equal(rgb[rows], colours)
        for i in range(2):
            torch.testing.assert_close(z[rows, i], model.encoder.encode_all(images[:, i]))
    assert (z[:, 0] - z[:, 1]).abs().max() > 0.1


def test_attending_again_finds_everything_done(made: Path) -> None:
    before = (made / "attentive" / "model.safetensors").read_bytes()
    words = ("--config", made / "config.yaml", "--data", made / "objects", "--weights", made / "base")
    run("attend", *words, "--out", made / "attentive")
    assert (made / "attentive" / "model.safetensors").read_bytes() == before


def test_an_eye_is_taught_further_from_where_it_was(made: Path) -> None:
    words = ("--config", made / "config.yaml", "--data", made / "objects", "--weights", made / "base")
    run("attend", *words, "--init", made / "attentive", "--out", made / "further")
    further, checkpoint = load_world_model(made / "further")
    start = load_world_model(made / "attentive")[0]
    assert checkpoint.config["training"]["refines"] == str(made / "attentive")
    torch.manual_seed(5)
    fresh = AttentiveEncoder(start.encoder.config)
    near, far = (
        sum((new - old).detach().norm().item() for new, old in zip(further.encoder.parameters(), other, strict=True))
        for other in (start.encoder.parameters(), fresh.parameters())
    )
    assert 0 < near < 0.5 * far
    said = refused("attend", *words, "--init", made / "base", "--out", made / "other")
    assert "no attentive encoder of the sizes" in said


def test_what_cannot_be_attended_to_is_refused(made: Path) -> None:
    config, out = ("--config", made / "config.yaml"), ("--out", made / "none")
    said = refused("attend", *config, "--data", made / "play", "--weights", made / "base", *out)
    assert "does not show the objects alone; collect with solo=true" in said
    said = refused("attend", *config, "--data", made / "objects", "--weights", made / "attentive", *out)
    assert "attends already" in said
    said = refused("train", *config, "--data", made / "objects", "--init", made / "attentive", *out)
    assert "attends: train the model that its encoder was taught by" in said
    said = refused("info", made / "attentive", "--data", made / "objects")
    assert "sees one thing at a time" in said
    assert not (made / "none").exists()


def test_a_model_learns_from_each_object_alone_as_from_an_episode_of_its_own(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset with pictures of two objects alone counts twice, and what lies beside them in the scene is not seen."""
    given: list[Clips] = []
    monkeypatch.setattr(training, "train_heads", lambda model, clips, *_, **__: given.append(clips))
    config = load_config(training.TrainConfig, made / "config.yaml", [], section="train")
    folders = [made / "play", made / "objects"]
    base = str(made / "base")
    training.train(config, data=folders, encoder=made, out=made / "other", seed=0, device="cpu", init=base)
    (clips,) = given
    play, objects = (PlayDataset.load(folder, progress=False) for folder in folders)
    model: WorldModel = load_world_model(made / "base")[0]
    alone = training.encode_solo(model.encoder, made / "objects", objects)[0]
    seen = model.encoder.encode_all(torch.from_numpy(play.image))
    torch.testing.assert_close(clips.z, torch.cat([seen, alone[:, 0], alone[:, 1]]))
    for name in ("proprio", "action"):
        one, other = (torch.from_numpy(getattr(dataset, name)) for dataset in (play, objects))
        assert torch.equal(getattr(clips, name), torch.cat([one, other, other]))
    episodes = training.load_split(made / "objects", None)[1]
    starts = clips.starts(20)
    assert [int(((starts >= 75 * k) & (starts < 75 * (k + 1))).sum()) for k in range(3)] == [12] * 3
    np.testing.assert_array_equal(starts[12:24] - 75, objects.clip_starts(19, episodes))
    np.testing.assert_array_equal(starts[24:], starts[12:24] + 75)

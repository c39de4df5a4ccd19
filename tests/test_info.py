"""`latent-mpc info`: measures with known answers, episodes that are really held out, and what it prints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latent_mpc.cli import app
from latent_mpc.info import InfoConfig, describe, render_metrics, table
from latent_mpc.measure import MeasureConfig, measure
from latent_mpc.training import load_split
from latent_mpc.types import InvalidInputError, UnknownNameError
from latent_mpc.world_model.attention import AttentionConfig
from latent_mpc.world_model.checkpoint import Checkpoint, module_tensors, save_checkpoint
from latent_mpc.world_model.dataset import DatasetHeader, Episode, PlayDataset, write_episode, write_header
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.model import ModelConfig, WorldModel, save_world_model

SIZE, STEPS, EPISODES = 32, 24, 40
ENCODER = EncoderConfig(image_size=SIZE, channels=(8, 8), num_keypoints=8, hidden=32, latent_dim=16)
SIZES = ModelConfig(embedding_dim=4, head_width=16, predictor_width=16, macro_width=16)
QUICK = MeasureConfig(probe_steps=120, probe_frames=1000)


def make_episode(seed: int) -> Episode:
    """Object 0 is a white square that jumps at every step, its height unseen; object 1 rests, and is nowhere seen."""
    rng = np.random.default_rng(seed)
    positions = np.zeros((STEPS + 1, 2, 3), np.float32)
    positions[:, 0] = rng.uniform(0, 24, (STEPS + 1, 3))
    positions[:, 1] = rng.uniform(0, 24, 3)
    image = np.zeros((STEPS + 1, SIZE, SIZE, 3), np.uint8)
    for frame, (x, y, _) in zip(image, positions[:, 0].round().astype(int), strict=True):
        frame[y : y + 8, x : x + 8] = 255
    proprio = rng.normal(size=(STEPS + 1, 6)).astype(np.float32) * 0.05
    action = rng.uniform(-1, 1, (STEPS, 5)).astype(np.float32)
    return Episode(image, proprio, action, seed, positions / 100, np.arange(STEPS + 1) % 4 == 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("play")
    write_header(folder, DatasetHeader("stub/Env-v0", {}, {}, 0, (SIZE, SIZE), 5, 6, 0.2))
    for index in range(EPISODES):
        write_episode(folder, index, make_episode(index))
    return folder


@pytest.fixture(scope="module")
def model(data: Path) -> WorldModel:
    """A fresh model, calibrated on the data, whose proprioception head always says zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WorldModel(ENCODER, SIZES)
    dataset, train, _ = load_split(data, None)
    images = torch.from_numpy(dataset.image[dataset.clip_starts(0, train)[::8]])
    model.encoder.calibrate(images)
    for parameter in model.proprio_head[-1].parameters():
        torch.nn.init.zeros_(parameter)
    model.proprio_std.fill_(0.05)
    model.latent_mean.fill_(3.0)
    model.latent_std.fill_(0.5)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def split(data: Path) -> tuple[PlayDataset, np.ndarray, np.ndarray]:
    return load_split(data, None, with_truth=True)


@pytest.fixture(scope="module")
def metrics(model: WorldModel, split: tuple) -> dict[str, Any]:
    return measure(model, *split, QUICK, seed=0, progress=False)


def one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    [row] = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def held_out(split: tuple) -> np.ndarray:
    dataset, _, validation = split
    return np.isin(dataset.episode_index, validation)


def test_the_probe_finds_what_is_drawn_and_nothing_else(metrics: dict[str, Any], split: tuple) -> None:
    spread = 100 * split[0].object_positions[held_out(split)].std(0)  # (2, 3), cm
    drawn = one(metrics["object_probe"], features="image latent", object=0, frames="all")["rmse_cm"]
    hidden = one(metrics["object_probe"], features="image latent", object=1, frames="all")["rmse_cm"]
    assert max(drawn[:2] / spread[0, :2]) < 0.5
    assert drawn[2] > 0.8 * spread[0, 2] and min(hidden / spread[1]) > 0.8


def test_every_subset_is_counted(metrics: dict[str, Any], split: tuple) -> None:
    rows, at = metrics["object_probe"], held_out(split)
    grasped = int(split[0].is_grasped[at].sum())
    assert metrics["data"]["validation_frames"] == at.sum() and metrics["data"]["validation_episodes"] == 2
    assert metrics["data"]["probe_frames"] <= QUICK.probe_frames
    for features in ("image latent", "random encoder", "scene embedding"):
        for n in (0, 1):
            counts = [one(rows, features=features, object=n, frames=f)["count"] for f in ("all", "grasped", "free")]
            assert counts == [at.sum(), grasped, at.sum() - grasped]
    assert len(rows) == 18


def test_the_arms_error_is_in_centimetres(metrics: dict[str, Any], split: tuple) -> None:
    """The head says zero, so its error is the arm's distance from there."""
    tool = 100 * split[0].proprio[held_out(split), :3]
    assert metrics["arm"]["rmse_cm"] == pytest.approx(np.sqrt((tool**2).mean(0)), rel=1e-3)
    assert metrics["arm"]["median_cm"] == pytest.approx(np.median(np.abs(tool), axis=0), rel=1e-3)


def test_open_loop_of_a_model_that_predicts_no_change(metrics: dict[str, Any], split: tuple) -> None:
    """A fresh model's dynamics do nothing: surprise is persistence's, and a resting object's error the probe's."""
    for row in metrics["surprise"]:
        assert row["mean"] == row["persistence"] > 0
    rows, dataset = metrics["open_loop"], split[0]
    starts = dataset.clip_starts(20, split[2])[:: QUICK.clip_stride]
    positions = 100 * dataset.object_positions
    for level, steps in [("fine", (1, 5, 10, 20)), ("coarse", (5, 10, 15, 20))]:
        for k in steps:
            row = one(rows, level=level, object=0, steps=k, clips="all")
            went = np.linalg.norm(positions[starts + k, 0] - positions[starts, 0], axis=-1)
            assert row["count"] == len(starts) and row["persistence_cm"] == pytest.approx(went.mean(), rel=1e-3)
            resting = one(rows, level=level, object=1, steps=k, clips="all")
            assert resting["persistence_cm"] == 0
            assert not [r for r in rows if r["object"] == 1 and r["clips"] == "moved"]
    moved = one(rows, level="fine", object=0, steps=20, clips="moved")
    assert moved["mean_cm"] > 1.5 * moved["floor_cm"]


def test_probes_never_see_the_validation_episodes(model: WorldModel, split: tuple) -> None:
    """Truth that lies a metre off in those episodes alone shows up as a metre."""
    dataset, train, validation = split
    moved = dataset.object_positions.copy()
    moved[held_out(split), :, 0] += 1.0
    lying = replace(dataset, object_positions=moved)
    metrics = measure(model.encoder, lying, train, validation, QUICK, seed=0, progress=False)
    for row in metrics["object_probe"]:
        assert row["median_cm"][0] == pytest.approx(100, abs=15) and row["median_cm"][1] < 15
    assert set(metrics) == {"data", "object_probe"}


def test_the_same_seed_gives_the_same_measures(model: WorldModel, split: tuple) -> None:
    quick = replace(QUICK, probe_steps=3)
    torch.manual_seed(4)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second, other = (measure(model.encoder, *split, quick, seed=s, progress=False) for s in (0, 0, 1))
    assert first == second and first["object_probe"] != other["object_probe"]
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_describe_without_data_tells_sizes_origin_and_the_card(
    model: WorldModel, metrics: dict[str, Any], tmp_path: Path
) -> None:
    save_world_model(tmp_path / "m", model, {**metrics, "note": {"by": 3}}, {"seed": 7, "episodes": [EPISODES]})
    text = describe(
        InfoConfig(), weights=str(tmp_path / "m"), data=None, out=tmp_path / "deep" / "i.json", seed=0, device="cpu"
    )
    encoder = (48 * 4 * 8 + 8) + (8 * 8 * 9 + 8) + (8 * 8 + 8) + (24 * 32 + 32) + (32 * 16 + 16)
    assert f"| encoder        | {encoder:,} " in text
    assert f"{sum(p.numel() for p in model.parameters()):,}" in text
    assert "seed: 7" in text and "embedding_dim: 4" in text and "note: {by: 3}" in text
    row = one(metrics["object_probe"], features="scene embedding", object=1, frames="grasped")
    assert any(
        all(part in line for part in ("scene embedding", "grasped", f"{row['rmse_cm'][2]:.2f}"))
        for line in text.splitlines()
    )
    facts = json.loads((tmp_path / "deep" / "i.json").read_text())
    assert facts["parameters"]["encoder"] == encoder and facts["metrics"] == {**metrics, "note": {"by": 3}}
    assert facts["size_mb"] == pytest.approx((tmp_path / "m" / "model.safetensors").stat().st_size / 1e6, abs=0.01)


def test_describe_measures_on_the_episodes_that_training_held_out(
    model: WorldModel, metrics: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    arguments = dict(data=data, out=tmp_path / "i.json", seed=0, device="cpu")
    save_world_model(tmp_path / "all", model, {}, {"episodes": [EPISODES]})
    text = describe(InfoConfig(QUICK), weights=str(tmp_path / "all"), **arguments)
    assert json.loads((tmp_path / "i.json").read_text())["metrics"] == metrics
    assert "## Open loop" in text and "## Surprise" in text
    save_world_model(tmp_path / "few", model, {}, {"episodes": [4]})
    describe(InfoConfig(replace(QUICK, probe_steps=1)), weights=str(tmp_path / "few"), **arguments)
    measured = json.loads((tmp_path / "i.json").read_text())["metrics"]["data"]
    assert measured["probe_frames"] == 3 * (STEPS + 1) and measured["validation_frames"] == STEPS + 1


def test_an_encoder_alone_is_described_too(model: WorldModel, data: Path, tmp_path: Path) -> None:
    tensors = module_tensors(model.encoder, "model.encoder")
    save_checkpoint(tmp_path, Checkpoint(tensors, {"seed": 5, "encoder": asdict(ENCODER), "pretrain": {"max_gap": 9}}))
    config = InfoConfig(replace(QUICK, probe_steps=1))
    text = describe(config, weights=str(tmp_path), data=data, out=None, seed=0, device="cpu")
    assert "image latent" in text and "random encoder" in text and "scene embedding" not in text
    assert "max_gap: 9" in text and "## Open loop" not in text


def test_the_command(model: WorldModel, tmp_path: Path) -> None:
    save_world_model(tmp_path / "m", model, {}, {"seed": 7})
    result = CliRunner().invoke(app, ["info", str(tmp_path / "m")])
    assert result.exit_code == 0 and "seed: 7" in result.output and "give --data" in result.output
    result = CliRunner().invoke(app, ["info", str(tmp_path / "m"), "measure.probe_steps=0"])
    assert result.exit_code == 2 and "probe_steps" in result.output


def test_what_cannot_be_measured_is_refused(model: WorldModel, split: tuple, data: Path, tmp_path: Path) -> None:
    dataset, train, validation = split
    blind = replace(dataset, object_positions=None)
    with pytest.raises(InvalidInputError, match="with_truth=True"):
        measure(model, blind, train, validation, QUICK, seed=0, progress=False)
    robot = replace(dataset, header=replace(dataset.header, proprio_dim=7))
    with pytest.raises(InvalidInputError, match=r"7 and actions of 5 entries.*trained on 6 and 5"):
        measure(model, robot, train, validation, QUICK, seed=0, progress=False)
    other = KeypointEncoder(replace(ENCODER, image_size=16))
    with pytest.raises(InvalidInputError, match=r"images \(B, 16, 16, 3\)"):
        measure(other, dataset, train, validation, QUICK, seed=0, progress=False)
    attentive = WorldModel(AttentionConfig(image_size=SIZE, channels=(4, 4), num_keypoints=4, hidden=8), SIZES)
    with pytest.raises(InvalidInputError, match="measure the model whose encoder taught"):
        measure(attentive, dataset, train, validation, QUICK, seed=0, progress=False)
    with pytest.raises(UnknownNameError, match="weights"):
        describe(InfoConfig(), weights=str(tmp_path / "none"), data=None, out=None, seed=0, device="cpu")
    with pytest.raises(InvalidInputError, match="lacks"):
        describe(InfoConfig(), weights=str(tmp_path), data=None, out=None, seed=0, device="cpu")
    short = tmp_path / "short"
    short.mkdir()
    write_header(short, dataset.header)
    for index in range(3):
        whole = vars(make_episode(index))
        cut = {k: v[: 10 if k == "action" else 11] if isinstance(v, np.ndarray) else v for k, v in whole.items()}
        write_episode(short, index, Episode(**cut))
    with pytest.raises(InvalidInputError, match="no validation episode has 20 actions"):
        measure(model, *load_split(short, None, with_truth=True), replace(QUICK, probe_steps=1), seed=0, progress=False)


def test_tables_are_markdown_and_aligned() -> None:
    lines = table(["name", "cm"], [["a", 1.0], ["longer", 12.346]]).splitlines()
    assert lines == ["| name   | cm    |", "|--------|-------|", "| a      | 1.00  |", "| longer | 12.35 |"]
    assert render_metrics({}) == []


@pytest.mark.parametrize("values", [{"probe_steps": 0}, {"probe_frames": 1}, {"clip_stride": 0}, {"moved_m": -1.0}])
def test_impossible_settings_are_refused(values: dict) -> None:
    with pytest.raises(InvalidInputError):
        MeasureConfig(**values)

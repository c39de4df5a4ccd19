"""The baseline LeWM: clips are those of its library, the script says what is missing, training goes on, it plans."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_mpc.evaluation import FIRST_SEED
from latent_mpc.types import AgentLike, InvalidInputError
from latent_mpc.world_model.dataset import DatasetHeader, PlayDataset

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import lewm
from lewm import LeWMAgent, LeWMConfig, clip_starts, clips, prepared, train

needs_library = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in lewm.NEEDS), reason=f"needs {', '.join(lewm.NEEDS)}"
)
LENGTHS = (30, 9, 23)  # frames; the second one is too short for a clip
FRAMESKIP, SPAN = 5, 20


@pytest.fixture
def play() -> PlayDataset:
    """Frame f is of the colour f, the actions before it too, but for an episode's last."""
    count = sum(LENGTHS)
    colour = np.arange(count, dtype=np.float32)
    ends = np.cumsum(LENGTHS) - 1
    action = np.stack([colour, -colour], 1)
    action[ends] = 0
    return PlayDataset(
        header=DatasetHeader("stub/Env-v0", {}, {}, 0, (64, 64), 2, 3, 0.2),
        image=np.broadcast_to(colour.astype(np.uint8)[:, None, None, None], (count, 64, 64, 3)).copy(),
        proprio=np.zeros((count, 3), np.float32),
        action=action,
        episode_index=np.repeat(np.arange(3), LENGTHS),
        step_index=np.concatenate([np.arange(n) for n in LENGTHS]),
    )


def test_a_clip_is_four_frames_with_the_five_actions_that_follow_each(play):
    starts = clip_starts(play, play.episodes, FRAMESKIP)
    assert starts.tolist() == [*range(11), *range(39, 43)]  # none goes on in the next episode
    found = clips(play, starts[[3, 12]], FRAMESKIP)
    assert found["pixels"].dtype == torch.uint8 and found["pixels"].shape == (2, 4, 3, 64, 64)
    assert found["pixels"][..., 0, 0, 0].tolist() == [[3, 8, 13, 18], [40, 45, 50, 55]]
    assert found["action"].shape == (2, 4, FRAMESKIP, 2)
    assert found["action"][1, :3, :, 0].tolist() == [[40, 41, 42, 43, 44], [45, 46, 47, 48, 49], [50, 51, 52, 53, 54]]
    assert torch.equal(found["action"][..., 1], -found["action"][..., 0])


def test_only_the_episodes_asked_for_and_none_too_short(play):
    assert clip_starts(play, np.array([2]), FRAMESKIP).min() == 39
    with pytest.raises(InvalidInputError, match="20 frames"):
        clip_starts(play, np.array([1]), FRAMESKIP)


def test_pixels_are_scaled_as_imagenets_and_keep_their_size_or_take_the_one_asked_for():
    pixels = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 64, 64)
    found = prepared(pixels, 64)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, 0.515 / 0.229])
    assert found[:, 2, 5, 5].tolist() == pytest.approx([-0.406 / 0.225, 0.594 / 0.225])
    assert torch.allclose(prepared(pixels[:, None], 224)[:, 0], found[..., :1, :1].expand(2, 3, 224, 224), atol=1e-5)


def test_without_the_library_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lewm.importlib.util, "find_spec", lambda name: None if name == "stable_worldmodel" else True)
    monkeypatch.setattr(sys, "argv", ["lewm.py", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        lewm.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "needs stable_worldmodel: pip install" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"patch_size": 14}, {"receding": 6}, {"samples": 9}])
def test_a_config_refuses_what_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"patches|samples"):
        LeWMConfig(**wrong)


@needs_library
def test_clips_are_those_of_the_librarys_own_dataset(play):
    lewm.require_library()
    from stable_worldmodel.data.dataset import Dataset

    class Theirs(Dataset):
        def _load_slice(self, ep_idx, start, end):
            rows = slice(self.offsets[ep_idx] + start, self.offsets[ep_idx] + end)
            pixels = torch.from_numpy(play.image[rows][:: self.frameskip]).permute(0, 3, 1, 2)
            return {"pixels": pixels, "action": torch.from_numpy(play.action[rows])}

    theirs = Theirs(np.array(LENGTHS), np.cumsum((0, *LENGTHS[:2])), FRAMESKIP, lewm.HISTORY + 1)
    starts = clip_starts(play, play.episodes, FRAMESKIP)
    assert len(theirs) == len(starts)
    ours = clips(play, starts, FRAMESKIP)
    for i in range(len(starts)):
        assert torch.equal(theirs[i]["pixels"], ours["pixels"][i])
        assert torch.equal(theirs[i]["action"], ours["action"][i].flatten(1))


@needs_library
def test_training_goes_on_where_it_was_and_the_agent_plans_as_the_seed_says(play, tmp_path):
    lewm.require_library()
    config = LeWMConfig(patch_size=32, batch_size=4, samples=20, iterations=2, horizon=2, receding=1)
    train(config, play, tmp_path, 1e-6)
    first = torch.load(tmp_path / lewm.CHECKPOINT, weights_only=True)
    assert first["steps"] == len(first["losses"]) == 1 and first["losses"].isfinite().all()
    model, state = train(config, play, tmp_path, 1.5 * first["seconds"] / 60)
    assert state["steps"] == 2 and torch.equal(state["losses"][:1], first["losses"])
    with pytest.raises(InvalidInputError, match="other settings or data"):
        train(LeWMConfig(patch_size=32, batch_size=8), play, tmp_path, 1)

    agent = LeWMAgent(model, state, config)
    assert isinstance(agent, AgentLike)
    acted = []
    for seed in (FIRST_SEED, FIRST_SEED, FIRST_SEED + 1):
        agent.reset(play.image[20], seed=seed)
        acted.append(np.stack([agent.act({"image": play.image[i]}) for i in range(7)]))
    assert acted[0].shape == (7, 2) and np.abs(acted[0]).max() <= 1
    assert np.array_equal(acted[0], acted[1]) and not np.array_equal(acted[0], acted[2])

"""Training after the encoder, in a linear world whose dynamics are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.fit import FitConfig
from latent_mpc.world_model.model import ModelConfig, WorldModel
from latent_mpc.world_model.train import Clips, TrainConfig, _goal_sampler, all_states, train_heads

LENGTH = 11  # frames of an episode
SIZES = ModelConfig(
    proprio_dim=2, action_dim=4, grasps=False, embedding_dim=2, head_width=32, predictor_width=32, predictor_blocks=1,
    macro_dim=7, chunk_length=2, max_goal_steps=8, macro_width=48, macro_blocks=1,
)  # fmt: skip
CONFIG = TrainConfig(
    proprio=FitConfig(200, 64, 5e-3, 10),
    distance=FitConfig(200, 64, 5e-3, 10),
    predictor=FitConfig(200, 64, 5e-3, 10),
    macro=FitConfig(300, 64, 5e-3, 10),
    min_gap=1,
    max_gap=2,
    rollout_steps=4,
    macro_steps=2,
)


def make_world(episodes: int, seed: int, length: int = LENGTH, *, thing_moves: bool = True) -> tuple[Clips, Tensor]:
    """An arm of two joints and an object in the plane: each moves by 0.5 of its two actions.

    The image latent is a fixed mix of both and noise. Returns the clips and the object's positions (F, 2).
    """
    g = torch.Generator().manual_seed(seed)
    action = 2 * torch.rand(episodes, length, 4, generator=g) - 1
    action[..., 2:] *= thing_moves
    start = torch.randn(episodes, 1, 4, generator=g)
    path = torch.cat([start, start + 0.5 * action[:, :-1].cumsum(1)], dim=1).flatten(0, 1)  # (F, 4): arm, object
    mix = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    z = path @ mix + 0.02 * torch.randn(len(path), 8, generator=g)
    at = np.arange(len(path))

    def starts(count: int) -> np.ndarray:
        return at[at % length + count <= length]

    return Clips(z, 3.0 + 2.0 * path[:, :2], action.flatten(0, 1), starts), path[:, 2:]


def fresh_model() -> WorldModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = EncoderConfig(image_size=16, channels=(2, 2), num_keypoints=2, hidden=4, latent_dim=8)
        return WorldModel(encoder, SIZES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldModel, Path]:
    model, folder = fresh_model(), tmp_path_factory.mktemp("whole")
    train_heads(model, make_world(200, seed=0)[0], CONFIG, seed=0, folder=folder)
    return model.requires_grad_(False), folder


@pytest.fixture(scope="module")
def held_out() -> tuple[Clips, Tensor]:
    return make_world(60, seed=1)


def clip(states: Tensor, length: int) -> Tensor:
    """(F, D) -> the first frames of each episode, (E, length, D)."""
    return states.unflatten(0, (-1, LENGTH))[:, :length]


def test_states_are_standardised_and_the_head_reads_the_arm(
    trained: tuple[WorldModel, Path], held_out: tuple[Clips, Tensor]
) -> None:
    model, states = trained[0], all_states(trained[0], make_world(200, seed=0)[0])
    assert states.shape == (200 * LENGTH, 10)
    torch.testing.assert_close(states.mean(0), torch.zeros(10), atol=1e-3, rtol=0)
    torch.testing.assert_close(states.std(0), torch.ones(10), atol=1e-3, rtol=0)
    clips, _ = held_out
    _, arm = model.split(all_states(model, clips))
    assert (model.proprio_head(clips.z) - arm).square().mean() < 0.02


def test_the_predictor_rolls_out_far_better_than_persistence(
    trained: tuple[WorldModel, Path], held_out: tuple[Clips, Tensor]
) -> None:
    model, clips = trained[0], held_out[0]
    states, actions = clip(all_states(model, clips), 6), clip(clips.action, 5)
    s = states[:, 0]
    for t in range(5):
        s = model.predictor.step(s, actions[:, t])
    for predicted, still, true in zip(
        model.split(s), model.split(states[:, 0]), model.split(states[:, -1]), strict=True
    ):
        assert (predicted - true).square().mean() < 0.1 * (still - true).square().mean()


def test_macro_actions_predict_the_chunks_end_and_give_its_actions_back(
    trained: tuple[WorldModel, Path], held_out: tuple[Clips, Tensor]
) -> None:
    """What the state shows of a chunk, the sum of its actions, survives; the rest is worth nats as well."""
    model, clips = trained[0], held_out[0]
    states, chunk = clip(all_states(model, clips), 3), clip(clips.action, 2)
    end = model.macro.predict(states[:, 0], chunk)
    assert (end - states[:, 2]).square().mean() < 0.1 * (states[:, 0] - states[:, 2]).square().mean()
    at_once = torch.zeros(len(chunk), 1)
    view = model.view(states[:, 0], model.place(states[:, 2]))
    x, _ = model.macro.posterior(*view, at_once, chunk)
    decoded = model.macro.decode_at(*view, at_once, x)
    assert (decoded - chunk).square().mean() < 0.6 * chunk.square().mean()
    total = chunk.sum(1)
    assert (decoded.sum(1) - total).square().mean() < 0.35 * total.square().mean()
    assert 0.1 < x.square().mean() < 1.5  # as N(0, 1) has it


def test_the_prior_knows_the_way_to_a_goal(trained: tuple[WorldModel, Path], held_out: tuple[Clips, Tensor]) -> None:
    """Undirected play says nothing of the actions to come; where it brings the thing says what they sum up to."""
    model, clips = trained[0], held_out[0]
    states, chunk = clip(all_states(model, clips), 3), clip(clips.action, 2)
    at_once, likeliest = torch.zeros(len(chunk), 1), torch.zeros(len(chunk), model.config.macro_dim - 1)
    total = chunk[..., 2:].sum(1)  # of the thing
    knowing, ignorant = (
        (model.macro.decode_at(*view, at_once, likeliest)[..., 2:].sum(1) - total).square().mean()
        for view in (model.view(states[:, 0], model.place(goal)) for goal in (states[:, 2], states[:, 2].roll(1, 0)))
    )
    assert knowing < 0.3 * total.square().mean() < ignorant


def test_goals_are_places_reached_later_in_the_same_episode(trained: tuple[WorldModel, Path]) -> None:
    model, clips = trained[0], make_world(30, seed=5)[0]
    states = all_states(model, clips)
    state, actions, place, steps = _goal_sampler(model, clips, 0.9, 256)(torch.Generator().manual_seed(0))
    first = (states[:, 0] == state[:, :1]).float().argmax(1)
    assert torch.equal(states[first], state)
    assert torch.equal(actions, clips.action[first[:, None] + torch.arange(2)])
    assert steps.min() == 2 and steps.max() == 8
    assert torch.equal(first // LENGTH, (first + steps) // LENGTH)
    torch.testing.assert_close(place, model.place(states[first + steps]))


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.1, 0.3), (0.9, 0.89, 0.97), (1.0, 1.0, 1.0)])
def test_the_share_of_play_that_moves_the_thing(
    share: float, low: float, high: float, trained: tuple[WorldModel, Path]
) -> None:
    """In one of five episodes the thing moves."""
    model = trained[0]
    moving, still = make_world(20, seed=5)[0], make_world(80, seed=6, thing_moves=False)[0]
    clips = Clips.join([moving, still])
    state = _goal_sampler(model, clips, share, 512)(torch.Generator().manual_seed(0))[0]
    first = (all_states(model, clips)[:, 0] == state[:, :1]).float().argmax(1)
    assert low <= (first < len(moving.z)).float().mean() <= high
    alone = _goal_sampler(model, still, share, 512)(torch.Generator().manual_seed(0))[0]
    assert alone.shape == (512, 10)  # where nothing moves, what there is has to do


def test_scenes_are_compared_by_the_object_and_not_by_the_arm(
    trained: tuple[WorldModel, Path], held_out: tuple[Clips, Tensor]
) -> None:
    model, states = trained[0], all_states(trained[0], held_out[0])
    other = states.roll(LENGTH, 0)  # the same step of another episode
    clips, objects = held_out
    arms, moved = (clips.proprio / 2, objects)  # both in the unit of the actions
    d = model.scene_distance(states, other)
    by_object, by_arm = ((x - x.roll(LENGTH, 0)).norm(dim=-1) for x in (moved, arms))
    assert torch.corrcoef(torch.stack([d, by_object]))[0, 1] > 0.5 + torch.corrcoef(torch.stack([d, by_arm]))[0, 1]
    assert d.mean().item() == pytest.approx(1, abs=0.3)


def test_a_state_that_hides_the_object_says_so(tmp_path: Path) -> None:
    """Objects that rest, and an arm that hides them wherever its first joint is positive."""
    g = torch.Generator().manual_seed(3)
    arm = torch.randn(300, LENGTH, 2, generator=g)
    objects = torch.randn(300, 1, 2, generator=g).expand(-1, LENGTH, -1)
    hidden = arm[..., :1] > 0
    mix = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    z = (torch.cat([arm, torch.where(hidden, 0.0, objects)], -1) @ mix).flatten(0, 1)
    clips = Clips(z, arm.flatten(0, 1), torch.zeros(len(z), 4), make_world(300, seed=0)[0].starts)
    model = fresh_model()
    quick = FitConfig(1, 8)
    config = replace(CONFIG, proprio=quick, predictor=quick, macro=quick, distance=FitConfig(600, 64, 5e-3, 10))
    train_heads(model, clips, config, seed=0, folder=tmp_path)
    spread = model.scene_distance.spread(all_states(model, clips)).detach()
    seen, unseen = spread[~hidden.flatten()], spread[hidden.flatten()]
    assert unseen.median() > 3 * seen.median()


def test_scene_noise_is_the_median_distance_after_one_chunk(trained: tuple[WorldModel, Path]) -> None:
    model, clips = trained[0], make_world(200, seed=0)[0]
    states = all_states(model, clips)
    starts = torch.from_numpy(clips.starts(3))
    end = states[starts]
    for k in range(2):
        end = model.predictor.step(end, clips.action[starts + k])
    expected = model.scene_distance(end, states[starts + 2]).median().item()
    assert model.scene_noise.item() == pytest.approx(expected, rel=0.1)


def test_interrupted_and_resumed_is_the_same_as_never_interrupted(
    trained: tuple[WorldModel, Path], tmp_path: Path
) -> None:
    clips = make_world(200, seed=0)[0]

    def ctrl_c_in(stage: str, at: int):
        def progress(name: str, step: int, steps: int, losses: object) -> None:
            if (name, step) == (stage, at):
                raise KeyboardInterrupt

        return progress

    for stage, at in (("proprio", 100), ("distance", 20), ("predictor", 200), ("macro", 20)):
        with pytest.raises(KeyboardInterrupt):
            train_heads(fresh_model(), clips, CONFIG, seed=0, folder=tmp_path, progress=ctrl_c_in(stage, at))
    resumed = fresh_model()
    train_heads(resumed, clips, CONFIG, seed=0, folder=tmp_path)
    for (name, tensor), whole in zip(resumed.state_dict().items(), trained[0].state_dict().values(), strict=True):
        assert torch.equal(tensor, whole), name


def test_stages_are_reported_in_their_order(tmp_path: Path) -> None:
    stages = ("proprio", "distance", "predictor", "macro")
    quick = replace(CONFIG, **{stage: FitConfig(21, 8) for stage in stages})
    seen = []
    train_heads(
        fresh_model(), make_world(5, seed=0)[0], quick, seed=0, folder=tmp_path,
        progress=lambda stage, step, steps, losses: seen.append((stage, step, steps)),
    )  # fmt: skip
    assert seen == [(stage, step, 21) for stage in stages for step in (20, 21)]


def test_play_that_never_held_anything_cannot_teach_where_things_are(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WorldModel(fresh_model().encoder.config, replace(SIZES, proprio_dim=4, grasps=True))
    clips, _ = make_world(5, seed=0)
    open_hand = torch.cat([clips.proprio, torch.zeros(len(clips.z), 1), torch.full((len(clips.z), 1), 0.08)], -1)
    quick = replace(CONFIG, proprio=FitConfig(1, 8), distance=FitConfig(1, 8))
    with pytest.raises(InvalidInputError, match="set grasps=false"):
        train_heads(model, replace(clips, proprio=open_hand), quick, seed=0, folder=tmp_path)


def test_other_settings_and_short_episodes_are_refused(trained: tuple[WorldModel, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="other settings"):
        train_heads(fresh_model(), make_world(5, seed=0)[0], CONFIG, seed=1, folder=trained[1])
    short = make_world(5, seed=0, length=4)[0]
    quick = replace(CONFIG, spread_gap=2, proprio=FitConfig(1, 8), distance=FitConfig(1, 8))
    with pytest.raises(InvalidInputError, match="no episode has the 4 actions"):
        train_heads(fresh_model(), short, quick, seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"state_noise": 0.0},
        {"action_noise": -1.0},
        {"start_noise": -0.1},
        {"rollout_steps": 0},
        {"moving_share": 1.1},
        {"moving_share": -0.1},
    ],
)
def test_impossible_settings_are_refused(values: dict) -> None:
    with pytest.raises(InvalidInputError):
        TrainConfig(**values)

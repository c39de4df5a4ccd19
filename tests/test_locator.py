"""Where things are, told by what held or pushed them: in made-up sequences, and in a world of known places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.fit import FitConfig
from latent_mpc.world_model.locator import LOW_M, PUSHED, SAME, Locator, held_places, pushed_places
from latent_mpc.world_model.model import ModelConfig, WorldModel
from latent_mpc.world_model.train import Clips, TrainConfig, train_heads

OPEN, HOLDING, SHUT = 0.08, 0.04, 0.0

# ---- made-up sequences ----


class Sequence:
    """20 frames of one scene in which the hand stays open, 12 cm up, and moves 1 cm along x at each step."""

    def __init__(self) -> None:
        self.x = 0.3 + 0.01 * torch.arange(20)
        self.z, self.opening, self.gripper = (torch.full((20,), v) for v in (0.12, OPEN, -1.0))
        self.scene = torch.zeros(20)  # the embedding has this in both entries
        self.ends = torch.full((20,), 19)

    def hold(self, first: int, last: int, opening: float = HOLDING) -> None:
        """Close with the actions that lead to frames `first` to `last`: the fingers stop at `opening`."""
        self.gripper[first - 1 : last] = 1.0
        self.opening[first : last + 1] = opening

    @property
    def tool(self) -> Tensor:
        return torch.stack([self.x, 0.1 * torch.ones(20), self.z], -1)

    def places(self) -> Tensor:
        proprio = torch.cat([self.tool, torch.zeros(20, 2), self.opening[:, None]], -1)
        action = torch.cat([torch.zeros(20, 4), self.gripper[:, None]], -1)
        return held_places(proprio, action, self.embedding, self.ends)

    @property
    def embedding(self) -> Tensor:
        return self.scene[:, None].expand(-1, 2)

    def pushed(self) -> Tensor:
        return pushed_places(self.tool, self.embedding, self.ends)


@pytest.fixture
def sequence() -> Sequence:
    return Sequence()


def from_frames(sequence: Sequence, *frames: int | None) -> Tensor:
    """The tool's places at these frames, NaN for None."""
    nothing = torch.full((3,), torch.nan)
    return torch.stack([nothing if i is None else sequence.tool[i] for i in frames])


def assert_told_by(sequence: Sequence, *frames: int | None) -> None:
    torch.testing.assert_close(sequence.places(), from_frames(sequence, *frames), atol=0, rtol=0, equal_nan=True)


def test_a_thing_is_where_it_will_be_grasped_then_in_the_hand_then_where_it_was_put(sequence: Sequence) -> None:
    """Closed from frame 5 on: the fingers have come to rest in frame 6. Carried to frame 12, and put down there."""
    sequence.hold(5, 12)
    sequence.scene[6:13] = torch.linspace(0, 1, 7)  # carried to another place
    sequence.scene[13:] = 1.0
    sequence.z[12] = 0.02
    assert_told_by(sequence, *[6] * 6, *range(6, 13), *[12] * 7)


def test_a_release_from_high_up_tells_nothing_of_afterwards(sequence: Sequence) -> None:
    sequence.hold(5, 12)
    sequence.z[12] = LOW_M + 0.001
    assert_told_by(sequence, *[6] * 6, *range(6, 13), *[None] * 7)
    sequence.z[12] = LOW_M - 0.001
    assert_told_by(sequence, *[6] * 6, *range(6, 13), *[12] * 7)


def test_what_is_grasped_from_high_up_lay_there_before(sequence: Sequence) -> None:
    sequence.hold(15, 19)  # at 12 cm: on something, say
    assert_told_by(sequence, *[16] * 16, *range(16, 20))


def test_between_two_grasps_the_next_one_tells(sequence: Sequence) -> None:
    sequence.hold(2, 5)
    sequence.hold(12, 15)
    sequence.z[:] = 0.02
    assert_told_by(sequence, *[3] * 3, 3, 4, 5, *[13] * 7, 13, 14, 15, *[15] * 4)


def test_where_the_next_grasp_is_elsewhere_the_last_release_tells(sequence: Sequence) -> None:
    """Between the two, from frame 9 on, something has moved it."""
    sequence.hold(2, 5)
    sequence.hold(12, 15)
    sequence.z[:] = 0.02
    sequence.scene[9:] = 1.0
    assert_told_by(sequence, *[3] * 3, 3, 4, 5, *[5] * 3, *[13] * 4, 13, 14, 15, *[15] * 4)


def test_a_scene_that_was_moved_cuts(sequence: Sequence) -> None:
    sequence.hold(10, 12)
    sequence.z[12] = 0.02
    sequence.scene[:4] = 1.0
    sequence.scene[16:] = 1.0
    assert_told_by(sequence, *[None] * 4, *[11] * 7, 11, 12, *[12] * 3, *[None] * 4)


def test_it_is_the_squared_distance_of_the_scenes_that_counts(sequence: Sequence) -> None:
    sequence.hold(10, 12)
    for factor, told in ((0.99, True), (1.01, False)):
        sequence.scene[:4] = factor * (SAME / 2) ** 0.5  # of two entries
        assert sequence.places()[:4].isfinite().all() == told


def test_nothing_carries_over_between_episodes(sequence: Sequence) -> None:
    """The same scene in both: the second one's frames say nothing of the first, nor the other way round."""
    sequence.ends[:10] = 9
    sequence.hold(5, 9)
    sequence.z[:] = 0.02
    assert_told_by(sequence, *[6] * 6, *range(6, 10), *[None] * 10)
    sequence = Sequence()
    sequence.ends[:10] = 9
    sequence.hold(12, 14)
    assert_told_by(sequence, *[None] * 10, *[13] * 4, 14, *[None] * 5)


def test_a_command_at_an_episodes_end_closes_no_hand_in_the_next(sequence: Sequence) -> None:
    """Frame 10 begins an episode with something in half-open fingers, of which no action tells."""
    sequence.ends[:10] = 9
    sequence.gripper[9] = 1.0
    sequence.opening[10:12] = HOLDING
    assert sequence.places().isnan().all()
    sequence.gripper[10] = 1.0
    assert sequence.places().isnan().all()
    sequence.gripper[11] = 1.0
    sequence.opening[12] = HOLDING
    assert sequence.places()[10:].isfinite().any()


@pytest.mark.parametrize("opening", [SHUT, 0.01, 0.075, OPEN])
def test_fingers_that_close_on_nothing_or_are_still_open_tell_nothing(opening: float, sequence: Sequence) -> None:
    sequence.hold(5, 12, opening)
    assert sequence.places().isnan().all()


def test_fingers_that_are_told_to_open_hold_nothing(sequence: Sequence) -> None:
    sequence.opening[5:12] = HOLDING
    assert sequence.places().isnan().all()
    sequence.gripper[4:11] = 0.5  # half-way is not closed
    assert sequence.places().isnan().all()


def test_fingers_on_their_way_hold_nothing_yet(sequence: Sequence) -> None:
    """They pass through the openings of things when they close on nothing."""
    sequence.hold(5, 12, SHUT)
    sequence.opening[5] = HOLDING
    assert sequence.places().isnan().all()


def test_nothing_held_at_all(sequence: Sequence) -> None:
    places = sequence.places()
    assert places.shape == (20, 3) and places.isnan().all()


def test_a_thing_is_where_it_will_be_pushed_then_at_the_tool_then_where_it_was_left(sequence: Sequence) -> None:
    """Frames 8 to 13 differ from their neighbours."""
    sequence.scene[8:14] = torch.linspace(0, 1, 6)
    sequence.scene[14:] = 1.0
    expected = from_frames(sequence, *[8] * 8, *range(8, 14), *[13] * 6)
    torch.testing.assert_close(sequence.pushed(), expected, atol=0, rtol=0, equal_nan=True)


def test_a_scene_that_hardly_changes_is_not_pushed(sequence: Sequence) -> None:
    for factor, told in ((0.99, False), (1.01, True)):
        sequence.scene[10:] = factor * (PUSHED / 2) ** 0.5  # of two entries
        assert sequence.pushed().isfinite().all() == told


def test_the_next_episodes_scene_is_no_push(sequence: Sequence) -> None:
    sequence.ends[:10] = 9
    sequence.scene[10:] = 1.0
    assert sequence.pushed().isnan().all()


# ---- a world with true places ----

SIZES = ModelConfig(
    proprio_dim=4, action_dim=4, embedding_dim=3, head_width=48, predictor_width=8, predictor_blocks=1,
    macro_dim=3, chunk_length=2, max_goal_steps=8, macro_width=8, macro_blocks=1,
)  # fmt: skip
QUICK = FitConfig(1, 8)
CONFIG = TrainConfig(
    proprio=QUICK,
    distance=FitConfig(600, 128, 5e-3, 10),
    locator=FitConfig(600, 128, 5e-3, 10),
    predictor=QUICK,
    macro=QUICK,
    min_gap=1,
    max_gap=4,
    rollout_steps=2,
    macro_steps=1,
)
FRAMES = 24


def play(rng: np.random.Generator, grasps: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An episode: tool and opening (T, 4), actions (T, 4), the thing's place (T, 3).

    A hand wanders about, and if it `grasps`, brings a thing from one place on the table to another on the way.
    """
    thing, goal = (np.array([*rng.uniform(-0.2, 0.2, 2), 0.02]) for _ in range(2))
    above = np.array([0, 0, 0.12])
    ways = [thing + above, thing, thing, thing, thing + above, goal + above, goal, goal, goal + above]
    grip = [-1, -1, 1, 1, 1, 1, 1, -1, -1]
    start = int(rng.integers(1, FRAMES - len(ways)))
    wander = rng.uniform([-0.25, -0.25, 0.08], [0.25, 0.25, 0.25], (FRAMES, 3))
    tool, closing = list(wander), [-1] * FRAMES
    if grasps:
        tool[start : start + len(ways)], closing[start : start + len(ways)] = ways, grip
    felt, things, held = [], [], False
    for at, close in zip(tool, closing, strict=True):
        held = close > 0 and (held or bool(np.allclose(at, thing)))
        thing = at if held else thing
        felt.append([*at, HOLDING if held else OPEN])
        things.append(thing)
    actions = np.zeros((FRAMES, 4))
    actions[:-1, 3] = closing[1:]
    return np.array(felt), actions, np.array(things)


def push(rng: np.random.Generator, pushes: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of a hand that, if it `pushes`, comes down 3 cm behind the thing and moves it in a line."""
    thing, goal = (np.array([*rng.uniform(-0.2, 0.2, 2), 0.02]) for _ in range(2))
    steps = 8
    start = int(rng.integers(1, FRAMES - steps))
    tool = rng.uniform([-0.25, -0.25, 0.08], [0.25, 0.25, 0.25], (FRAMES, 3))
    things = np.tile(thing, (FRAMES, 1))
    if pushes:
        things[start : start + steps] = thing + np.linspace(0, 1, steps)[:, None] * (goal - thing)
        things[start + steps :] = goal
        tool[start : start + steps] = things[start : start + steps] - 0.03 * (goal - thing) / np.linalg.norm(
            goal - thing
        )
    return np.column_stack([tool, np.full(FRAMES, OPEN)]), np.zeros((FRAMES, 4)), things


def make_world(episodes: int, seed: int, how: Callable = play) -> tuple[Clips, Tensor]:
    """Episodes of `play` or `push`, in a third of which nothing is moved. The latent is a fixed mix of all there is.

    Returns the clips and the thing's places (F, 3), metres.
    """
    rng = np.random.default_rng(seed)
    parts = [how(rng, i % 3 > 0) for i in range(episodes)]
    felt, action, thing = (torch.from_numpy(np.concatenate(p)).float() for p in zip(*parts, strict=True))
    mix = torch.randn(7, 8, generator=torch.Generator().manual_seed(99))
    z = torch.cat([5 * felt, 5 * thing], -1) @ mix
    at = np.arange(len(z))
    return Clips(z, felt, action, lambda count: at[at % FRAMES + count <= FRAMES]), thing


def trained(clips: Clips, sizes: ModelConfig, folder: Path) -> WorldModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = EncoderConfig(image_size=16, channels=(2, 2), num_keypoints=2, hidden=4, latent_dim=8)
        model = WorldModel(encoder, sizes)
    train_heads(model, clips, CONFIG, seed=0, folder=folder)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    return trained(make_world(300, seed=0)[0], SIZES, tmp_path_factory.mktemp("locator"))


def test_a_place_is_found_to_a_centimetre_though_none_was_ever_given(model: WorldModel) -> None:
    """Also in episodes in which nobody holds the thing; to say the mean of the places is 15 cm off."""
    clips, things = make_world(90, seed=1)
    off = (model.place(model.state(clips.z, clips.proprio)) - things).norm(dim=-1)
    never = torch.arange(len(off)) // FRAMES % 3 == 0
    ignorant = (things - things.mean(0)).norm(dim=-1)
    assert ignorant.mean() > 0.13
    assert off[~never].median() < 0.01 and off[never].median() < 0.01


def test_a_place_is_found_by_pushes_to_less_than_the_distance_of_the_tool_from_it(tmp_path: Path) -> None:
    """The tool is 3 cm off the thing whenever it tells."""
    sizes = replace(SIZES, grasps=False, pushes=True)
    model = trained(make_world(300, seed=0, how=push)[0], sizes, tmp_path)
    clips, things = make_world(90, seed=1, how=push)
    off = (model.place(model.state(clips.z, clips.proprio)) - things).norm(dim=-1)
    assert off.median() < 0.015


def test_the_place_does_not_move_with_the_arm(model: WorldModel) -> None:
    clips, _ = make_world(90, seed=1)
    places = model.place(model.state(clips.z, clips.proprio)).unflatten(0, (-1, FRAMES))[::3]  # nobody moves it there
    tool = clips.proprio[:, :3].unflatten(0, (-1, FRAMES))[::3]
    assert places.std(1).mean() < 0.05 * tool.std(1).mean()


def test_the_locator_says_metres_and_takes_any_leading_dimensions() -> None:
    locator = Locator(5, 8)
    locator.mean.copy_(torch.tensor([0.5, 0.0, 0.02]))
    locator.std.copy_(torch.tensor([0.1, 0.2, 0.3]))
    latent = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    found = locator(latent)
    assert found.shape == (2, 3, 3)
    torch.testing.assert_close(found[1, 2], locator(latent[1, 2]))
    torch.testing.assert_close(found, locator.net(latent) * locator.std + locator.mean)

"""The world model: shapes, how states are put together, and that saved weights give the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from latent_mpc.types import InvalidInputError, MacroModel, Predictor
from latent_mpc.world_model.checkpoint import Checkpoint, save_checkpoint
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.macro import MacroActions
from latent_mpc.world_model.model import PLACE_M, ModelConfig, WorldModel, load_world_model, save_world_model

ENCODER = EncoderConfig(image_size=32, channels=(3, 4), num_keypoints=5, hidden=16, latent_dim=7)
SIZES = ModelConfig(
    proprio_dim=6,
    action_dim=4,
    embedding_dim=2,
    head_width=12,
    predictor_width=12,
    macro_dim=5,
    macro_width=12,
)


def make_model(sizes: ModelConfig) -> WorldModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WorldModel(ENCODER, sizes)
        for tensor in (*model.parameters(), model.proprio_mean, model.latent_mean):
            torch.nn.init.normal_(tensor, std=0.3)
    model.proprio_std.fill_(2.0)
    model.latent_std.fill_(0.5)
    model.scene_noise.fill_(0.25)
    return model.requires_grad_(False).eval()


@pytest.fixture
def model() -> WorldModel:
    return make_model(SIZES)


@pytest.fixture
def blind() -> WorldModel:
    """A model of a robot that does not grasp."""
    return make_model(replace(SIZES, grasps=False))


def towards(model: WorldModel, goal: torch.Tensor) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """What macro-actions to a goal state see."""
    return partial(model.view, goal_place=model.place(goal))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def proprio() -> torch.Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def test_a_state_is_the_standardised_latent_and_proprioception(
    model: WorldModel, images: torch.Tensor, proprio: torch.Tensor
) -> None:
    state = model.observe(images, proprio)
    assert state.shape == (4, 13) and model.state_dim == 13
    latent, arm = model.split(state)
    z = model.encoder(images)
    torch.testing.assert_close(latent, (z - model.latent_mean) / 0.5)
    torch.testing.assert_close(arm, (proprio - model.proprio_mean) / 2.0)
    torch.testing.assert_close(model.state(z, proprio), state)
    torch.testing.assert_close(torch.cat(model.split(state[None]), dim=-1), state[None])


def test_a_goal_has_the_same_latent_and_its_arm_is_read_off_the_image(
    model: WorldModel, images: torch.Tensor, proprio: torch.Tensor
) -> None:
    goal = model.observe_goal(images)
    assert goal.shape == (4, 13)
    torch.testing.assert_close(model.split(goal)[0], model.split(model.observe(images, proprio))[0])
    torch.testing.assert_close(model.split(goal)[1], model.proprio_head(model.encoder(images)))


def test_the_distance_is_one_of_pairs_and_scaled(
    model: WorldModel, images: torch.Tensor, proprio: torch.Tensor
) -> None:
    states, distance = model.observe(images, proprio), model.scene_distance
    table = distance(states[:, None], states[None])
    assert table.shape == (4, 4) and (table.diagonal() == 0).all() and table[0, 1] > 0
    torch.testing.assert_close(table, table.T)
    distance.scale.fill_(2.0)
    torch.testing.assert_close(distance(states[:, None], states[None]), table / 2)


def test_the_code_of_a_scene_is_its_embedding_to_scale(model: WorldModel) -> None:
    """Between codes of variance 1 the mean squared distance is 2 E, where the scene distance is 1."""
    states, distance = torch.randn(2, 4, 13, generator=torch.Generator().manual_seed(6)), model.scene_distance
    distance.scale.fill_(3.0)
    first, second = distance.code(states)
    torch.testing.assert_close((first - second).square().sum(-1), 2 * 2 * distance(*states))


def test_the_contrast_forgives_what_moved_and_adds_the_arm(model: WorldModel) -> None:
    """Similarity is -α ln(1 + d) less an arm's term that sees the proprioception alone."""
    distance = model.scene_distance
    distance.log_sharpness.fill_(0.7)
    g = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 5, 13, generator=g)
    other = torch.cat([second[:, :7], first[:, 7:]], dim=-1)  # its arms are those of `first`
    far = distance(first[:, None], other[None])
    scene = distance.similarity(first, other) + np.exp(0.7) * torch.log1p(far)
    torch.testing.assert_close(scene.diagonal(), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(scene, scene.T, atol=1e-4, rtol=1e-4)


def test_the_dynamics_take_any_leading_dimensions(model: WorldModel) -> None:
    g = torch.Generator().manual_seed(2)
    predictor: Predictor = model.predictor
    state, action, m = (torch.randn(2, 3, width, generator=g) for width in (13, 4, 5))
    view = towards(model, state[0, 0])
    macro: MacroModel = MacroActions(model.macro, view)
    assert predictor.step(state, action).shape == (2, 3, 13)
    assert macro.steps(state, m).shape == (2, 3, 1, 13)
    assert MacroActions(model.macro, view, predictor).steps(state, m).shape == (2, 3, 5, 13)
    torch.testing.assert_close(predictor.step(state, action)[1, 2], predictor.step(state[1, 2], action[1, 2]))
    chunk = macro.decode(state, 50 * m)
    assert chunk.shape == (2, 3, SIZES.chunk_length, 4) and chunk.abs().max() <= 1
    assert (macro.chunk_length, macro.macro_dim) == (5, 5)
    torch.testing.assert_close(chunk[1, 2], macro.decode(state[1, 2], 50 * m[1, 2]))
    assert [t.shape for t in model.macro.posterior(*view(state), torch.zeros(2, 3, 1), chunk)] == [(2, 3, 4)] * 2


def test_fresh_dynamics_predict_that_nothing_moves() -> None:
    model, state = WorldModel(ENCODER, SIZES), torch.ones(1, 13)
    assert torch.equal(model.predictor.step(state, torch.ones(1, 4)), state)
    assert torch.equal(model.macro.predict(state, torch.ones(1, 5, 4)), state)


def test_the_last_entry_of_a_macro_action_is_the_time_to_the_goal(model: WorldModel) -> None:
    g, macro = torch.Generator().manual_seed(5), model.macro
    view, goal, x = (torch.randn(7, width, generator=g) for width in (12, 3, 4))
    steps = torch.tensor([5.0, 6.0, 10.0, 17.5, 20.0, 25.0, 30.0])
    share = torch.tensor([0.0, 0.04, 0.2, 0.5, 0.6, 0.8, 1.0])
    torch.testing.assert_close(macro.time(steps)[:, 0], share)
    m = torch.cat([x, torch.special.ndtri(share)[:, None]], dim=-1)
    torch.testing.assert_close(macro.decode(view, goal, m), macro.decode_at(view, goal, share[:, None], x))
    assert not torch.equal(macro.decode(view, goal, m), macro.decode(view, goal, m.roll(1, 0)))


def test_macro_actions_lead_where_the_dynamics_say(model: WorldModel) -> None:
    g = torch.Generator().manual_seed(4)
    goal, other, state, m = (torch.randn(width, generator=g) for width in (13, 13, 13, 5))
    view = towards(model, goal)
    chunk = model.macro.decode(*view(state), m)
    coarse, fine = MacroActions(model.macro, view), MacroActions(model.macro, view, model.predictor)
    assert torch.equal(coarse.decode(state, m), chunk) and torch.equal(fine.decode(state, m), chunk)
    assert not torch.equal(MacroActions(model.macro, towards(model, other)).decode(state, m), chunk)  # the goal matters
    assert torch.equal(coarse.steps(state, m), model.macro.predict(state, chunk)[None])
    for found, action in zip(fine.steps(state, m), chunk, strict=True):
        state = model.predictor.step(state, action)
        assert torch.equal(found, state)


@pytest.mark.parametrize("how", [{"grasps": True}, {"grasps": False, "pushes": True}])
@pytest.mark.parametrize("width", [6, 8])
def test_what_macro_actions_see_when_everything_is_shifted(width: int, how: dict[str, bool]) -> None:
    """Tool, thing and goal alike: how the thing lies from the tool, and how far it has to go, stay as they were.

    The locator reads the place off the latent; proprioception of any width begins with the tool.
    """
    model = make_model(replace(SIZES, proprio_dim=width, **how))
    assert model.locator is not None
    model.locator.net = torch.nn.Linear(7, 3)
    torch.nn.init.eye_(model.locator.net.weight)
    torch.nn.init.zeros_(model.locator.net.bias)
    model.locator.std.copy_(torch.tensor([0.5, 2.0, 4.0]))
    model.requires_grad_(False)
    g = torch.Generator().manual_seed(7)
    place, goal, shift = torch.rand(3, 4, 3, generator=g)
    arm, rest = torch.randn(4, width, generator=g), torch.randn(4, 4, generator=g)

    def view(shift: torch.Tensor | float) -> tuple[torch.Tensor, ...]:
        z = torch.cat([(place + shift) / model.locator.std, rest], -1) * 0.5 + model.latent_mean
        state = model.state(z, torch.cat([arm[:, :3] + shift, arm[:, 3:]], -1))
        torch.testing.assert_close(model.place(state), place + shift)
        seen, how_far = model.view(state, goal + shift)
        return *seen.split([width, 3, 3], -1), how_far

    felt, at, from_tool, how_far = view(0.0)
    torch.testing.assert_close(felt, (arm - model.proprio_mean) / 2)
    torch.testing.assert_close(at, place / PLACE_M)
    torch.testing.assert_close(from_tool, (place - arm[:, :3]) / PLACE_M, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(how_far, (goal - place) / PLACE_M, atol=1e-4, rtol=1e-4)
    felt_there, at_there, from_tool_there, how_far_there = view(shift)
    torch.testing.assert_close(felt_there - felt, torch.cat([shift / 2, torch.zeros(4, width - 3)], -1))
    torch.testing.assert_close(at_there - at, shift / PLACE_M, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(from_tool_there, from_tool, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(how_far_there, how_far, atol=1e-4, rtol=1e-4)


def test_a_robot_that_does_not_grasp_sees_scenes_by_their_code(blind: WorldModel) -> None:
    state, goal = torch.randn(2, 4, 13, generator=torch.Generator().manual_seed(8))
    code = blind.scene_distance.code
    assert blind.locator is None and torch.equal(blind.place(state), code(state))
    seen, how_far = blind.view(state, blind.place(goal))
    assert torch.equal(seen, torch.cat([state[:, 7:], code(state)], -1))
    torch.testing.assert_close(how_far, code(goal) - code(state))
    chunk = MacroActions(blind.macro, towards(blind, goal)).decode(state, torch.zeros(4, 5))
    assert chunk.shape == (4, 5, 4)


def test_a_model_that_locates_is_none_that_does_not(model: WorldModel, blind: WorldModel, tmp_path: Path) -> None:
    for name, one, other in (("grasps", model, False), ("not", blind, True)):
        save_world_model(tmp_path / name, one, metrics={}, training={})
        path = tmp_path / name / "model.yaml"
        header = yaml.safe_load(path.read_text())
        header["config"]["model"]["grasps"] = other
        path.write_text(yaml.safe_dump(header))
        with pytest.raises(InvalidInputError):
            load_world_model(tmp_path / name)


@pytest.mark.parametrize("grasps", [True, False])
def test_saved_and_loaded_gives_the_same_outputs(
    grasps: bool, images: torch.Tensor, proprio: torch.Tensor, tmp_path: Path
) -> None:
    model = make_model(replace(SIZES, grasps=grasps))
    if model.locator is not None:
        model.locator.mean.copy_(torch.tensor([0.5, 0.0, 0.02]))
        model.locator.std.fill_(0.1)
    save_world_model(tmp_path, model, metrics={"rmse": 0.5}, training={"seed": 3, "rates": (1e-3, 1e-4)})
    loaded, checkpoint = load_world_model(tmp_path)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config == model.config and loaded.encoder.config == ENCODER
    assert checkpoint.metrics == {"rmse": 0.5} and checkpoint.config["training"] == {"seed": 3, "rates": [1e-3, 1e-4]}
    state, action, m = model.observe(images, proprio), proprio[:, :4], proprio[:, :5]
    assert torch.equal(loaded.observe(images, proprio), state)
    assert torch.equal(loaded.observe_goal(images), model.observe_goal(images))
    assert torch.equal(loaded.predictor.step(state, action), model.predictor.step(state, action))
    assert torch.equal(loaded.scene_distance.code(state), model.scene_distance.code(state))
    assert torch.equal(loaded.place(state), model.place(state))
    view = model.view(state, model.place(state[0]))
    chunk = model.macro.decode(*view, m)
    assert torch.equal(loaded.macro.decode(*loaded.view(state, loaded.place(state[0])), m), chunk)
    assert torch.equal(loaded.macro.predict(state, chunk), model.macro.predict(state, chunk))
    assert loaded.scene_noise.item() == 0.25


def test_what_is_no_world_model_is_refused(model: WorldModel, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "encoder", Checkpoint({}, {"encoder": {}}))
    with pytest.raises(InvalidInputError, match=r"no world model: its config has \['encoder'\], not a model and"):
        load_world_model(tmp_path / "encoder")
    save_world_model(tmp_path / "model", model, metrics={}, training={})
    path = tmp_path / "model" / "model.yaml"
    header = yaml.safe_load(path.read_text())
    for section, key, value, message in [
        ("model", "proprio_dim", 4, r"proprio_mean has shape \(6,\), not \(4,\)"),
        ("encoder", "image_size", 33, "multiple of 4"),
        ("model", "depth", 3, r"no keys \['depth'\]"),
    ]:
        other = {**header["config"], section: {**header["config"][section], key: value}}
        path.write_text(yaml.safe_dump({**header, "config": other}))
        with pytest.raises(InvalidInputError, match=message):
            load_world_model(tmp_path / "model")


def test_a_header_cut_off_anywhere_is_refused_or_gives_the_same_model(model: WorldModel, tmp_path: Path) -> None:
    save_world_model(tmp_path, model, metrics={"a": 1.5}, training={"seed": 3})
    path = tmp_path / "model.yaml"
    text = path.read_bytes()
    refused = 0
    for end in range(0, text.index(b"training:"), 7):
        path.write_bytes(text[:end])
        try:
            loaded, _ = load_world_model(tmp_path)
        except InvalidInputError:
            refused += 1
        else:
            assert loaded.config == SIZES and loaded.encoder.config == ENCODER
    assert refused > 40


@pytest.mark.parametrize("size", ["proprio_dim", "embedding_dim", "predictor_blocks", "chunk_length"])
def test_sizes_must_be_positive(size: str) -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        ModelConfig(**{size: 0})


def test_things_are_located_by_one_of_two_ways() -> None:
    with pytest.raises(InvalidInputError, match="not both"):
        ModelConfig(grasps=True, pushes=True)

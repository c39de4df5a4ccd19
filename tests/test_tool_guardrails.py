"""The guardrails against hand-made states; the model's proprioception is metres plus 0.1, doubled."""

import math

import numpy as np
import pytest
import torch

from latent_mpc.envs.tabletop import TabletopConfig, TabletopEnv
from latent_mpc.planner.guardrails import Rollout, margin
from latent_mpc.tool_guardrails import (
    FINGER_M,
    HAND_M,
    GuardrailConfig,
    hand_holds,
    hand_is_up,
    tool_keep_outs,
    tool_violation,
)
from latent_mpc.types import InvalidInputError, WorkspaceSpec
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.model import ModelConfig, WorldModel

ENCODER = EncoderConfig(image_size=32, channels=(4, 4), num_keypoints=4, hidden=16, latent_dim=8)


SHUT = 3 / (1 + math.exp(-1.5 / 0.8))  # fingers that touch each other


@pytest.fixture(scope="module")
def model():
    model = WorldModel(ENCODER, ModelConfig(head_width=16, predictor_width=16, macro_width=16))
    model.proprio_mean.fill_(-0.1)
    model.proprio_std.fill_(0.5)
    model.locator.mean.copy_(torch.tensor([0.5, 0.0, 0.02]))  # there lies the thing, whatever the latent
    model.locator.std.zero_()
    return model


def state(x, y, z, opening, yaw=0.0):
    proprio = torch.tensor([x, y, z, math.sin(yaw), math.cos(yaw), opening])
    return torch.cat([torch.randn(8), 2 * (proprio + 0.1)])


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ((0.5, 0.0, 0.02, 0.04), 0.0),  # low, holding something
        ((0.5, 0.0, 0.035, 0.0), 0.5 + SHUT),  # half the clearance, closed on nothing
        ((0.5, 0.0, 0.2, 0.0), SHUT),  # the same, high above the table
        ((0.5, 0.0, 0.2, 0.006), 0.0),  # closed on a cup's wall
        ((0.5, 0.28, 0.2, 0.08), 1.0),  # 5 cm out of the box
    ],
)
def test_single_states(tool, expected, model):
    assert tool_violation(model, GuardrailConfig(), state(*tool), None).item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([(0.5, 0.0, 0.02, 0.04), (0.5, 0.06, 0.02, 0.04)], [0, 4]),  # dragged 6 cm, 1 of which is free
        ([(0.5, 0.0, 0.09, 0.04), (0.5, 0.06, 0.09, 0.04)], [0, 0]),  # carried
        ([(0.5, 0.0, 0.09, 0.04), (0.5, 0.0, 0.02, 0.04)], [0, 0]),  # lifted and put down
        ([(0.5, 0.06, 0.018, 0.08), (0.5, 0.06, 0.018, 0.08)], [0.19, 0]),  # moved open: 4 σ(-3)
        ([(0.5, 0.01, 0.018, 0.08), (0.5, 0.01, 0.018, 0.04)], [0, 0]),  # closed 1 cm beside the thing
        ([(0.52, 0.0, 0.018, 0.08), (0.52, 0.0, 0.018, 0.04)], [0.04, 0.6]),  # 2 cm beside it, at its edge
        ([(0.5, 0.2, 0.2, 0.08), (0.5, 0.2, 0.2, 0.04)], [0, 4.8]),  # far from all
        ([(0.5, 0.2, 0.2, 0.08), (0.5, 0.2, 0.2, 0.07)], [0, 0]),  # still wide open
        ([(0.5, 0.0, 0.038, 0.08), (0.5, 0.0, 0.038, 0.04)], [0, 1.2]),  # closed 2 cm too high to meet a plate
        ([(0.5, 0.0, 0.20, 0.08), (0.5, 0.0, 0.20, 0.04)], [0, 2.4]),  # however high, no worse than 4 cm
        ([(0.5, 0.0, 0.10, 0.04), (0.5, 0.0, 0.10, 0.08)], [0, 3]),  # let go 5 cm too high
        ([(0.5, 0.0, 0.03, 0.04), (0.5, 0.0, 0.03, 0.08)], [0, 0]),  # let go on the table
        ([(0.5, 0.0, 0.20, 0.0), (0.5, 0.0, 0.20, 0.08)], [SHUT, 0]),  # opened empty, high above the table
    ],
)
def test_rollouts(tools, expected, model):
    start = state(0.5, 0.0, 0.02, tools[0][3])
    found = tool_violation(model, GuardrailConfig(), torch.stack([state(*t) for t in tools]), start)
    assert found.tolist() == pytest.approx(expected, abs=0.03)


BESIDE = 0.04 + FINGER_M  # of the tool: the middle of a finger of the open hand


@pytest.mark.parametrize(
    ("tool", "thing", "expected"),
    [
        ((0.5, 0.0, 0.02, 0.08), (0.5, BESIDE), 2.1),  # a finger in the middle of it: 3.5 cm too near
        ((0.5, 0.0, 0.02, 0.08), (0.5, -BESIDE), 2.1),  # the other finger
        ((0.5, 0.0, 0.02, 0.08), (0.5, BESIDE + 0.025), 0.6),  # 1 cm too near
        ((0.5, 0.0, 0.02, 0.08), (0.5, BESIDE + 0.036), 0.0),
        ((0.5, 0.0, 0.02, 0.08), (0.536, 0.0), 0.0),  # before the fingers
        ((0.5, 0.0, 0.02, 0.08), (0.525, 0.0), 0.6),  # between them
        ((0.5, 0.0, 0.02, 0.04), (0.5, BESIDE + 0.025), 0.0),  # half-way closed the fingers are nearer to each other
        ((0.5, 0.0, 0.02, 0.08, math.pi / 2), (0.5 - BESIDE, 0.0), 2.1),  # the hand is turned
        ((0.5, 0.0, 0.02, 0.08, math.pi / 2), (0.5, BESIDE), 0.0),
        ((0.5, 0.0, 0.08, 0.08), (0.5, BESIDE), 0.7),  # a third of the way into the last third of the height
        ((0.5, 0.0, 0.09, 0.08), (0.5, BESIDE), 0.0),  # above it
    ],
)
def test_fingers_keep_off_other_things(tool, thing, expected, model):
    others = torch.tensor([[*thing, 0.3]])  # of places only the plane counts
    at, config = state(*tool), GuardrailConfig()
    found = tool_violation(model, config, at, None, others) - tool_violation(model, config, at, None)
    assert found.item() == pytest.approx(expected, abs=1e-3)


def test_things_add_up_over_any_batch_and_none_costs_nothing(model):
    rollouts = torch.randn(3, 4, 5, 14, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.3
    others, start = torch.tensor([[0.05, 0.0, 0.0], [0.1, 0.02, 0.0]]), rollouts[0, 0, 0]
    plain = tool_violation(model, GuardrailConfig(), rollouts, start)
    both = tool_violation(model, GuardrailConfig(), rollouts, start, others) - plain
    each = [tool_violation(model, GuardrailConfig(), rollouts, start, row[None]) - plain for row in others]
    assert both.shape == (3, 4, 5) and (both > 0.1).any()
    torch.testing.assert_close(both, each[0] + each[1], atol=1e-3, rtol=0)
    torch.testing.assert_close(tool_violation(model, GuardrailConfig(), rollouts, start, others[:0]), plain)


@pytest.mark.parametrize("yaw", [0.0, 0.6, -0.9])
def test_the_fingers_are_where_the_simulators_are(yaw, model):
    """Pads are in the fingers that are taken account of, and lie in the same direction."""
    env = TabletopEnv("PickPlace", TabletopConfig(image_size=8, supersample=1))
    pose = [0.5, 0.05, 0.05, yaw]
    observation, _ = env.reset(seed=0, options={"goal_image": False, "arm_pose": pose})
    proprio = torch.from_numpy(observation["proprio"])
    at = torch.cat([torch.zeros(8), (proprio + 0.1) * 2])
    for pad in ("left_pad", "right_pad"):
        inside = env.data.geom(pad).xpos[:2] - pose[:2]
        reach = proprio[5].item() / 2 + FINGER_M
        finger = pose[:2] + inside * reach / np.linalg.norm(inside)
        assert 0 < reach - np.linalg.norm(inside) < FINGER_M
        there = tool_violation(model, GuardrailConfig(), at, None, torch.tensor([[*finger, 0.0]], dtype=torch.float32))
        assert there - tool_violation(model, GuardrailConfig(), at, None) == pytest.approx(2.1, abs=0.02)
    env.close()


@pytest.mark.parametrize(
    ("opening", "holds"),
    [(0.08, False), (0.0, False), (0.005, True), (0.04, True), (0.06, True)],  # a cup's wall, a cube, something wide
)
def test_a_hand_holds_what_keeps_its_fingers_apart(opening, holds, model):
    assert hand_holds(model, state(0.5, 0.0, 0.1, opening)) is holds


@pytest.mark.parametrize(("height", "up"), [(0.10, True), (0.08, False)])
def test_a_hand_is_up_above_all_things(height, up, model):
    assert hand_is_up(model, state(0.5, 0.0, height, 0.08)) is up


def test_a_batch_is_its_rollouts_and_the_weight_scales(model):
    start, rollouts = state(0.4, 0.1, 0.02, 0.03), torch.randn(3, 4, 5, 14)
    whole = tool_violation(model, GuardrailConfig(weight=2.0), rollouts, start)
    assert whole.shape == (3, 4, 5)
    torch.testing.assert_close(whole[1, 2], 2 * tool_violation(model, GuardrailConfig(), rollouts[1, 2], start))


def test_the_box_is_cut_down_to_a_workspace_and_never_grows():
    workspace = WorkspaceSpec(low_m=(0.40, -0.50, 0.0), high_m=(0.90, 0.10, 0.20), table_m=0.03)
    config = GuardrailConfig().within(workspace)
    assert config.tool_low_m == (0.40, GuardrailConfig.tool_low_m[1], 0.03)
    assert config.tool_high_m == (GuardrailConfig.tool_high_m[0], 0.10, 0.20)
    with pytest.raises(InvalidInputError):
        GuardrailConfig().within(WorkspaceSpec(low_m=(2.0, 2.0, 2.0), high_m=(3.0, 3.0, 3.0)))


@pytest.mark.parametrize(
    ("keep_out", "beside_m"),
    [
        ({"keep_out_balls_m": ((0.5, 0.0, 0.2, 0.03),)}, 0.03 + HAND_M),
        ({"keep_out_boxes_m": ((0.48, -0.02, 0.0, 0.52, 0.02, 0.3),)}, 0.02 + HAND_M),
    ],
)
def test_a_way_through_a_keep_out_is_infeasible_by_its_depth_and_one_beside_it_is_not(keep_out, beside_m, model):
    workspace = WorkspaceSpec(low_m=(0.3, -0.3, 0.0), high_m=(0.7, 0.3, 0.4), **keep_out)
    constraints = tool_keep_outs(model, workspace)
    ways = [[state(0.7, y, 0.2, 0.04)] for y in (0.0, beside_m - 0.01, beside_m + 0.01)]  # one long step each
    found = [
        float(
            margin(constraints, Rollout(state(0.3, y, 0.2, 0.04)[None], torch.stack(way)[None, None], torch.zeros(1)))
        )
        for y, way in zip((0.0, beside_m - 0.01, beside_m + 0.01), ways, strict=True)
    ]
    assert found == pytest.approx([beside_m, 0.01, -0.01], abs=1e-5)


def test_without_keep_outs_there_are_no_constraints(model):
    assert tool_keep_outs(model, WorkspaceSpec(low_m=(0.3, -0.3, 0.0), high_m=(0.7, 0.3, 0.4))) == ()

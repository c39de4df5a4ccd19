"""What stands on what in a goal image, and how it is put there, against hand-made states and pictures.

The model's latent is a thing's place, in metres; its proprioception is metres.
"""

import math

import pytest
import torch

from latent_mpc.agent_config import AgentConfig
from latent_mpc.objective import Objective
from latent_mpc.stacking import Placing, carrying_energy, find_supports, place_above
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.model import ModelConfig, WorldModel

ENCODER = EncoderConfig(image_size=32, channels=(4, 4), num_keypoints=4, hidden=16, latent_dim=8)
STAND = torch.tensor([0.5, 0.0, 0.07])
HOME = (0.36, 0.0, 0.24, 0.08)
RGB = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 210)}


@pytest.fixture(scope="module")
def model():
    model = WorldModel(ENCODER, ModelConfig(head_width=16, predictor_width=16, macro_width=16))
    model.locator.forward = lambda latent: latent[..., :3]
    return model


def state(thing, hand=HOME):
    x, y, z, opening = hand
    return torch.tensor([*thing, 0.0, 0.0, 0.0, 0.0, 0.0, x, y, z, 0.0, 1.0, opening])


def picture(squares):
    """Goal image (1, 64, 64, 3) with squares of 8 pixels, each a colour and its first row, and their hues (Q,)."""
    image = torch.full((1, 64, 64, 3), 180, dtype=torch.uint8)
    hues = []
    for colour, row in squares:
        image[0, row : row + 8, 28:36] = torch.tensor(RGB[colour], dtype=torch.uint8)
        r, g, b = (value / 180 for value in RGB[colour])  # by the table's colour, the median
        hues.append(math.atan2(math.sqrt(0.75) * (g - b), r - 0.5 * (g + b)))
    return image, torch.tensor(hues)


@pytest.mark.parametrize(
    ("behind_m", "rows", "expected"),
    [
        (0.035, (20, 28), [1, None]),  # the first is higher in the picture
        (0.035, (28, 20), [None, 0]),
        (0.08, (20, 28), [None, None]),  # far enough behind to lie on the table
    ],
)
def test_two_things_in_one_place_stand_on_each_other(behind_m, rows, expected, model):
    image, hues = picture([("red", rows[0]), ("green", rows[1])])
    goals = torch.stack([state((0.5 - behind_m, 0.0, 0.025)), state((0.5, 0.0, 0.025))])
    assert find_supports(model, goals, image, hues) == expected


def test_of_a_tower_each_stands_on_the_nearest_below(model):
    image, hues = picture([("red", 10), ("green", 26), ("blue", 18)])
    goals = torch.stack([state((0.44, 0.0, 0.0)), state((0.5, 0.0, 0.0)), state((0.47, 0.0, 0.0))])
    assert find_supports(model, goals, image, hues) == [2, None, 1]


def test_a_stand_is_over_the_middle_of_both_sights_at_twice_half_the_height(model):
    stand = place_above(model, state((0.50, 0.01, 0.02)), state((0.52, -0.01, 0.03)))
    assert stand.tolist() == pytest.approx([0.51, 0.0, 0.018 + 0.05])


def test_carrying_costs_the_way_and_nothing_within_a_centimetre(model):
    things = [(0.5, 0.0, 0.07), (0.5, 0.009, 0.07), (0.5, 0.1, 0.07), (0.5, 0.0, 0.27)]
    energy = carrying_energy(model, torch.stack([state(t) for t in things]), STAND)
    assert energy.tolist() == pytest.approx([0.0, 0.0, math.log(100), math.log(400)], abs=1e-4)


def told(pose):
    """Position and opening of a pose, or None."""
    return None if pose is None else pose[[0, 1, 2, 5]].tolist()


@pytest.mark.parametrize(
    ("hand", "expected"),
    [
        ((0.5, 0.2, 0.07, 0.04), None),  # holds it, far away
        ((0.5, 0.04, 0.07, 0.04), (0.5, 0.0, 0.09, 0.03)),  # first over it, and the grip kept
        ((0.5, 0.04, 0.04, 0.04), (0.5, 0.04, 0.09, 0.03)),  # before that up, not through what it shall stand on
        ((0.5, 0.007, 0.09, 0.04), (0.5, 0.0, 0.07, 0.03)),  # then down
        ((0.5, 0.007, 0.075, 0.04), (0.5, 0.007, 0.075, 0.078)),  # there: fingers open, and nothing else
        ((0.5, 0.01, 0.075, 0.08), (0.5, 0.01, 0.19, 0.08)),  # up and away, not sideways
        ((0.5, 0.01, 0.20, 0.08), None),  # done
        ((0.5, 0.05, 0.075, 0.08), None),  # an open hand that passes by
        ((0.5, 0.0, 0.02, 0.08), None),  # on its way down to a thing there
    ],
)
def test_the_hand_goes_over_it_down_lets_go_and_up(hand, expected, model):
    found = told(Placing().pose(model, state((0.5, 0.0, 0.07), hand), STAND))
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_fingers_that_have_begun_to_open_open(model):
    placing, rising = Placing(), state((0.5, 0.0, 0.07), (0.5, 0.0, 0.10, 0.055))
    assert told(placing.pose(model, rising, STAND))[3] == pytest.approx(0.045)  # it holds something wide
    placing.pose(model, state((0.5, 0.0, 0.07), (0.5, 0.0, 0.07, 0.04)), STAND)
    assert told(placing.pose(model, rising, STAND))[3] == pytest.approx(0.078)
    placing.feel(model, state((0.5, 0.0, 0.07), (0.5, 0.0, 0.10, 0.08)))
    assert told(placing.pose(model, rising, STAND))[3] == pytest.approx(0.045)  # the next one


@pytest.mark.parametrize(
    ("lay", "off"),
    [
        ((0.58, 0.0, 0.02), -0.02),  # beyond the pads' middle: the tool stops short of the stand
        ((0.60, 0.01, 0.02), 0.0),  # no pads are that wide, so it was another place
        ((0.56, 0.015, 0.02), 0.0),  # across the pads the fingers have put it in the middle
    ],
)
def test_a_thing_held_beside_the_middle_of_the_pads_is_put_down_in_its_place(lay, off, model):
    """The pads are parallel to x; the thing was seen from above, and is seen at the tool while it is held."""
    placing = Placing()
    placing.feel(model, state(lay, (0.56, 0.0, 0.10, 0.08)))
    placing.feel(model, state((0.56, 0.0, 0.02), (0.56, 0.0, 0.02, 0.08)))  # too low to see it well
    placing.feel(model, state((0.56, 0.0, 0.02), (0.56, 0.0, 0.02, 0.04)))
    placing.feel(model, state((0.52, 0.0, 0.09), (0.52, 0.0, 0.09, 0.04)))
    found = told(placing.pose(model, state((0.52, 0.0, 0.09), (0.52, 0.0, 0.09, 0.04)), STAND))
    assert found[:2] == pytest.approx([0.5 + off, 0.0], abs=1e-6)


def test_what_stands_is_arranged_where_it_looks_to_be_once_it_is_let_go(model):
    looks = (0.465, 0.0, 0.025)
    objective = Objective(model, AgentConfig(), state(looks), tolerance=0.1, stand=STAND)
    assert objective.arranged(state((0.465, 0.02, 0.025)))
    assert not objective.arranged(state((0.465, 0.03, 0.025)))
    assert not objective.arranged(state(looks, (0.5, 0.0, 0.07, 0.04)))  # still in the hand


def test_the_pose_outweighs_the_scene_while_it_is_set(model):
    objective = Objective(model, AgentConfig(), state((0.465, 0.0, 0.025)), tolerance=0.1, stand=STAND)
    objective.pose = model.split(state((0, 0, 0), (0.5, 0.0, 0.07, 0.08)))[1]
    there, off = (state((0.1, 0.2, 0.3), (x, 0.0, 0.07, 0.08)) for x in (0.5, 0.53))
    assert objective.goal_energy(there).item() == pytest.approx(0.0, abs=1e-5)
    assert objective.goal_energy(off).item() == pytest.approx(math.log(1 + 0.0009 / 0.003) / 6, rel=1e-3)

"""Random motion stays where it may be, at its pace, clear of keep-outs; and it goes everywhere else."""

from __future__ import annotations

import numpy as np
import pytest

from latent_mpc.robots.splice import Waypoint
from latent_mpc.types import InvalidInputError, WorkspaceSpec
from latent_mpc.wander import CHECK_M, CLOSED, OPEN, Wander, WanderConfig

STEP_M, STEP_YAW_RAD = 0.04, 0.2
BALL, BOX = (0.5, 0.15, 0.15, 0.05), (0.45, -0.25, 0.0, 0.6, -0.15, 0.2)
WORKSPACE = WorkspaceSpec((0.3, -0.3, -0.1), (0.7, 0.3, 0.3), 0.02, (BALL,), (BOX,))
LOW, HIGH = np.array([0.3, -0.3, 0.02]), np.array([0.7, 0.3, 0.3])
HERE = Waypoint(np.array([0.35, 0.0, 0.2]), 0.0, OPEN)
CONFIG = WanderConfig()


def wander(seed: int = 0, workspace: WorkspaceSpec = WORKSPACE, config: WanderConfig = CONFIG) -> Wander:
    way = Wander(workspace, STEP_M, STEP_YAW_RAD, config)
    way.seed(np.random.default_rng(seed))
    way.begin(0, HERE)
    return way


def places(way: Wander, count: int) -> np.ndarray:
    return np.array([way.at(n).position_m for n in range(count)])


def test_every_step_stays_inside_at_its_pace_and_out_of_the_keep_outs() -> None:
    way = wander()
    place = places(way, 5000)
    assert (place >= LOW + CONFIG.inset_m - 1e-12).all() and (place <= HIGH - CONFIG.inset_m + 1e-12).all()
    assert np.linalg.norm(np.diff(place, axis=0), axis=1).max() <= STEP_M + 1e-12
    yaw = np.array([way.at(n).yaw_rad for n in range(5000)])
    assert np.abs(yaw).max() <= CONFIG.max_yaw_rad and np.abs(np.diff(yaw)).max() <= STEP_YAW_RAD + 1e-12
    between = np.concatenate([place[:-1] + share * np.diff(place, axis=0) for share in np.linspace(0, 1, 9)])
    room = CONFIG.clearance_m - CHECK_M / 2  # so far a leg may cut a corner unseen
    assert np.linalg.norm(between - BALL[:3], axis=1).min() > BALL[3] + room
    assert not ((between > np.array(BOX[:3]) - room) & (between < np.array(BOX[3:]) + room)).all(1).any()


def test_it_goes_everywhere_low_and_high_with_open_and_with_closed_fingers() -> None:
    way = wander()
    place, opening = places(way, 5000), np.array([way.at(n).gripper for n in range(5000)])
    cells = np.floor((place - LOW) / (HIGH - LOW) * (4, 6, 3)).astype(int)
    assert len(np.unique(cells, axis=0)) > 0.8 * 72 - 8  # all but what the keep-outs take
    sideways = np.linalg.norm(np.diff(place[:, :2], axis=0), axis=1) > 0.005
    assert 0.05 < (sideways & (place[1:, 2] < LOW[2] + 0.035)).mean() < 0.6  # pushes
    assert set(opening) == {OPEN, CLOSED} and 0.2 < (opening == CLOSED).mean() < 0.8
    assert (np.diff(opening) != 0).sum() > 100


def test_the_same_seed_is_the_same_way() -> None:
    assert np.array_equal(places(wander(3), 200), places(wander(3), 200))
    assert not np.array_equal(places(wander(3), 200), places(wander(4), 200))


def test_beginning_anew_keeps_what_was_and_goes_on_from_there() -> None:
    way = wander()
    before = places(way, 60)
    way.begin(40, HERE)
    after = places(way, 60)
    assert np.array_equal(after[:40], before[:40]) and np.array_equal(after[40], HERE.position_m)
    assert np.linalg.norm(np.diff(after[40:], axis=0), axis=1).max() <= STEP_M + 1e-12
    way.begin(500, HERE)  # much later: nothing is left of before
    assert np.array_equal(way.at(500).position_m, HERE.position_m)


def test_out_of_a_keep_out_it_finds_the_way() -> None:
    way = wander()
    way.begin(0, HERE._replace(position_m=np.array([*BALL[:2], BALL[2] + 0.06])))
    assert np.linalg.norm(places(way, 100)[30:] - BALL[:3], axis=1).min() > BALL[3] + CONFIG.clearance_m - 0.002


def test_a_workspace_without_room_is_told() -> None:
    with pytest.raises(InvalidInputError, match="nothing is left"):
        wander(workspace=WorkspaceSpec((0.3, -0.3, 0.0), (0.315, 0.3, 0.3)))
    everywhere = WorkspaceSpec((0.3, -0.3, 0.0), (0.7, 0.3, 0.3), keep_out_balls_m=((0.5, 0.0, 0.1, 1.0),))
    with pytest.raises(InvalidInputError, match="no room"):
        wander(workspace=everywhere).at(1)


@pytest.mark.parametrize(
    "wrong", [{"reach": -1.0}, {"low_m": (0.2, 0.1)}, {"slowest": 0.0}, {"clearance_m": -0.1}, {"inset_m": -1.0}]
)
def test_an_impossible_mix_is_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        WanderConfig(**wrong)

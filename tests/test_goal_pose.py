"""What the goal's pose is taken for, against heads that are off in known ways."""

from __future__ import annotations

import pytest
import torch

from latent_mpc.goal_pose import ERROR, KEEP, SHARE, GoalPose

GOAL = torch.tensor([[0.5, -1.0, 0.3]])


def test_a_head_that_is_always_off_by_as_much_tells_it_exactly() -> None:
    bias, pose = torch.tensor([[0.7, -0.2, 0.1]]), torch.zeros(1, 3)
    away = (GOAL + bias) - (pose + bias)
    torch.testing.assert_close(GoalPose().told(pose, away), GOAL)


@pytest.mark.parametrize("slope", [0.6, 1.3])
def test_a_head_with_a_wrong_slope_tells_it_in_the_end(slope: float) -> None:
    """Going to where it says, the arm arrives."""
    goal, pose = GoalPose(), torch.zeros(1, 3)
    off = []
    for _ in range(12):
        pose = goal.told(pose, slope * (GOAL - pose))
        off.append(float((pose - GOAL).norm()))
    assert off[-1] < 0.15 * off[0] and off[0] > 0.3


def test_noise_is_averaged() -> None:
    g = torch.Generator().manual_seed(0)
    goal, single, said = GoalPose(), [], []
    for _ in range(50):
        pose = GOAL + 0.05 * torch.randn(1, 3, generator=g)
        away = GOAL - pose + 0.1 * torch.randn(1, 3, generator=g)
        single.append(float((pose + away - GOAL).norm()))
        said.append(float((goal.told(pose, away) - GOAL).norm()))
    assert sum(said) / len(said) < 0.6 * sum(single) / len(single)


def test_what_was_told_from_afar_counts_by_its_variance() -> None:
    goal, far = GoalPose(), torch.tensor([[3.0, 0.0, 0.0]])
    goal.told(torch.zeros(1, 3), far)  # says 3, from 3 away
    said = goal.told(torch.zeros(1, 3), torch.zeros(1, 3))  # says 0, from nowhere
    near, distant = 1 / ERROR**2, KEEP / (ERROR**2 + (3 * SHARE) ** 2)
    torch.testing.assert_close(said, far * distant / (near + distant))

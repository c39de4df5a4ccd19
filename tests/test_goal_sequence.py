"""Goal images in turn: when the next one is shown, to an agent that only says whether it is there."""

from __future__ import annotations

import numpy as np
import pytest

from latent_mpc.goal_sequence import GoalSequence
from latent_mpc.types import InvalidInputError

IMAGES = np.arange(3, dtype=np.uint8)[:, None, None, None] + np.zeros((3, 4, 4, 3), np.uint8)


class Pursuer:
    """Notes what it is shown and when; it is at a waypoint when `there` says so."""

    def __init__(self):
        self.there, self.shown, self.acted = False, [], 0

    def reset(self, goal_image, *, seed=None):
        self.shown, self.acted = [("goal", int(goal_image.flat[0]), seed)], 0

    def show_waypoint(self, image):
        self.shown.append((self.acted, int(image.flat[0])))

    def set_waypoint(self, waypoint):
        self.shown.append((self.acted, waypoint))

    def at_waypoint(self, observation):
        return self.there

    def act(self, observation):
        self.acted += 1
        return np.zeros(5, np.float32)


def run(agent, sequence, there_at, steps=12):
    sequence.reset(IMAGES[-1], seed=7)
    for step in range(steps):
        agent.there = step in there_at
        sequence.act({})


def test_the_next_image_is_shown_when_the_last_is_reached():
    agent = Pursuer()
    sequence = GoalSequence(agent, lambda: IMAGES, patience=10)
    run(agent, sequence, there_at=(2, 6, 9))
    assert agent.shown == [("goal", 2, 7), (0, 0), (2, 1), (6, None)]  # at the last one nothing comes any more
    assert sequence.steps == [2, 4, 6]


def test_an_image_that_is_not_reached_has_its_steps():
    agent = Pursuer()
    sequence = GoalSequence(agent, lambda: IMAGES, patience=4)
    run(agent, sequence, there_at=(6,))
    assert agent.shown[1:] == [(0, 0), (4, 1), (6, None)]


def test_each_episode_begins_with_its_own_first_image():
    agent, episodes = Pursuer(), iter((IMAGES, IMAGES + 10))
    sequence = GoalSequence(agent, lambda: next(episodes), patience=1)
    run(agent, sequence, there_at=())
    run(agent, sequence, there_at=())
    assert agent.shown[1:] == [(0, 10), (1, 11), (2, None)] and sequence.steps == [1, 1, 10]


def test_no_patience_is_refused():
    with pytest.raises(InvalidInputError, match="patience must be at least 1, got 0"):
        GoalSequence(Pursuer(), lambda: IMAGES, patience=0)

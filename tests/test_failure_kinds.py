"""Names for failures: a story of each kind, made up as a trace, gets its kind and its moment."""

from __future__ import annotations

import numpy as np
import pytest

from latent_mpc.envs.scene import ObjectSpec
from latent_mpc.failure_kinds import Failure, Kind, kind_of, sort_failures, tries
from latent_mpc.failure_trace import FailureTrace

STEPS = 30
START, GOAL = np.array([0.5, 0.0, 0.02]), np.array([0.4, 0.15, 0.02])
CUBE = ObjectSpec("cube", (0.02, 0.02, 0.02), (0.85, 0.12, 0.10))
OPEN, CLOSE = -1.0, 1.0


class Story:
    """An episode of 30 steps in which one thing lies and a hand hovers open, 30 cm away, until told otherwise."""

    def __init__(self, shape: str = "cube") -> None:
        self.tool = np.tile([0.35, -0.25, 0.2], (STEPS + 1, 1))
        self.opening = np.full(STEPS + 1, 0.08)
        self.grip = np.full(STEPS, OPEN)
        self.thing = np.tile(START, (STEPS + 1, 1))
        self.upright = np.ones(STEPS + 1)
        self.held = np.zeros(STEPS + 1, bool)
        self.pressed = np.zeros(STEPS + 1, bool)
        self.placed = np.zeros(STEPS + 1, bool)
        self.area = np.full(STEPS + 1, 0.006)
        self.focus = np.zeros(STEPS, int)
        self.seen = np.tile(START[:2], (STEPS, 1))
        self.satisfied = np.zeros(STEPS, bool)
        self.spec = ObjectSpec(shape, CUBE.half_size_m, CUBE.rgb)

    def over(self, first: int, last: int, height: float, beside: float = 0.0) -> Story:
        """The tool is above the thing."""
        self.tool[first : last + 1] = self.thing[first : last + 1] + [0, beside, 0]
        self.tool[first : last + 1, 2] = height
        return self

    def close(self, first: int, last: int, opening: float) -> Story:
        self.opening[first : last + 1], self.grip[first - 1 : last] = opening, CLOSE
        return self

    def carry(self, first: int, last: int, to: np.ndarray, height: float = 0.1) -> Story:
        """Held from `first` to `last`, lifted in between, put down at `to` and let go after `last`."""
        self.close(first, last, 0.04)
        self.held[first : last + 1] = True
        way = np.linspace(0, 1, last - first + 1)[:, None]
        self.thing[first : last + 1] = (1 - way) * self.thing[first] + way * to
        self.thing[first + 1 : last, 2] = height
        self.thing[last + 1 :] = to
        self.tool[first : last + 1] = self.thing[first : last + 1]
        return self

    def trace(self) -> FailureTrace:
        return FailureTrace(
            tool_m=self.tool,
            opening_m=self.opening,
            grip=self.grip,
            thing_m=self.thing[:, None],
            upright=self.upright[:, None],
            off_m=np.linalg.norm(self.thing - GOAL, axis=1)[:, None],
            goal_m=GOAL[None],
            radius_m=0.03,
            held=self.held[:, None],
            touched=self.held[:, None],
            pressed=self.pressed[:, None],
            placed=self.placed[:, None],
            area=self.area[:, None],
            movers=(0,),
            things=(self.spec,),
            qpos=np.zeros((STEPS + 1, 1)),
            focus=self.focus,
            seen_m=self.seen,
            goal_seen_m=np.tile(GOAL[:2] + [0.01, 0], (STEPS, 1)),
            satisfied=self.satisfied,
        )


def fell() -> Story:
    story = Story()
    story.thing[12:, 2] = -0.4
    return story


def undone() -> Story:
    story = Story().carry(8, 14, GOAL)
    story.thing[20:] = GOAL + [0.08, 0, 0]
    return story


def kept() -> Story:
    story = Story().carry(14, STEPS, GOAL)
    story.thing[22:] = GOAL + [0, 0, 0.02]
    return story


def in_hand() -> Story:
    return Story().carry(20, STEPS, GOAL + [0.05, 0, 0.05])


def dragged() -> Story:
    return Story().carry(8, 14, GOAL, height=0.025)


def tipped() -> Story:
    story = Story("cup").carry(8, 14, START + [0.02, 0, 0], height=0.025)
    story.upright[11:] = 0.0
    return story


def slipped() -> Story:
    story = Story().carry(8, 14, START + [0.05, 0.05, 0])
    story.grip[13:16] = CLOSE  # the fingers are told to hold on
    return story


def stood_on() -> Story:
    story = Story().over(10, 12, 0.055)
    story.pressed[11] = True
    return story


def no_turn() -> Story:
    story = Story()
    story.focus[:] = 1
    return story


def lost() -> Story:
    story = Story().over(9, 12, 0.03, beside=0.04).close(11, 12, 0.002)
    story.area[13:25] = 0
    story.seen[13:25] += [0.06, 0.0]
    return story


def shoved() -> Story:
    story = Story()
    story.thing[9:] += [0.05, 0, 0]
    return story


STORIES = [
    (Kind.FALLEN, 12, fell),
    (Kind.UNDONE, 20, undone),
    (Kind.KEPT, 22, kept),
    (Kind.IN_HAND, STEPS, in_hand),
    (Kind.UNRESTED, STEPS, lambda: Story().carry(20, STEPS - 1, GOAL)),
    (Kind.DRAGGED, 14, dragged),
    (Kind.SLIPPED, 15, slipped),
    (Kind.BESIDE_GOAL, 15, lambda: Story().carry(8, 14, GOAL + [0.045, 0, 0])),
    (Kind.LET_GO, 15, lambda: Story().carry(8, 14, GOAL + [0.08, 0, 0])),
    (Kind.TIPPED, 11, tipped),
    (Kind.LOST, 13, lost),
    (Kind.PINCHED, 14, lambda: Story().carry(8, 14, START, height=0.03)),
    (Kind.STOOD_ON, 11, stood_on),
    (Kind.CLOSED_ABOVE, 11, lambda: Story().over(9, 12, 0.06).close(11, 12, 0.002)),
    (Kind.CLOSED_BESIDE, 11, lambda: Story().over(9, 12, 0.03, beside=0.04).close(11, 12, 0.002)),
    (Kind.SHOVED, 9, shoved),
    (Kind.HOVERED, 12, lambda: Story().over(10, 12, 0.06)),
    (Kind.NO_TURN, STEPS, no_turn),
    (Kind.NOT_REACHED, STEPS, Story),
]


@pytest.mark.parametrize(("kind", "moment", "story"), STORIES, ids=[kind.name for kind, *_ in STORIES])
def test_a_story_of_each_kind(kind, moment, story):
    assert kind_of(story().trace(), 0) == (kind, moment)


def test_every_kind_has_its_story():
    assert [kind for kind, *_ in STORIES] == list(Kind)


def test_a_cube_on_its_side_is_no_cup_that_lies():
    story = tipped()
    story.spec = CUBE
    assert kind_of(story.trace(), 0)[0] == Kind.PINCHED


@pytest.mark.parametrize(("pressed", "kind"), [(10, Kind.STOOD_ON), (5, Kind.CLOSED_BESIDE)])
def test_fingers_that_stood_on_it_before_they_closed_closed_because_of_that(pressed, kind):
    story = Story().over(9, 12, 0.03, beside=0.04).close(11, 12, 0.002)
    story.held[12] = True  # a touch in passing
    story.pressed[pressed] = True
    (failure,) = sort_failures(story.trace())
    assert (failure.kind, failure.tries, failure.on_top) == (kind, 1, int(kind == Kind.STOOD_ON))


@pytest.mark.parametrize("change", ["in sight", "seen where it is", "only for a while"])
def test_what_is_hidden_is_lost_only_if_it_is_taken_to_be_elsewhere(change):
    story = lost()
    if change == "in sight":
        story.area[:] = 0.005
    elif change == "seen where it is":
        story.seen[:] = START[:2] + [0.03, 0]
    else:
        story.area[20:] = 0.006
    assert kind_of(story.trace(), 0) == (Kind.CLOSED_BESIDE, 11)


def test_what_is_placed_has_not_failed():
    story = Story().carry(8, 14, GOAL)
    story.placed[16:] = True
    assert sort_failures(story.trace()) == []


def test_what_was_picked_up_after_it_had_tipped_is_told_by_how_it_was_let_go():
    story = Story("cup").carry(8, 14, GOAL + [0.045, 0, 0])
    story.upright[5:] = 0.0
    assert kind_of(story.trace(), 0)[0] == Kind.BESIDE_GOAL


def test_how_far_beside_the_fingers_closed_and_beside_what_was_seen():
    story = Story().over(9, 12, 0.03, beside=0.04).close(11, 12, 0.002)
    story.seen += [0.0, 0.03]
    (failure,) = sort_failures(story.trace())
    assert (failure.beside_m, failure.aimed_m) == (pytest.approx(0.04), pytest.approx(0.01))


def test_tries_count_once_each_and_only_near_the_thing():
    story = Story().over(4, 6, 0.03, beside=0.03).close(5, 6, 0.002)  # missed
    story.over(10, 12, 0.03).close(11, 12, 0.04)  # held
    story.held[11:13] = True
    story.close(20, 22, 0.002)  # far away
    assert tries(story.trace(), 0) == [5, 11]


def test_what_the_agent_took_it_for():
    story = Story()
    story.focus[:15] = 1
    story.seen += [0.03, 0.04]
    story.satisfied[-4:] = True
    story.area[10:19] = 0.001  # attended to from 15 on, so hidden for 4 steps
    story.seen[15:19] += [0.03, 0.04]
    (failure,) = sort_failures(story.trace())
    nan = float("nan")
    assert failure == Failure(
        thing=0,
        kind=Kind.NOT_REACHED,
        moment=STEPS,
        off_m=pytest.approx(float(np.linalg.norm(START - GOAL))),
        tries=0,
        on_top=0,
        beside_m=pytest.approx(nan, nan_ok=True),
        aimed_m=pytest.approx(nan, nan_ok=True),
        seen_off_m=pytest.approx(0.05),
        hidden_off_m=pytest.approx(0.10),
        goal_off_m=pytest.approx(0.01),
        hidden=pytest.approx(4 / 15),
        satisfied=pytest.approx(0.4),
        in_focus=0.5,
    )


def test_an_agent_that_says_nothing_leaves_no_belief():
    story = Story()
    story.focus[:], story.seen[:] = -1, np.nan
    (failure,) = sort_failures(story.trace())
    assert failure.kind == Kind.NOT_REACHED and failure.in_focus == 0
    assert np.isnan(
        [failure.seen_off_m, failure.hidden_off_m, failure.goal_off_m, failure.hidden, failure.satisfied]
    ).all()

"""Names for failures: rules over what really happened to one thing, of which the first that fits wins.

The rules go backwards from the end: where the thing lies decides first, then how it got there, and for what was never
lifted, how the last try went. So a thing has exactly one kind. What no other rule foresees was never reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs.play import TIP_M
from latent_mpc.envs.tasks import LIFT_M
from latent_mpc.failure_trace import FailureTrace, Flags, Floats

FALLEN_M = -0.01  # a centre below this is off the table
TIPPED_COSINE = 0.7  # an axis that leans further than 45 degrees
NO_TOP = ("cube", "sphere")  # are the same on any side
MOVED_M = 0.02  # less is a nudge
NEAR_GOAL_M = 0.06  # put down this near the goal, it was aimed at the goal
LOW_M = 0.08  # a tool below this is about to grasp
NEAR_THING_M = 0.08  # a tool this near, in the plane, is after the thing
AJAR_M = 0.03  # fingers further apart than this can close again
HIDDEN_AREA = 0.0015  # of the picture, 6 of 64 x 64 pixels: a thing that shows less is hidden
LOST_M = 0.04  # a thing seen this far off, in the plane, is not where the agent takes it to be
LOST_SHARE = 0.3  # of the steps for which the agent attended to it: more of them lost is what it failed by
KEPT_STEPS = 5  # in the hand where it belongs, up to the end: it could have been let go
PRESS_STEPS = 3  # fingers that stood on a thing so shortly before they closed closed because of that
CLOSED = 0.3  # a gripper command above this holds on
LAST_STEPS = 10  # before the end, at which it counts whether the agent took a thing for arranged


class Kind(StrEnum):
    """How a thing failed to get where it belongs, in the words of the table."""

    FALLEN = "fell off the table"
    UNDONE = "was there, and was taken or knocked away"
    KEPT = "held over its goal, not let go"
    IN_HAND = "still in the hand when time ran out"
    UNRESTED = "arrived, but time ran out before it rested"
    DRAGGED = "dragged to its goal, never lifted"
    SLIPPED = "slipped out of closed fingers on the way"
    BESIDE_GOAL = "put down beside its goal"
    LET_GO = "let go on the way"
    TIPPED = "tipped over, never lifted"
    LOST = "hidden behind the hand, and taken to be elsewhere"
    PINCHED = "held, but not lifted"
    STOOD_ON = "fingers came down on top of it"
    CLOSED_ABOVE = "fingers closed above it"
    CLOSED_BESIDE = "fingers closed beside it"
    SHOVED = "shoved about, never held"
    HOVERED = "reached, but fingers never closed"
    NO_TURN = "its turn never came"
    NOT_REACHED = "never reached"


@dataclass(frozen=True)
class Failure:
    """What happened to one thing.

    Attributes:
        thing: its number. kind: its kind. moment: the step that decided it, an index into the trace's T+1 moments.
        off_m: how far it lies from where it belongs at the end, metres.
        tries: how often the fingers closed on it or near it. on_top: how many of these after they had stood on it.
        beside_m: median over the tries of how far the tool was from the thing, in the plane, just before the fingers
            shut; NaN without tries. aimed_m: the same of where the agent saw the thing.
        seen_off_m: median over the steps at which it was in focus and in sight, of how far it lay from where the agent
            saw it, in the plane; NaN without such steps. hidden_off_m: the same of those at which it was hidden.
        goal_off_m: the same of its place in the goal image.
        hidden: share of the steps in focus at which hardly anything of it was to be seen; NaN if it never was in focus.
        satisfied: share of the last steps in focus at which the agent took it for arranged; NaN if it never was.
        in_focus: share of the episode for which it was in focus.
    """

    thing: int
    kind: Kind
    moment: int
    off_m: float
    tries: int
    on_top: int
    beside_m: float
    aimed_m: float
    seen_off_m: float
    hidden_off_m: float
    goal_off_m: float
    hidden: float
    satisfied: float
    in_focus: float


def sort_failures(trace: FailureTrace) -> list[Failure]:
    """One `Failure` for each thing that was to move and is not placed at the end; none for a success."""
    return [_sort(trace, thing) for thing in trace.movers if not trace.placed[-1, thing]]


def _sort(trace: FailureTrace, thing: int) -> Failure:
    kind, moment = kind_of(trace, thing)
    shut = tries(trace, thing)
    focused = np.flatnonzero(trace.focus == thing)
    seen = _seen_off(trace, thing, focused)
    before = np.array([t - 1 for t in shut], int)
    after = before[trace.focus[before] == thing]
    hidden = _hidden(trace, thing)[focused]
    goal = _gap(trace.goal_m[None, thing], trace.goal_seen_m[focused])
    return Failure(
        thing=thing,
        kind=kind,
        moment=moment,
        off_m=float(trace.off_m[-1, thing]),
        tries=len(shut),
        on_top=sum(_stood_on(trace, thing, t) for t in shut),
        beside_m=_median(_gap(trace.tool_m[before], trace.thing_m[before, thing])),
        aimed_m=_median(_gap(trace.tool_m[after], trace.seen_m[after])),
        seen_off_m=_median(seen[~hidden]),
        hidden_off_m=_median(seen[hidden]),
        goal_off_m=_median(goal),
        hidden=_mean(hidden),
        satisfied=_mean(trace.satisfied[focused[-LAST_STEPS:]]),
        in_focus=len(focused) / trace.steps,
    )


def kind_of(trace: FailureTrace, thing: int) -> tuple[Kind, int]:
    """The first kind that fits, and the moment that decided it."""
    end = trace.steps
    height = trace.thing_m[:, thing, 2]
    rise = height - height[0]
    held, off = trace.held[:, thing], trace.off_m[:, thing]
    lifted = np.flatnonzero(held & (rise >= LIFT_M))
    there = off <= trace.radius_m
    if height[-1] < FALLEN_M:
        return Kind.FALLEN, int(np.argmax(height < FALLEN_M))
    if there[-1]:
        if not len(lifted):
            return Kind.DRAGGED, _first(there & _stays(there))
        arrived = _first(_stays(there & held))
        return (Kind.KEPT, arrived) if end - arrived >= KEPT_STEPS else (Kind.UNRESTED, end)
    if held[-2:].all():
        return Kind.IN_HAND, end
    been = np.flatnonzero(there & ~trace.touched[:, thing])
    been = been[been > lifted[0]] if len(lifted) else been[:0]
    if len(been):
        return Kind.UNDONE, int(been[-1]) + 1
    if len(lifted):
        return _after_lifting(trace, thing, int(lifted[-1]))
    return _never_lifted(trace, thing)


def _after_lifting(trace: FailureTrace, thing: int, last: int) -> tuple[Kind, int]:
    """Of a thing that was last lifted at the moment `last`."""
    held, end = trace.held[:, thing], trace.steps
    let_go = last + _first(~held[last:])  # it is lowered in the hand before
    if trace.grip[min(let_go, end) - 1] > CLOSED:
        return Kind.SLIPPED, let_go
    settled = min(let_go + 1, end)
    return (Kind.BESIDE_GOAL if trace.off_m[settled, thing] <= NEAR_GOAL_M else Kind.LET_GO), let_go


def _never_lifted(trace: FailureTrace, thing: int) -> tuple[Kind, int]:
    end, held = trace.steps, trace.held[:, thing]
    places = trace.thing_m[:, thing]
    moved = _gap(places, places[:1])
    near = _gap(trace.tool_m, places) < NEAR_THING_M
    low = near & (trace.tool_m[:, 2] < LOW_M)
    shut = tries(trace, thing)
    focused = np.flatnonzero(trace.focus == thing)
    lost = focused[_hidden(trace, thing)[focused] & (_seen_off(trace, thing, focused) > LOST_M)]
    if _tipped(trace, thing):
        return Kind.TIPPED, _first(_lean(trace, thing) & _stays(_lean(trace, thing)))
    if len(lost) > LOST_SHARE * len(focused):
        return Kind.LOST, int(lost[0])
    gripped = np.flatnonzero(held[1:] & held[:-1]) + 1  # a touch in passing is no grip
    if len(gripped):
        return Kind.PINCHED, int(gripped[-1])
    pressed = np.flatnonzero(trace.pressed[:, thing])
    if len(pressed) and not shut:
        return Kind.STOOD_ON, int(pressed[-1])
    if shut and _stood_on(trace, thing, shut[-1]):
        return Kind.STOOD_ON, shut[-1]
    if shut:
        last = shut[-1]
        top = places[last, 2] + trace.things[thing].half_size_m[2]
        above = trace.tool_m[last, 2] - TIP_M > top
        return (Kind.CLOSED_ABOVE if above else Kind.CLOSED_BESIDE), last
    if moved[-1] > MOVED_M:
        return Kind.SHOVED, int(np.argmax(np.diff(moved, prepend=0)))
    if low.any():
        return Kind.HOVERED, int(np.flatnonzero(low)[-1])
    if not (trace.focus == thing).any() and (trace.focus >= 0).any():
        return Kind.NO_TURN, end
    return Kind.NOT_REACHED, end


def tries(trace: FailureTrace, thing: int) -> list[int]:
    """The moments at which fingers that were open had been told to close, on the thing or near it, low down."""
    near = _gap(trace.tool_m, trace.thing_m[:, thing]) < NEAR_THING_M
    there = near & (trace.tool_m[:, 2] < LOW_M)
    closing = trace.grip > CLOSED
    begins = closing & ~np.concatenate([[False], closing[:-1]]) & (trace.opening_m[:-1] > AJAR_M)
    return [int(t) + 1 for t in np.flatnonzero(begins & (there[:-1] | there[1:]))]


def _stood_on(trace: FailureTrace, thing: int, moment: int) -> bool:
    """Whether hand or fingers stood on the thing shortly before they closed."""
    return bool(trace.pressed[max(moment - PRESS_STEPS, 0) : moment + 1, thing].any())


def _tipped(trace: FailureTrace, thing: int) -> bool:
    return trace.things[thing].shape not in NO_TOP and bool(_lean(trace, thing)[-1])


def _lean(trace: FailureTrace, thing: int) -> Flags:
    """Moments (T+1,) at which the thing does not stand upright."""
    return np.asarray(trace.upright[:, thing] < TIPPED_COSINE)


def _seen_off(trace: FailureTrace, thing: int, steps: NDArray[np.int_]) -> Floats:
    """How far the thing lies at some steps (K,) from where the agent sees what it attends to, in the plane, (K,)."""
    return _gap(trace.thing_m[steps, thing], trace.seen_m[steps])


def _gap(places: Floats, others: Floats) -> Floats:
    """Distances in the plane, (K,), of places (K, 2 or 3)."""
    return np.asarray(np.linalg.norm(places[:, :2] - others[:, :2], axis=1))


def _hidden(trace: FailureTrace, thing: int) -> Flags:
    """Moments (T+1,) at which hardly anything of the thing is to be seen."""
    return np.asarray(trace.area[:, thing] < HIDDEN_AREA)


def _stays(flags: Flags) -> Flags:
    """Moments from which on a flag stays to the end."""
    return np.asarray(np.logical_and.accumulate(flags[::-1])[::-1])


def _first(flags: Flags) -> int:
    """The first moment with the flag; the number of moments where there is none."""
    return int(np.argmax(flags)) if flags.any() else len(flags)


def _mean(flags: Flags) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def _median(values: Floats) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")

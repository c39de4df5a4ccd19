"""The safety gate: the last word on every setpoint. A pure function of its arguments, asked once a tick T.

    |u − u₋| ≤ T min(v_max, √(a²T² + 2 a d) − aT)          d: room to the end of the joint's range
    h_i(u) ≥ h_i(u₋) − T pace_i · clip((h_i(u₋) − stop_i) / (slow_i − stop_i), 0, 1)    once h_i(u₋) < slow_i
    |x(u) − x(u₋)| ≤ T · tool speed

The first line is v T + v² / 2a = d: after this tick the joint can still brake at a. h(q) is the room in the workspace
(robots/workspace.py): distances, depth in the tool's box, condition number; the second line never lets it below `stop`,
and never slows what makes it grow. A step is shortened as a whole, so its direction stays. Wrong input and a sick arm
are refused: then the last setpoint is sent again. This is no safety-rated system and replaces no emergency stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from latent_mpc.robots.limits import Limits
from latent_mpc.robots.robot import Array, RobotState, Setpoint
from latent_mpc.robots.workspace import Room
from latent_mpc.types import InvalidInputError

ATTEMPTS = 6  # at shortening a step before the arm stays where it is
NOISE = 1e-8  # a change of h smaller than this is none
SLACK = 0.05  # of the way from `slow` to `stop`, by which a motion between setpoints may go below `stop`
CLOCK_S = 0.001  # by which a state may seem to come from the future
FURTHEST_RAD = 1.05 * 2 * math.pi  # no joint angle is larger, unless the arm's range is
WIDEST = 1.5  # no opening is larger, unless its unit is wrong


@dataclass(frozen=True)
class Verdict:
    """What to send, and why it is not what was wanted.

    Attributes:
        kind: "ok": as wanted; "clamped": moved towards it as far as allowed; "rejected": the last one again.
        setpoint: to send.
        reasons: "check: what was found and what would be right", empty when ok.
    """

    kind: Literal["ok", "clamped", "rejected"]
    setpoint: Setpoint
    reasons: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)

    @property
    def checks(self) -> tuple[str, ...]:
        """The words before the colons: fault, state, tracking, torque, temperature, shape, finite, units, sequence,
        expiry, jump; joint box, velocity, gripper, collision, box, singularity, tool speed."""
        return tuple(reason.split(":")[0] for reason in self.reasons)


class Gate:
    """Judges setpoints by limits, each call alone. Not for two threads at once: it computes in place.

    Attributes:
        limits: of this gate; another gate has others.
    """

    def __init__(self, limits: Limits) -> None:
        """Load the arm's model. Raises InvalidInputError where the model does not fit the spec."""
        self.limits = limits
        self._joints = limits.spec.joint_names
        self._room = Room(limits.spec, limits.workspace, limits.distances)
        self._low, self._high = np.array(limits.q_low_rad), np.array(limits.q_high_rad)
        self._velocity, self._braking = np.array(limits.velocity_rad_s), np.array(limits.braking_rad_s2)
        self._speed = limits.workspace.speed_m_s
        self._furthest = max(FURTHEST_RAD, float(np.abs([limits.spec.q_low_rad, limits.spec.q_high_rad]).max()))

    def tightened(self, **changes: Any) -> Gate:
        """A gate that allows less; takes a few ticks' time to make. Raises InvalidInputError if it would allow more."""
        return Gate(self.limits.tightened(**changes))

    def check(
        self,
        wanted: Setpoint,
        last: Setpoint,
        state: RobotState,
        now_s: float,
        *,
        sequence: int = 0,
        last_sequence: int = 0,
        expires_s: float = math.inf,
        sent_rad: Array | None = None,
    ) -> Verdict:
        """Judge a setpoint.

        Args:
            wanted: what is to be sent.
            last: what this gate let pass the tick before; at first, where the arm is.
            state: newest reading. now_s: on the monotonic clock.
            sequence, expires_s: of the plan that `wanted` comes from; last_sequence: of the plan that `last` came from.
            sent_rad: joints (J,) that were really sent, where something behind the gate lags; the state is held
                against them.
        Raises:
            InvalidInputError: `last` is not a finite setpoint of this arm; there is nothing safe to send.
        """
        if (complaint := self._misshapen(last)) is not None:
            raise InvalidInputError(f"last setpoint: {complaint}")
        sent = last.q_rad if sent_rad is None else sent_rad
        refusals = list(self._of_state(sent, state, now_s))
        refusals += self._of_wanted(last, wanted, now_s, sequence, last_sequence, expires_s)
        if refusals:
            return Verdict("rejected", replace(last, q_rad=last.q_rad.astype(float)), tuple(refusals))
        q, reasons = self._move(last.q_rad.astype(float), wanted.q_rad.astype(float))
        opening = self._grip(float(last.gripper), float(wanted.gripper))
        if opening != wanted.gripper:
            reasons.append(f"gripper: opening {wanted.gripper:.3f} wanted, {opening:.3f} now")
        return Verdict("clamped" if reasons else "ok", replace(wanted, q_rad=q, gripper=opening), tuple(reasons))

    def clear(self, here_rad: Array, way_rad: Array) -> bool:
        """Whether joints on a way (N, J) that was not judged, such as one to rest, all have room; from `here_rad` (J,).

        What lies nearer than that already may stay so, and come no nearer.
        """
        room = self._room
        least = room.stop - SLACK * (room.slow - room.stop) - NOISE
        if (room.least_on(way_rad) >= least).all():  # a fifth of the work, and mostly enough
            return True
        found = np.min([room(q_rad)[0] for q_rad in way_rad], axis=0)
        return bool((found >= least).all()) or bool((found >= np.minimum(least, room(here_rad)[0] - NOISE)).all())

    def _misshapen(self, setpoint: Setpoint) -> str | None:
        """What is wrong with a setpoint by itself."""
        q, opening = getattr(setpoint, "q_rad", None), getattr(setpoint, "gripper", None)
        shape = (len(self._joints),)
        if not isinstance(q, np.ndarray) or q.dtype.kind != "f" or q.shape != shape:
            found = f"{getattr(q, 'dtype', type(q).__name__)} {getattr(q, 'shape', '')}"
            return f"shape: joints must be a float array of shape {shape}, got {found}"
        if isinstance(opening, bool) or not isinstance(opening, (int, float, np.floating)):
            return f"shape: the gripper's opening must be a number from 0 to 1, got {opening!r}"
        bad = [name for name, value in zip(self._joints, q, strict=True) if not math.isfinite(value)]
        if bad or not math.isfinite(opening):
            return f"finite: NaN or inf at {', '.join([*bad, *([] if math.isfinite(opening) else ['the gripper'])])}"
        return None

    def _of_state(self, sent: Array, state: RobotState, now_s: float) -> Iterator[str]:
        limits = self.limits
        if state.fault:
            yield f"fault: {state.fault}"
        age = now_s - state.receipt_time_s
        if not -CLOCK_S <= age <= limits.state_age_s:
            yield f"state: {1e3 * age:.0f} ms old, may be 0 to {1e3 * limits.state_age_s:.0f} ms"
        shapes = {np.shape(x) for x in (state.q_rad, state.torque_nm, state.temperature_c, sent) if x is not None}
        if shapes != {(len(self._joints),)}:
            yield f"state: arrays of shapes {sorted(shapes)}, all must be ({len(self._joints)},)"
            return
        measured: list[tuple[str, Array, float | tuple[float, ...], str]] = [
            ("tracking", state.q_rad - sent, limits.tracking_rad, "rad from what was sent")
        ]
        if state.torque_nm is not None:
            measured.append(("torque", state.torque_nm, limits.torque_nm, "N·m"))
        if state.temperature_c is not None:
            measured.append(("temperature", state.temperature_c, limits.temperature_c, "°C"))
        for check, value, most, unit in measured:
            size, bound = np.abs(value), np.broadcast_to(most, sent.shape)
            for j in np.flatnonzero(~(size <= bound)):  # NaN is over every bound
                yield f"{check}: {self._joints[j]} at {size[j]:.3g} {unit}, at most {bound[j]:.3g}"

    def _of_wanted(
        self, last: Setpoint, wanted: Setpoint, now_s: float, sequence: int, last_sequence: int, expires_s: float
    ) -> Iterator[str]:
        if sequence < last_sequence:
            yield f"sequence: plan {sequence} is older than plan {last_sequence}, which is already followed"
        if not now_s <= expires_s:
            yield f"expiry: the plan expired {1e3 * (now_s - expires_s):.0f} ms ago"
        if (complaint := self._misshapen(wanted)) is not None:
            yield complaint
            return
        if not 1 - WIDEST <= wanted.gripper <= WIDEST:
            yield f"units: opening {wanted.gripper:.4g}; it goes from 0 to 1, not in percent or millimetres"
        for joint, q, before in zip(self._joints, wanted.q_rad, last.q_rad, strict=True):
            if abs(q) > self._furthest:
                yield f"units: {joint} at {q:.4g} rad; if degrees were meant, that is {math.radians(q):.4g} rad"
            elif abs(q - before) > self.limits.jump_rad:
                yield f"jump: {joint} from {before:.3f} to {q:.3f} rad in one tick, at most {self.limits.jump_rad}"

    def _move(self, last: Array, wanted: Array) -> tuple[Array, list[str]]:
        """The joints to send, and what held them back."""
        tick, reasons = self.limits.tick_s, []
        low, high = np.minimum(self._low, last), np.maximum(self._high, last)  # outside already: no further out
        target = np.clip(wanted, low, high)
        for j in np.flatnonzero(target != wanted):
            reasons.append(f"joint box: {self._joints[j]} to {wanted[j]:.3f} rad, held at {target[j]:.3f}")
        step = target - last
        left, a = np.where(step > 0, high - last, last - low), self._braking * tick
        allowed = tick * np.minimum(self._velocity, np.sqrt(a**2 + 2 * self._braking * left) - a)
        ratio = np.abs(step) / np.maximum(allowed, 1e-300)
        if (worst := int(ratio.argmax())) >= 0 and ratio[worst] > 1 + 1e-9:
            found, most = step[worst] / tick, allowed[worst] / tick
            reasons.append(f"velocity: {self._joints[worst]} {found:.3f} rad/s, at most {most:.3f} here")
            step = step / ratio[worst]
        if not step.any():
            return last.copy(), reasons
        room, most_m = self._room, self._speed * tick
        before, here = room(last)
        there = room.kinematics.pose(last + step).position_m
        if (moved_m := float(np.linalg.norm(there - here))) > most_m:  # the cheapest check first: it saves attempts
            reasons.append(f"tool speed: {moved_m / tick:.3f} m/s, at most {self._speed}")
            step = 0.999 * most_m / moved_m * step
        scale = np.clip((before - room.stop) / (room.slow - room.stop), 0, 1)
        loss = np.maximum(before - room.slow, 0) + tick * room.pace * scale
        slowed: dict[str, None] = {}  # in the order found, once each
        for _ in range(ATTEMPTS):
            after, there = room(last + step)
            share, why = self._share(before, after, loss, float(np.linalg.norm(there - here)))
            if share == 1:
                break
            slowed[why] = None
            step = share * step
        else:
            step = 0 * step
        return np.clip(last + step, low, high), [*reasons, *slowed]

    def _share(self, before: Array, after: Array, loss: Array, moved_m: float) -> tuple[float, str]:
        """How much of a step to try next, 1 where it may be taken, and the tightest reason for less.

        Args: before, after: h, (K,). loss: how much of it may go, (K,).
        """
        room, most_m, share, why = self._room, self._speed * self.limits.tick_s, 1.0, ""
        over = np.flatnonzero(after < before - loss - NOISE)
        if over.size:
            shares = 0.99 * loss[over] / (before[over] - after[over])
            k, share = over[shares.argmin()], float(shares.min())
            why = f"{room.labels[k]} {before[k]:.4g}, slows at {room.slow[k]}, stops at {room.stop[k]}"
        if moved_m > most_m and 0.999 * most_m / moved_m < share:
            share, why = 0.999 * most_m / moved_m, f"tool speed: {moved_m / self.limits.tick_s:.3f} m/s, too fast"
        return share, why

    def _grip(self, last: float, wanted: float) -> float:
        """The opening to send."""
        most = self.limits.gripper_per_s * self.limits.tick_s
        inside = min(max(wanted, 0.0), 1.0)
        return inside if abs(inside - last) <= most else last + math.copysign(most, inside - last)

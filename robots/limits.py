"""The bounds of the safety gate. Once an arm is armed they can only be tightened."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from latent_mpc.robots.robot import Array, RobotSpec
from latent_mpc.robots.workspace import Distances
from latent_mpc.types import InvalidInputError, WorkspaceSpec


@dataclass(frozen=True)
class Limits:
    """What setpoints and states must keep to; `Limits.of` makes them from a spec.

    Attributes:
        spec: of the arm; its control period is the tick of the gate.
        workspace: where the tool may go, in B. distances: where to slow down, where to stop.
        q_low_rad, q_high_rad: range of the setpoints, (J,), inside the spec's by a margin.
        velocity_rad_s: largest speed of a setpoint, (J,).
        braking_rad_s2: deceleration that must bring a joint to rest before the end of its range, (J,).
        torque_nm: largest measured torque (or what the driver reports as such), (J,).
        jump_rad: a setpoint further than this from the last is refused: it belongs to another motion.
        tracking_rad: largest distance of a measured joint from what it was sent, with the lag of its servo.
        gripper_per_s: largest speed of the opening.
        state_age_s: a state older than this is refused.
        temperature_c: of a motor.
    """

    spec: RobotSpec
    workspace: WorkspaceSpec
    q_low_rad: tuple[float, ...]
    q_high_rad: tuple[float, ...]
    velocity_rad_s: tuple[float, ...]
    braking_rad_s2: tuple[float, ...]
    torque_nm: tuple[float, ...]
    distances: Distances = field(default_factory=Distances)
    jump_rad: float = 0.5
    tracking_rad: float = 0.4
    gripper_per_s: float = 5.0
    state_age_s: float = 0.05
    temperature_c: float = 70.0

    def __post_init__(self) -> None:
        spec = self.spec
        widest = {
            "q_low_rad": spec.q_low_rad,
            "q_high_rad": spec.q_high_rad,
            "velocity_rad_s": spec.velocity_rad_s,
            "braking_rad_s2": spec.acceleration_rad_s2,
            "torque_nm": spec.torque_nm,
        }
        for name, bound in widest.items():
            value = np.asarray(getattr(self, name), float)
            if value.shape != (spec.num_joints,) or not (_strictness(name, value) >= _strictness(name, bound)).all():
                raise InvalidInputError(
                    f"{name} must be {spec.num_joints} numbers within the arm's {bound}, got {value}"
                )
            if name not in ("q_low_rad", "q_high_rad") and not (value > 0).all():
                raise InvalidInputError(f"{name} must be positive, got {value}")
        if not all(low < high for low, high in zip(self.q_low_rad, self.q_high_rad, strict=True)):
            raise InvalidInputError(f"no range is left between {self.q_low_rad} and {self.q_high_rad}")
        for name in ("jump_rad", "tracking_rad", "gripper_per_s", "state_age_s", "temperature_c"):
            if not 0 < getattr(self, name) < np.inf:
                raise InvalidInputError(f"{name} must be positive and finite, got {getattr(self, name)}")

    @classmethod
    def of(
        cls,
        spec: RobotSpec,
        workspace: WorkspaceSpec,
        *,
        margin_rad: float = 0.02,
        speed_share: float = 1.0,
        braking_share: float = 0.5,
        **others: Any,
    ) -> Limits:
        """Limits of an arm, inside its own.

        Args:
            margin_rad: kept from both ends of each joint's range.
            speed_share, braking_share: of the spec's velocity and acceleration, in (0, 1].
            others: further attributes by name.
        """
        return cls(
            spec,
            workspace,
            tuple(low + margin_rad for low in spec.q_low_rad),
            tuple(high - margin_rad for high in spec.q_high_rad),
            tuple(speed_share * velocity for velocity in spec.velocity_rad_s),
            tuple(braking_share * acceleration for acceleration in spec.acceleration_rad_s2),
            spec.torque_nm,
            **others,
        )

    @property
    def tick_s(self) -> float:
        """Time from one setpoint to the next."""
        return 1 / self.spec.control_hz

    def tightened(self, **changes: Any) -> Limits:
        """These limits with changes that allow less, or as much, and nothing more.

        Raises:
            InvalidInputError: a change allows more anywhere, or there is no such limit.
        """
        known = [f.name for f in fields(self) if f.name != "spec"]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise InvalidInputError(f"no limit is called {unknown}; there are {known}")
        new = replace(self, **changes)
        for name in changes:
            before, after = getattr(self, name), getattr(new, name)
            if name == "workspace" and not _keeps_out(after, before):
                raise InvalidInputError("limits can only be tightened: a keep-out or the table is missing")
            if not (_strictness(name, after) >= _strictness(name, before)).all():
                raise InvalidInputError(f"limits can only be tightened: {name} was {before}, not {after}")
        return new


def _strictness(name: str, value: Any) -> Array:
    """Numbers that grow as the limit called `name` allows less."""
    if isinstance(value, Distances):
        return np.array([getattr(value, f.name) * (-1 if "condition" in f.name else 1) for f in fields(value)])
    if isinstance(value, WorkspaceSpec):
        return np.array([*value.low_m, *(-x for x in value.high_m), value.floor_m, -value.speed_m_s])
    return np.asarray(value, float) * (1 if name == "q_low_rad" else -1)


def _keeps_out(new: WorkspaceSpec, old: WorkspaceSpec) -> bool:
    """Whether every obstacle of the old workspace is one of the new."""
    table = old.table_m is None or (new.table_m is not None and new.table_m >= old.table_m)
    balls = set(old.keep_out_balls_m) <= set(new.keep_out_balls_m)
    return table and balls and set(old.keep_out_boxes_m) <= set(new.keep_out_boxes_m)

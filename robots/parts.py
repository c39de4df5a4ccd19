"""What a controller needs to know of its arm beyond the driver: where the tool is, joints for a pose, and the gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.limits import Limits
from latent_mpc.robots.robot import Array, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.safety import Gate, Verdict
from latent_mpc.robots.workspace import nearest_inside
from latent_mpc.types import WorkspaceSpec


class Pose(Protocol):
    """Of T in B, pointing down: (3,) in metres, and the yaw."""

    @property
    def position_m(self) -> Array: ...
    @property
    def yaw_rad(self) -> float: ...


class Judge(Protocol):
    """Judges `wanted`, given what it let pass the tick before, the reading, and the joints really sent last."""

    def __call__(
        self, wanted: Setpoint, last: Setpoint, state: RobotState, now_s: float, *, sent_rad: Array
    ) -> Verdict: ...


class Parts(NamedTuple):
    """The arm's geometry and its gate.

    Attributes:
        forward: joints (J,) -> pose of the tool.
        solve: joints to start from (J,), position (3,), yaw -> joints (J,). Raises LatentMPCError.
        gate: see `Judge`.
    """

    forward: Callable[[Array], Pose]
    solve: Callable[[Array, Array, float], Array]
    gate: Judge


def standard_parts(spec: RobotSpec, workspace: WorkspaceSpec) -> Parts:
    """Kinematics and gate of an arm by its model. Raises InvalidInputError where the model does not fit the spec."""
    kinematics = Kinematics(spec)

    def solve(q_rad: Array, position_m: Array, yaw_rad: float) -> Array:
        return kinematics.solve(q_rad, nearest_inside(workspace, position_m), yaw_rad)

    return Parts(kinematics.pose, solve, Gate(Limits.of(spec, workspace)).check)

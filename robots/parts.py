"""What a controller needs to know of its arm beyond the driver: where the tool is, joints for a pose, and the gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.limits import Limits
from latent_mpc.robots.robot import Array, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.safety import Gate, Verdict
from latent_mpc.robots.workspace import nearest_inside
from latent_mpc.types import InvalidInputError, WorkspaceSpec


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


def always(here_rad: Array, way_rad: Array) -> bool:
    """An arm with nothing around it."""
    return True


def untightened(workspace: WorkspaceSpec) -> Parts:
    """Of parts whose gate knows no workspace. Raises InvalidInputError."""
    raise InvalidInputError("this arm's gate has no workspace to tighten")


class Parts(NamedTuple):
    """The arm's geometry and its gate.

    Attributes:
        forward: joints (J,) -> pose of the tool.
        solve: joints to start from (J,), position (3,), yaw -> joints (J,). Raises LatentMPCError.
        gate: see `Judge`.
        clear: joints now (J,), and on a way (N, J) -> whether that way has room.
        tightened: a workspace inside the present one -> parts that keep to it. Takes a tick or two; raises
            InvalidInputError where it would allow more.
    """

    forward: Callable[[Array], Pose]
    solve: Callable[[Array, Array, float], Array]
    gate: Judge
    clear: Callable[[Array, Array], bool] = always
    tightened: Callable[[WorkspaceSpec], Parts] = untightened


def standard_parts(spec: RobotSpec, workspace: WorkspaceSpec) -> Parts:
    """Kinematics and gate of an arm by its model. Raises InvalidInputError where the model does not fit the spec."""
    return _parts(Kinematics(spec), Gate(Limits.of(spec, workspace)))


def _parts(kinematics: Kinematics, gate: Gate) -> Parts:
    workspace = gate.limits.workspace

    def solve(q_rad: Array, position_m: Array, yaw_rad: float) -> Array:
        return kinematics.solve(q_rad, nearest_inside(workspace, position_m), yaw_rad)

    def tightened(new: WorkspaceSpec) -> Parts:
        return _parts(kinematics, gate.tightened(workspace=new))

    return Parts(kinematics.pose, solve, gate.check, gate.clear, tightened)

"""Where the tool is for given joints, and joints for where the tool is to be.

    X_BT = fk(q),   δx = J(q) δq,   q ← q + argmin_δq ‖W (J δq − x_error)‖² + small pull to home,   |δq_i| ≤ STEP_RAD

The tool points down: X_BT's rotation is Rz(yaw) diag(1, −1, −1). An arm of fewer than six joints cannot have every
position with every rotation; there the rotation weighs much less than the position.
How near a singularity is: κ = σ_max / σ_min of J, its metres counted in units of the mean lever arm at home, so that
arms of any size compare.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mink
import mujoco
import numpy as np

from latent_mpc.robots.robot import Array, RobotSpec
from latent_mpc.types import InvalidInputError, WorkspaceSpec

STEP_RAD = 0.15  # of a joint in an iteration: far targets are approached, never jumped to
ROTATION_COST = 0.3  # of a radian, where a metre costs 1
FEW_JOINTS_ROTATION_COST = 0.01
POSTURE_COST = 1e-3
POSTURE_GAIN = 0.005  # share of the way to home that the redundancy goes in an iteration: 0.5 rad/s for 1 rad
DAMPING = 1e-6
SCENE = "workspace "  # begins the names of the geoms that a workspace adds to the model


class ToolPose(NamedTuple):
    """Of T in B: position (3,) in metres, yaw about B's z, and tilt away from pointing down, radians."""

    position_m: Array
    yaw_rad: float
    tilt_rad: float


class Kinematics:
    """Forward and inverse kinematics of an arm. Not for two threads at once: it computes in place.

    Attributes:
        spec: of the arm.
        model, data: the arm's, with the obstacles of a workspace if there is one; `data` holds the last joints asked
            for. Joints that the spec does not name, the gripper's, stand at the upper end of their range: open, but
            after `place`.
        lever_m: mean distance of the joints' axes from the tool at home.
    """

    def __init__(self, spec: RobotSpec, workspace: WorkspaceSpec | None = None) -> None:
        """Load the arm's MJCF.

        Raises:
            InvalidInputError: it cannot be read, or lacks a joint or the site of the tool.
        """
        self.spec = spec
        self.model = _load(spec, workspace)
        self.data = mujoco.MjData(self.model)
        joints = [self.model.joint(name) for name in spec.joint_names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._site = self.model.site(spec.tool_site).id
        self._open = self.model.qpos0.copy()
        limited = self.model.jnt_limited.astype(bool)
        self._closed = self._open.copy()
        self._open[self.model.jnt_qposadr[limited]] = self.model.jnt_range[limited, 1]
        self._closed[self.model.jnt_qposadr[limited]] = self.model.jnt_range[limited, 0]
        for joint, low, high in zip(joints, spec.q_low_rad, spec.q_high_rad, strict=True):
            self.model.jnt_limited[joint.id], self.model.jnt_range[joint.id] = 1, (low, high)
        self._low, self._high = np.array(spec.q_low_rad), np.array(spec.q_high_rad)
        self._jacobian = np.zeros((6, self.model.nv))
        self.lever_m = float(np.linalg.norm(self.jacobian(np.array(spec.home_rad))[:3], axis=0).mean())
        self._configuration = mink.Configuration(self.model)
        rotation = ROTATION_COST if spec.num_joints >= 6 else FEW_JOINTS_ROTATION_COST
        self._task = mink.FrameTask(spec.tool_site, "site", position_cost=1.0, orientation_cost=rotation)
        posture = mink.PostureTask(self.model, cost=POSTURE_COST, gain=POSTURE_GAIN)
        posture.set_target(self._full(np.array(spec.home_rad)))
        self._tasks = [self._task, posture]
        steps = dict.fromkeys(spec.joint_names, STEP_RAD)
        self._limits = [mink.ConfigurationLimit(self.model), mink.VelocityLimit(self.model, steps)]

    def pose(self, q_rad: Array) -> ToolPose:
        """Pose of the tool for joints (J,)."""
        self.place(q_rad, 1.0)
        return self.placed_pose()

    def place(self, q_rad: Array, opening: float) -> None:
        """Put `data` at joints (J,) with the gripper at an opening, 0 to 1."""
        self.data.qpos[:] = self._closed + opening * (self._open - self._closed)
        self.data.qpos[self._qpos] = q_rad
        mujoco.mj_kinematics(self.model, self.data)

    def placed_pose(self) -> ToolPose:
        """Pose of the tool for the last joints asked for."""
        R_BT = self.data.site_xmat[self._site].reshape(3, 3)
        yaw, tilt = math.atan2(R_BT[1, 0], R_BT[0, 0]), math.acos(min(1.0, max(-1.0, -R_BT[2, 2])))
        return ToolPose(self.data.site_xpos[self._site].copy(), yaw, tilt)

    def jacobian(self, q_rad: Array) -> Array:
        """J of the tool's velocity (m/s) and angular velocity (rad/s) in B by joint velocities, (6, J)."""
        self.place(q_rad, 1.0)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_jacSite(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian[:, self._dofs]

    def condition(self, q_rad: Array) -> float:
        """κ >= 1 at joints (J,), inf at a singularity."""
        scaled = self.jacobian(q_rad)
        scaled[:3] /= self.lever_m
        sigma = np.linalg.svd(scaled, compute_uv=False)
        return float(sigma[0] / sigma[-1]) if sigma[-1] > 0 else np.inf

    def solve(self, q_rad: Array, position_m: Array, yaw_rad: float, iterations: int = 2) -> Array:
        """Joints (J,), inside their range, nearer to a pose of the tool that points down, searched from `q_rad` (J,).

        Args:
            position_m, yaw_rad: of T in B, (3,).
            iterations: each takes half a millisecond and turns no joint by more than STEP_RAD.
        Raises:
            InvalidInputError: NaN or inf, or no step was found.
        """
        if not (np.isfinite(position_m).all() and np.isfinite(yaw_rad) and np.isfinite(q_rad).all()):
            raise InvalidInputError(
                f"{self.spec.name}: joints {q_rad}, position {position_m}, yaw {yaw_rad}: not finite"
            )
        c, s = np.cos(yaw_rad), np.sin(yaw_rad)
        X_BT = np.eye(4)
        X_BT[:3, :3] = [[c, s, 0], [s, -c, 0], [0, 0, -1]]
        X_BT[:3, 3] = position_m
        self._task.set_target(mink.SE3.from_matrix(X_BT))
        self._configuration.update(self._full(np.clip(q_rad, self._low, self._high)))
        for _ in range(iterations):
            try:
                velocity = mink.solve_ik(
                    self._configuration, self._tasks, dt=1.0, solver="daqp", damping=DAMPING, limits=self._limits
                )
            except mink.NoSolutionFound as error:
                raise InvalidInputError(f"{self.spec.name}: no step towards {position_m}, yaw {yaw_rad}") from error
            self._configuration.integrate_inplace(velocity, 1.0)
        return np.clip(self._configuration.q[self._qpos], self._low, self._high)

    def _full(self, q_rad: Array) -> Array:
        """All of the model's joints: (J,) -> (nq,)."""
        q = self._open.copy()
        q[self._qpos] = q_rad
        return q


def _load(spec: RobotSpec, workspace: WorkspaceSpec | None) -> mujoco.MjModel:
    try:
        editable = mujoco.MjSpec.from_file(str(spec.mjcf))
    except (ValueError, OSError) as error:
        raise InvalidInputError(f"{spec.name}: cannot read the model {spec.mjcf}: {error}") from error
    hinges = [joint.name for joint in editable.joints if joint.type == mujoco.mjtJoint.mjJNT_HINGE]
    missing = [name for name in spec.joint_names if name not in hinges]
    if missing:
        raise InvalidInputError(f"{spec.name}: {spec.mjcf.name} lacks the hinges {missing}; it has {hinges}")
    sites = [site.name for site in editable.sites]
    if spec.tool_site not in sites:
        raise InvalidInputError(f"{spec.name}: {spec.mjcf.name} lacks the site {spec.tool_site!r}; it has {sites}")
    add = editable.worldbody.add_geom
    if workspace is not None and workspace.table_m is not None:
        add(name=f"{SCENE}table", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=(0, 0, workspace.table_m), size=(3, 3, 0.1))
    for i, (x, y, z, radius) in enumerate(workspace.keep_out_balls_m if workspace else ()):
        add(name=f"{SCENE}ball {i}", type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=(x, y, z), size=(radius, 0, 0))
    for i, box in enumerate(workspace.keep_out_boxes_m if workspace else ()):
        low, high = np.array(box[:3]), np.array(box[3:])
        add(name=f"{SCENE}box {i}", type=mujoco.mjtGeom.mjGEOM_BOX, pos=(low + high) / 2, size=(high - low) / 2)
    return editable.compile()

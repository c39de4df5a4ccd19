"""The 3D picture of a live page: the arm, where its tool may go, and where the planner sends it. Frame B, metres.

    X_Bbody = fk(q) for each body of the MJCF;    its geoms are drawn once, as children of the body, and never again

So a picture costs one pose a body, whatever the geometry weighs.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.channels import MAX_WAYPOINTS
from latent_mpc.robots.robot import Array, RobotSpec
from latent_mpc.types import WorkspaceSpec

VISIBLE_GROUPS = 3  # MuJoCo's own viewers, too, hide geoms of group 3 and up: those are for collisions
EDGE, PATH, FORBIDDEN, TABLE = (130, 140, 155), (255, 120, 0), (220, 60, 50), (205, 196, 182)
TABLE_MARGIN_M, TABLE_THICKNESS_M = 0.12, 0.02
MOVED = 5e-4  # of a radian, or of the gripper's opening: less is not worth a picture
BELOW_M = 10.0  # where an empty path is kept, out of sight


class ArmScene:
    """An arm in its workspace, in a viser scene. For one thread."""

    def __init__(self, scene: Any, spec: RobotSpec, workspace: WorkspaceSpec) -> None:
        """
        Args:
            scene: viser's `SceneApi`.
        Raises:
            InvalidInputError: the MJCF cannot be read, or lacks a joint.
        """
        self.spec = spec
        self._model = mujoco.MjModel.from_xml_path(str(spec.mjcf))
        self._data = mujoco.MjData(self._model)
        self._joints = np.array([self._model.joint(name).qposadr[0] for name in spec.joint_names])
        named = set(self._joints.tolist())
        fingers = [j for j in range(self._model.njnt) if self._model.jnt_qposadr[j] not in named]
        fingers = [j for j in fingers if self._model.jnt_limited[j]]
        self._fingers, self._finger_range = self._model.jnt_qposadr[fingers], self._model.jnt_range[fingers]
        self._bodies = [
            scene.add_frame(f"/arm/{self._model.body(i).name or i}", show_axes=False) for i in range(self._model.nbody)
        ]
        for i in range(self._model.ngeom):
            self._add_geom(scene, i)
        _add_workspace(scene, workspace)
        scene.configure_default_lights(cast_shadow=False)  # half the browser's work where there is no graphics card
        path = np.full((MAX_WAYPOINTS - 1, 2, 3), -BELOW_M, np.float32)
        self._path = scene.add_line_segments("/plan", path, PATH, thickness=4.0, thickness_units="screen")
        self._shown = np.full(spec.num_joints + 1, np.inf)
        self.show_arm(np.array(spec.home_rad), 1.0)

    def show_arm(self, q_rad: Array, gripper: float) -> None:
        """Joints (J,), and the gripper's opening, 0 to 1; a reading that is not finite is not drawn."""
        wanted = np.append(q_rad, gripper)
        if not np.isfinite(wanted).all() or np.abs(wanted - self._shown).max() < MOVED:
            return
        self._shown = wanted
        self._data.qpos[self._joints] = q_rad
        low, high = self._finger_range.T
        self._data.qpos[self._fingers] = low + np.clip(gripper, 0.0, 1.0) * (high - low)
        mujoco.mj_kinematics(self._model, self._data)
        for body, position_m, wxyz in zip(self._bodies, self._data.xpos, self._data.xquat, strict=True):
            body.position, body.wxyz = position_m, wxyz

    def show_path(self, position_m: Array) -> None:
        """The tool's way, (N, 3), N up to MAX_WAYPOINTS; under 2 points there is none."""
        points = np.full((MAX_WAYPOINTS, 3), -BELOW_M)
        if len(position_m) > 1 and np.isfinite(position_m).all():
            points[: len(position_m)], points[len(position_m) :] = position_m, position_m[-1]
        self._path.points = np.stack([points[:-1], points[1:]], axis=1).astype(np.float32)  # (MAX_WAYPOINTS - 1, 2, 3)

    def _add_geom(self, scene: Any, i: int) -> None:
        m = self._model
        if m.geom_group[i] >= VISIBLE_GROUPS or (surface := _surface(m, i)) is None:
            return
        (vertices, faces), boxy = surface, m.geom_type[i] == mujoco.mjtGeom.mjGEOM_BOX
        scene.add_mesh_simple(
            f"{self._bodies[m.geom_bodyid[i]].name}/{i}",
            vertices.astype(np.float32),
            faces.astype(np.uint32),
            color=tuple(int(255 * c) for c in m.geom_rgba[i, :3]),
            flat_shading=boxy,
            position=m.geom_pos[i],
            wxyz=m.geom_quat[i],
        )


def _surface(model: mujoco.MjModel, i: int) -> tuple[Array, NDArray[np.integer]] | None:
    """Vertices (V, 3) and triangles (F, 3) of a geom in its own frame; None for a plane or a height field."""
    (a, b, c), kind = model.geom_size[i], model.geom_type[i]
    bow = np.linspace(-np.pi / 2, np.pi / 2, 17)
    r, z = np.cos(bow), np.sin(bow)  # the unit sphere's outline
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        k = model.geom_dataid[i]
        vertices = model.mesh_vert[model.mesh_vertadr[k] :][: model.mesh_vertnum[k]]
        return vertices, model.mesh_face[model.mesh_faceadr[k] :][: model.mesh_facenum[k]]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        vertices, faces = _revolved(np.array([0, 1, 1, 1, 1, 0]), np.array([-1, -1, -1, 1, 1, 1]), 4)
        return vertices * (np.sqrt(2) * a, np.sqrt(2) * b, c), faces
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return _revolved(np.array([0, a, a, a, a, 0]), np.array([-b, -b, -b, b, b, b]))
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return _revolved(a * np.insert(r, 8, 1), np.insert(a * z, 8, 0) + np.repeat([-b, b], 9))
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return _revolved(a * r, a * z)
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        vertices, faces = _revolved(r, z)
        return vertices * (a, b, c), faces
    return None


def _revolved(r: Array, z: Array, sections: int = 24) -> tuple[Array, NDArray[np.integer]]:
    """The surface that the outline (r, z), from bottom to top, draws as it turns about z; a point twice is an edge."""
    turn = np.pi / sections + 2 * np.pi * np.arange(sections) / sections
    vertices = np.stack(np.broadcast_arrays(np.outer(r, np.cos(turn)), np.outer(r, np.sin(turn)), z[:, None]), axis=2)
    ring, next_on = np.arange(sections), (np.arange(sections) + 1) % sections
    quads = np.stack([ring, next_on, next_on + sections, ring + sections], axis=1)  # between two rings, anticlockwise
    quads = (quads + sections * np.arange(len(r) - 1)[:, None, None]).reshape(-1, 4)
    return vertices.reshape(-1, 3), np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _add_workspace(scene: Any, workspace: WorkspaceSpec) -> None:
    """The table, the box of the tool's point, and what nothing may enter."""
    low, high = np.array(workspace.low_m), np.array(workspace.high_m)
    if (height := workspace.table_m) is not None:
        near, far = np.minimum(low, 0.0) - TABLE_MARGIN_M, high + TABLE_MARGIN_M
        center = [*((near + far) / 2)[:2], height - TABLE_THICKNESS_M / 2]
        size = (*(far - near)[:2].tolist(), TABLE_THICKNESS_M)
        scene.add_box("/table", color=TABLE, dimensions=size, position=center, cast_shadow=False)
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, 8).T  # (8, 3)
    edges = [(a, b) for a in range(8) for b in range(a) if (a ^ b).bit_count() == 1]  # one coordinate apart
    scene.add_line_segments("/workspace", corners[edges], EDGE, thickness=1.5, thickness_units="screen")
    for i, (*center, radius) in enumerate(workspace.keep_out_balls_m):
        scene.add_icosphere(f"/keep_out/ball{i}", radius, color=FORBIDDEN, opacity=0.35, position=center)
    for i, box in enumerate(workspace.keep_out_boxes_m):
        a, b = np.array(box[:3]), np.array(box[3:])
        scene.add_box(
            f"/keep_out/box{i}",
            color=FORBIDDEN,
            dimensions=tuple((b - a).tolist()),
            opacity=0.35,
            position=(a + b) / 2,
        )

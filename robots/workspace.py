"""How much room an arm has: every way in which it can come too near to something, as a number that shrinks.

    h(q) = [distances of the arm's parts to each other, to the table and to the keep-outs;
            depth of the tool's point below each face of its box; −κ(q)]

Each h_i has a value `stop` that it must not fall below, and a value `slow` from which on it may shrink only slower and
slower: by pace · (h − stop) / (slow − stop) a second. Parts of one link, of neighbours in the chain, and of pairs that
the model's `<contact><exclude>` names are not compared; nor are bodies that touch in every pose, as primitives around a
short link do. The part of the arm behind the tool's site, hand and fingers, may come nearer to the scene: it has to
grasp. Fingers have their least distance at any of OPENINGS, since they may open and close on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.kinematics import SCENE, Kinematics
from latent_mpc.robots.robot import Array, RobotSpec
from latent_mpc.types import InvalidInputError, WorkspaceSpec

FACES = ("x low", "y low", "z low", "x high", "y high", "z high")
MESH, PLANE, SLIDE = mujoco.mjtGeom.mjGEOM_MESH, mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtJoint.mjJNT_SLIDE
CONDITION_S = 0.1  # from where κ slows to where it stops, at the pace of the beginning
MOST_A_TICK = 0.5  # of the way from `slow` to `stop`, whatever the pace
RECENT = 8  # joints whose h is kept: a tick asks for some of the last one again
OPENINGS = (0.0, 1 / 3, 2 / 3)  # beside 1; a finger is thicker than what lies between two
POSES = 64  # tried before bodies count as always touching


@dataclass(frozen=True)
class Distances:
    """Where to slow down, and where to stop.

    Attributes:
        arm_slow_m, arm_stop_m: of parts of the arm to each other and to the scene.
        tool_slow_m, tool_stop_m: of hand and fingers to the scene.
        box_slow_m: of the tool's point to the faces of its box, inside; it stops at the face.
        condition_slow, condition_stop: of κ.
    """

    arm_slow_m: float = 0.03
    arm_stop_m: float = 0.01
    tool_slow_m: float = 0.02
    tool_stop_m: float = 0.002
    box_slow_m: float = 0.02
    condition_slow: float = 10.0
    condition_stop: float = 30.0

    def __post_init__(self) -> None:
        near = (self.arm_stop_m, self.tool_stop_m, 0.0, -self.condition_stop)
        far = (self.arm_slow_m, self.tool_slow_m, self.box_slow_m, -self.condition_slow)
        if not all(a < b for a, b in zip(near, far, strict=True)) or not np.isfinite([*near, *far]).all():
            raise InvalidInputError(f"slowing down must begin before the stop, finite, got {self}")
        if min(self.arm_stop_m, self.tool_stop_m) < 0 or self.condition_slow < 1:
            raise InvalidInputError(f"distances must be at least 0, condition numbers at least 1, got {self}")


class _Pairs(NamedTuple):
    """Geoms to measure between: their entries in h, (P,), the geoms, the sum of their bounding radii, and whether the
    first is a plane."""

    entry: NDArray[np.intp]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    radius: Array
    plane: NDArray[np.bool_]

    @classmethod
    def of(cls, model: mujoco.MjModel, pairs: dict[int, tuple[int, int]]) -> _Pairs:
        first, second = np.array([*pairs.values()], np.intp).reshape(-1, 2).T
        radius = model.geom_rbound[first] + model.geom_rbound[second]
        return cls(np.array([*pairs], np.intp), first, second, radius, model.geom_type[first] == PLANE)


class Room:
    """h(q) of an arm in a workspace.

    Attributes:
        labels: what each entry of h measures, for messages.
        stop, slow: (K,). pace: how fast h may shrink at `slow`, (K,), 1/s: the tool's top speed; κ in CONDITION_S.
        lever_m: what no point of the arm is further from a joint's axis than, whatever the pose, (J,).
    """

    def __init__(self, spec: RobotSpec, workspace: WorkspaceSpec, distances: Distances) -> None:
        """Load the model and choose the pairs.

        Raises:
            InvalidInputError: the model lacks what the spec names, or the arm at home touches itself.
        """
        self.kinematics = Kinematics(spec, workspace)
        self._workspace = workspace
        model = self.kinematics.model
        pairs = _pairs(self.kinematics, distances.arm_stop_m)
        tool = _tool_geoms(spec, model)
        gentle = np.array([b in tool and model.geom(a).name.startswith(SCENE) for a, b in pairs], bool)
        d, faces = distances, np.ones(6)
        self.stop = np.concatenate([np.where(gentle, d.tool_stop_m, d.arm_stop_m), 0 * faces, [-d.condition_stop]])
        slow = np.where(gentle, d.tool_slow_m, d.arm_slow_m)
        self.slow = np.concatenate([slow, d.box_slow_m * faces, [-d.condition_slow]])
        self.pace = np.full(len(self.slow), workspace.speed_m_s)
        self.pace[-1] = (d.condition_stop - d.condition_slow) / CONDITION_S
        self.pace = np.minimum(self.pace, MOST_A_TICK * (self.slow - self.stop) * spec.control_hz)
        self.labels = (
            *(f"collision: {_name(model, a)} to {_name(model, b)}" for a, b in pairs),
            *(f"box: tool to {face}" for face in FACES),
            "singularity: minus condition number",
        )
        self._reach = 2 * max(d.arm_slow_m, d.tool_slow_m)  # distances beyond it count as it
        self.lever_m = _levers_m(spec, model)
        self._recent: dict[bytes, tuple[Array, Array]] = {}
        fingers = _finger_geoms(spec, model)
        self._all = _Pairs.of(model, dict(enumerate(pairs)))
        self._fingers = _Pairs.of(model, {k: pair for k, pair in enumerate(pairs) if fingers & set(pair)})

    def __call__(self, q_rad: Array) -> tuple[Array, Array]:
        """h (K,) and the tool's position (3,) at joints (J,); distances are cut at twice the larger `slow`."""
        if (key := q_rad.tobytes()) in self._recent:
            return self._recent[key]
        condition = self.kinematics.condition(q_rad)
        position = self.kinematics.placed_pose().position_m
        distance = np.full(len(self._all.entry), self._reach)
        self._measure(distance, self._all)
        for opening in OPENINGS:
            self.kinematics.place(q_rad, opening)
            self._measure(distance, self._fingers)
        low = (*self._workspace.low_m[:2], self._workspace.floor_m)
        faces = np.concatenate([position - low, self._workspace.high_m - position])
        if len(self._recent) == RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[key] = found = np.concatenate([distance, faces, [-condition]]), position
        return found

    def least_on(self, way_rad: Array) -> Array:
        """What no h falls below on a way (N, J), (K,), by how far the arm can get from the way's first place.

        κ has no such bound; it is taken at both ends.
        """
        found, _ = self(way_rad[0])
        travel_m = float((np.abs(way_rad - way_rad[0]) @ self.lever_m).max())
        return np.append(found[:-1] - travel_m, min(found[-1], -self.kinematics.condition(way_rad[-1])))

    def _measure(self, distance: Array, pairs: _Pairs) -> None:
        """Lower each entry of `distance` (P,) that is of `pairs` to what it is now."""
        model, data = self.kinematics.model, self.kinematics.data
        apart = data.geom_xpos[pairs.second] - data.geom_xpos[pairs.first]
        gap = np.where(pairs.plane, apart[:, 2], np.sqrt((apart**2).sum(1))) - pairs.radius
        for k in np.flatnonzero(gap < self._reach):
            a, b = int(pairs.first[k]), int(pairs.second[k])
            found, entry = mujoco.mj_geomDistance(model, data, a, b, self._reach, None), pairs.entry[k]
            distance[entry] = min(distance[entry], found)


def nearest_inside(workspace: WorkspaceSpec, position_m: Array, inset_m: float = 0.001) -> Array:
    """The place in the tool's box, `inset_m` from its faces at least, that is nearest to a position (3,).

    A gate shortens a step as a whole, so it would stop a tool that slides along a face with the face's own noise.
    Targets taken through this slide.
    """
    low = np.array((*workspace.low_m[:2], workspace.floor_m)) + inset_m
    return np.clip(position_m, low, np.maximum(low, np.array(workspace.high_m) - inset_m))


def _pairs(arm: Kinematics, touching_m: float) -> list[tuple[int, int]]:
    """Geoms (a, b) to keep apart, obstacles first."""
    spec, model, data = arm.spec, arm.model, arm.data
    link, before = _links(spec, model)
    geoms = [g for g in range(model.ngeom) if model.geom_type[g] != MESH or model.geom_contype[g]]  # else for the eye
    scene = [g for g in geoms if model.geom(g).name.startswith(SCENE)]
    parts = [g for g in geoms if g not in scene]
    # The first link turns above the table as it stands; what it is bolted to does not move.
    pairs = [(a, b) for a in scene for b in parts if link[b] and (before[link[b]] or not _is_plane(model, a))]
    chosen: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by bodies
    for a, b in combinations(parts, 2):
        p, q = sorted((link[a], link[b]))
        if p != q and before[q] != p and not _excluded(model, a, b):
            chosen.setdefault((int(model.geom_bodyid[a]), int(model.geom_bodyid[b])), []).append((a, b))
    for candidates in chosen.values():
        arm.pose(np.array(spec.home_rad))
        distance, (a, b) = _nearest(model, data, candidates)
        if distance < touching_m:
            if _always_touch(arm, candidates, touching_m):
                continue
            raise InvalidInputError(
                f"{spec.name}: at home {_name(model, a)} and {_name(model, b)} are {distance:.3f} m apart, less than "
                f"{touching_m} m; choose another home, or name the pair in <contact><exclude> of {spec.mjcf.name}"
            )
        pairs += candidates
    return pairs


def _nearest(model: mujoco.MjModel, data: mujoco.MjData, pairs: list[tuple[int, int]]) -> tuple[float, tuple[int, int]]:
    return min((mujoco.mj_geomDistance(model, data, *pair, 1.0, None), pair) for pair in pairs)


def _always_touch(arm: Kinematics, pairs: list[tuple[int, int]], touching_m: float) -> bool:
    """Whether bodies are too near in every one of POSES random poses: then no motion makes it better or worse."""
    rng = np.random.default_rng(0)
    for _ in range(POSES):
        arm.pose(rng.uniform(arm.spec.q_low_rad, arm.spec.q_high_rad))
        if _nearest(arm.model, arm.data, pairs)[0] >= touching_m:
            return False
    return True


def _links(spec: RobotSpec, model: mujoco.MjModel) -> tuple[dict[int, int], dict[int, int]]:
    """Link of each geom, called after the body behind its joint, 0 the base; and the link before each link."""
    driven = {int(model.joint(name).bodyid[0]) for name in spec.joint_names}
    of_body = [0]
    for body in range(1, model.nbody):
        of_body.append(body if body in driven else of_body[model.body_parentid[body]])
    before = {0: 0} | {body: of_body[model.body_parentid[body]] for body in driven}
    return {g: of_body[model.geom_bodyid[g]] for g in range(model.ngeom)}, before


def _excluded(model: mujoco.MjModel, a: int, b: int) -> bool:
    p, q = sorted((int(model.geom_bodyid[a]), int(model.geom_bodyid[b])))
    return bool(np.isin(((p << 16) + q, (q << 16) + p), model.exclude_signature).any())


def _tool_geoms(spec: RobotSpec, model: mujoco.MjModel) -> set[int]:
    """Geoms of the body that holds the tool's site, and of all behind it."""
    tool = {int(model.site(spec.tool_site).bodyid[0])}
    for body in range(1, model.nbody):
        if model.body_parentid[body] in tool:
            tool.add(body)
    return {g for g in range(model.ngeom) if model.geom_bodyid[g] in tool}


def _finger_geoms(spec: RobotSpec, model: mujoco.MjModel) -> set[int]:
    """Geoms that joints move which the spec does not name: the gripper's."""
    moved: set[int] = set()
    for body in range(1, model.nbody):
        joints = range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body])
        if model.body_parentid[body] in moved or any(model.joint(j).name not in spec.joint_names for j in joints):
            moved.add(body)
    return {g for g in range(model.ngeom) if model.geom_bodyid[g] in moved}


def _levers_m(spec: RobotSpec, model: mujoco.MjModel) -> Array:
    """For each of the arm's joints, the lengths of all that hangs on it, stretched out."""

    def stretched_m(body: int) -> float:
        geoms = range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body])
        own = [float(np.linalg.norm(model.geom_pos[g]) + model.geom_rbound[g]) for g in geoms]
        own += [float(np.linalg.norm(model.site_pos[s])) for s in np.flatnonzero(model.site_bodyid == body)]
        children = [b for b in range(1, model.nbody) if model.body_parentid[b] == body]
        return max(
            [0.0, *own, *(float(np.linalg.norm(model.body_pos[b])) + slid_m(b) + stretched_m(b) for b in children)]
        )

    def slid_m(body: int) -> float:
        joints = range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body])
        return sum(float(np.abs(model.jnt_range[j]).max()) for j in joints if model.jnt_type[j] == SLIDE)

    joints = [model.joint(name).id for name in spec.joint_names]
    return np.array([stretched_m(model.jnt_bodyid[j]) + float(np.linalg.norm(model.jnt_pos[j])) for j in joints])


def _is_plane(model: mujoco.MjModel, geom: int) -> bool:
    return bool(model.geom_type[geom] == PLANE)


def _name(model: mujoco.MjModel, geom: int) -> str:
    """Of the obstacle, or of the body that the geom belongs to."""
    name = model.geom(geom).name
    return name.removeprefix(SCENE) if name.startswith(SCENE) else model.body(model.geom_bodyid[geom]).name

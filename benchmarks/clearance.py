"""How near the Panda truly is to itself and to the scene, measured in another way than the gate does.

The gate asks for distances of chosen pairs. Here every geom is made to collide, and MuJoCo's own contacts tell how far
apart they are, from REACH_M on.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import WorkspaceSpec

PANDA_XML = Path(__file__).parents[1] / "envs/panda.xml"
REACH_M = 0.06
CHAIN = [*(f"link{i}" for i in range(8))]
TOOL = ("hand", "left_finger", "right_finger")


class Clearance:
    """Of the Panda in a workspace; its table is a box here."""

    def __init__(self, workspace: WorkspaceSpec) -> None:
        spec = mujoco.MjSpec.from_file(str(PANDA_XML))
        add = spec.worldbody.add_geom
        if workspace.table_m is not None:
            pos = (0, 0, workspace.table_m - 0.5)
            add(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=(2, 2, 0.5))
        for i, (*centre, radius) in enumerate(workspace.keep_out_balls_m):
            add(name=f"ball {i}", type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=centre, size=(radius, 0, 0))
        for i, corners in enumerate(workspace.keep_out_boxes_m):
            low, high = np.array(corners[:3]), np.array(corners[3:])
            add(name=f"box {i}", type=mujoco.mjtGeom.mjGEOM_BOX, pos=(low + high) / 2, size=(high - low) / 2)
        for geom in spec.geoms:
            geom.contype, geom.conaffinity, geom.margin = 1, 1, REACH_M
        self._model = spec.compile()
        self._model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_FILTERPARENT)
        self._data = mujoco.MjData(self._model)
        count = range(self._model.ngeom)
        self._kind = np.array([[self._kind_of(a, b) for b in count] for a in count])

    def _kind_of(self, a: int, b: int) -> int:
        """0: arm to itself or to the scene, 1: tool to the scene, 2: may touch."""
        model = self._model
        names = [model.body(model.geom_bodyid[g]).name for g in (a, b)]
        obstacles = [model.geom(g).name for g in (a, b) if model.geom(g).name and not model.geom_bodyid[g]]
        links = [7 if name in TOOL else CHAIN.index(name) for name in names if name != "world"]
        if obstacles:
            fixed = not links or links[0] == 0 or (links[0] == 1 and obstacles == ["table"])
            return 2 if fixed else int(bool(set(names) & set(TOOL)))
        near = abs(links[0] - links[1]) < 2 or set(names) in ({"link0", "link2"}, {"link5", "link7"})
        return 2 if near else 0

    def __call__(self, q_rad: NDArray[np.float64], finger_m: float = 0.04) -> NDArray[np.float64]:
        """Smallest distances at joints (7,): of the arm, and of the tool to the scene, (2,), at most REACH_M."""
        model, data = self._model, self._data
        data.qpos[:7], data.qpos[7:] = q_rad, finger_m
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        kinds, distances = self._kind[tuple(data.contact.geom.T)], data.contact.dist
        return np.array([distances[kinds == kind].min(initial=REACH_M) for kind in (0, 1)])

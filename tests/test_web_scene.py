"""Tests of latent_mpc.web_scene: what is drawn is where MuJoCo and the kinematics say that it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from latent_mpc.robots.channels import MAX_WAYPOINTS
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.panda import panda
from latent_mpc.robots.so101 import so101
from latent_mpc.types import WorkspaceSpec
from latent_mpc.web_scene import ArmScene, _surface

PANDA = panda(Path(__file__).parents[1] / "envs/panda.xml")
SHAPES = """<mujoco><asset><mesh name="wedge" vertex="0 0 0  1 0 0  0 2 0  0 0 3  1 2 0"/></asset><worldbody>
  <geom type="box" size=".1 .2 .3"/><geom type="sphere" size=".2"/><geom type="capsule" size=".1 .3"/>
  <geom type="cylinder" size=".1 .3"/><geom type="ellipsoid" size=".1 .2 .3"/><geom type="mesh" mesh="wedge"/>
  <geom type="plane" size="1 1 1"/></worldbody></mujoco>"""


class Scene:
    """Remembers what is added to it, as viser's `SceneApi` would take it."""

    def __init__(self) -> None:
        self.nodes: dict[str, SimpleNamespace] = {}

    def __getattr__(self, method: str) -> Any:
        def add(name: str = "", *values: Any, **properties: Any) -> SimpleNamespace:
            self.nodes[name] = SimpleNamespace(name=name, kind=method, values=values, **properties)
            return self.nodes[name]

        return add


@pytest.fixture
def workspace() -> WorkspaceSpec:
    return WorkspaceSpec((0.3, -0.3, 0.0), (0.7, 0.3, 0.4), keep_out_balls_m=((0.5, 0.0, 0.1, 0.05),))


@pytest.mark.parametrize("i", range(6))
def test_a_surface_is_closed_turned_outwards_and_as_large_as_mujoco_says(i: int) -> None:
    model = mujoco.MjModel.from_xml_string(SHAPES)
    surface = _surface(model, i)
    assert surface is not None
    vertices, faces = surface
    center, half = model.geom_aabb[i, :3], model.geom_aabb[i, 3:]
    slack = 0.01 * half.max()  # of the polygon inside the circle
    np.testing.assert_allclose(vertices.max(0), center + half, atol=slack)
    np.testing.assert_allclose(vertices.min(0), center - half, atol=slack)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    volume = np.einsum("fi,fi->", a, np.cross(b, c)) / 6  # by the divergence theorem, if closed and turned outwards
    kinds = {0: 8 * 0.006, 1: 4 / 3 * np.pi * 0.008, 2: np.pi * 0.01 * 0.6 + 4 / 3 * np.pi * 0.001}
    kinds |= {3: np.pi * 0.01 * 0.6, 4: 4 / 3 * np.pi * 0.006}
    hull = 2.0  # pyramid over 1 x 2, 3 high
    np.testing.assert_allclose(volume, kinds.get(i, hull), rtol=0.03)


def test_a_plane_is_not_drawn() -> None:
    assert _surface(mujoco.MjModel.from_xml_string(SHAPES), 6) is None


@pytest.mark.parametrize(("spec", "body"), [(PANDA, "hand"), (so101(), "gripper")])
def test_the_drawn_tool_is_where_the_kinematics_say(spec: Any, body: str, workspace: WorkspaceSpec) -> None:
    scene = Scene()
    arm = ArmScene(scene, spec, workspace)
    meshes = [node for node in scene.nodes.values() if node.kind == "add_mesh_simple"]
    assert len(meshes) > 10
    q_rad = np.array(spec.home_rad) + 0.1
    arm.show_arm(q_rad, 0.5)
    kinematics = Kinematics(spec)
    wanted = kinematics.pose(q_rad).position_m
    site = kinematics.model.site(spec.tool_site)
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.asarray(scene.nodes[f"/arm/{body}"].wxyz))
    drawn = scene.nodes[f"/arm/{body}"].position + rotation.reshape(3, 3) @ site.pos
    np.testing.assert_allclose(drawn, wanted, atol=1e-9)


def test_the_fingers_open_and_nan_is_not_drawn(workspace: WorkspaceSpec) -> None:
    scene = Scene()
    arm = ArmScene(scene, PANDA, workspace)
    left, right = scene.nodes["/arm/left_finger"], scene.nodes["/arm/right_finger"]
    for opening in (0.0, 0.25, 1.0):
        arm.show_arm(np.array(PANDA.home_rad), opening)
        apart = np.linalg.norm(np.asarray(left.position) - np.asarray(right.position))
        assert apart == pytest.approx(opening * PANDA.gripper_width_m, abs=1e-9)
    arm.show_arm(np.full(7, np.nan), 0.0)
    assert np.isfinite(left.position).all()


def test_the_path_goes_through_the_waypoints_and_is_of_one_size(workspace: WorkspaceSpec) -> None:
    scene = Scene()
    arm = ArmScene(scene, PANDA, workspace)
    waypoints = np.random.default_rng(0).uniform(size=(5, 3))
    arm.show_path(waypoints)
    points = scene.nodes["/plan"].points
    assert points.shape == (MAX_WAYPOINTS - 1, 2, 3)
    np.testing.assert_allclose(points[:4, 0], waypoints[:4], atol=1e-6)
    np.testing.assert_allclose(points[:4, 1], waypoints[1:], atol=1e-6)
    assert (points[4:, 0] == points[4:, 1]).all()
    arm.show_path(waypoints[:0])
    assert (scene.nodes["/plan"].points < -1).all()


def test_the_workspace_is_a_box_of_twelve_edges(workspace: WorkspaceSpec) -> None:
    scene = Scene()
    ArmScene(scene, PANDA, workspace)
    (edges, _) = scene.nodes["/workspace"].values
    assert edges.shape == (12, 2, 3)
    lengths = np.sort(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1))
    np.testing.assert_allclose(lengths, [0.4] * 8 + [0.6] * 4)
    assert scene.nodes["/keep_out/ball0"].position == [0.5, 0.0, 0.1]
    table = scene.nodes["/table"]
    assert table.position[2] + table.dimensions[2] / 2 == pytest.approx(0.0)

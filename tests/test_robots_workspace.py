"""Room in a workspace: distances worked out by hand, and which pairs are compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.panda import panda
from latent_mpc.robots.so101 import so101
from latent_mpc.robots.ur5e import ur5e
from latent_mpc.robots.workspace import Distances, Room, nearest_inside
from latent_mpc.types import InvalidInputError, WorkspaceSpec

XML = Path(__file__).parents[1] / "envs/panda.xml"
PANDA = panda(XML)
HOME = np.array(PANDA.home_rad)
PAD_M = 0.0584 + 0.044 + 0.0115 - 0.1034  # the pads' end beyond the tool's point
WORKSPACE = WorkspaceSpec(
    (0.2, -0.5, -0.1),
    (0.7, 0.5, 0.6),
    table_m=0.02,
    keep_out_balls_m=((0.5, 0.0, 0.0, 0.03),),
    keep_out_boxes_m=((0.45, -0.3, 0.0, 0.55, -0.15, 0.5),),
)


def named(room, h, *words):
    return [x for label, x in zip(room.labels, h, strict=True) if all(word in label for word in words)]


def pose_down(position):
    arm, q = Kinematics(PANDA), HOME
    q = arm.solve(q, np.array(position), 0.0, 20)
    np.testing.assert_allclose(arm.pose(q).position_m, position, atol=1e-5)
    return q


def test_distances_are_those_of_the_geometry():
    room = Room(PANDA, WORKSPACE, Distances())
    h, position = room(pose_down((0.5, 0.0, 0.06)))
    np.testing.assert_allclose(position, (0.5, 0.0, 0.06), atol=1e-5)
    pad = 0.06 - PAD_M
    assert min(named(room, h, "table", "finger")) == pytest.approx(pad - 0.02, abs=1e-5)
    # Open fingers are 4 cm to the sides of the ball; but they may close, and are above its top then.
    assert min(named(room, h, "ball 0", "finger")) == pytest.approx(pad - 0.03, abs=1e-5)
    assert min(named(room, h, "box 0", "hand")) == pytest.approx(0.15 - 0.1, abs=1e-5)
    faces = [0.3, 0.5, 0.04, 0.2, 0.5, 0.54]  # the table is higher than the box
    np.testing.assert_allclose(h[-7:-1], faces, atol=1e-5)
    assert h[-1] == -room.kinematics.condition(pose_down((0.5, 0.0, 0.06)))


def test_the_tool_may_come_nearer_to_the_scene_than_the_arm():
    room, d = Room(PANDA, WORKSPACE, Distances()), Distances()
    for label, stop, slow in zip(room.labels[:-7], room.stop, room.slow, strict=False):
        tool = any(word in label for word in ("hand", "finger"))
        scene = any(word in label for word in ("table", "ball", "box"))
        expected = (d.tool_stop_m, d.tool_slow_m) if tool and scene else (d.arm_stop_m, d.arm_slow_m)
        assert (stop, slow) == expected, label
    np.testing.assert_array_equal(room.stop[-7:], [0] * 6 + [-30])


def test_pairs_that_can_meet_are_compared_and_neighbours_are_not():
    room = Room(PANDA, WORKSPACE, Distances())
    labels = set(room.labels)
    assert {"collision: link5 to hand", "collision: link0 to link5", "collision: table to link3"} <= labels
    assert {"collision: ball 0 to link1", "collision: box 0 to left_finger"} <= labels
    for pair in ("link1 to link2", "link6 to hand", "left_finger to right_finger", "table to link1", "link0 to link2"):
        assert f"collision: {pair}" not in labels
    assert not [label for label in labels if label.startswith("collision: table to link0")]


def test_pairs_that_the_model_excludes_are_not_compared(tmp_path):
    xml = tmp_path / "panda.xml"
    exclude = '<contact><exclude body1="link5" body2="hand"/><exclude body1="link3" body2="link0"/></contact><actuator>'
    xml.write_text(XML.read_text().replace("<actuator>", exclude))
    labels = set(Room(panda(xml), WORKSPACE, Distances()).labels)
    assert "collision: link5 to hand" not in labels and "collision: link0 to link3" not in labels
    assert "collision: link5 to left_finger" in labels


def test_a_home_that_touches_itself_is_refused():
    folded = (*PANDA.home_rad[:5], 0.4, -np.pi / 4)  # the hand lies across the forearm
    with pytest.raises(InvalidInputError, match=r"at home link5 and hand are .* choose another home"):
        Room(replace(PANDA, home_rad=folded), WORKSPACE, Distances())


@pytest.mark.parametrize("spec", [so101(), ur5e(), PANDA], ids=lambda spec: spec.name)
def test_at_home_every_arm_has_room(spec):
    home = np.array(spec.home_rad)
    x, y, z = Kinematics(spec).pose(home).position_m
    room = Room(spec, WorkspaceSpec((x - 0.1, y - 0.1, z - 0.04), (x + 0.1, y + 0.1, z + 0.1)), Distances())
    h, _ = room(home)
    tight = [(label, value) for label, value, slow in zip(room.labels, h, room.slow, strict=True) if value <= slow]
    assert tight == []


def test_the_nearest_place_inside():
    np.testing.assert_allclose(nearest_inside(WORKSPACE, np.array([0.9, 0.1, -0.3])), [0.699, 0.1, 0.021])
    np.testing.assert_allclose(nearest_inside(WORKSPACE, np.array([0.4, -0.4, 0.3])), [0.4, -0.4, 0.3])


@pytest.mark.parametrize(
    "wrong",
    [{"arm_slow_m": 0.01}, {"tool_stop_m": -0.01}, {"condition_slow": 40.0}, {"box_slow_m": float("nan")}],
)
def test_impossible_distances_are_refused(wrong):
    with pytest.raises(InvalidInputError):
        Distances(**wrong)


@pytest.mark.parametrize("spec", [PANDA, so101(), ur5e()], ids=lambda spec: spec.name)
def test_no_distance_falls_below_its_bound_on_any_way_and_the_bound_is_not_idle(spec):
    box = WorkspaceSpec((-1.0, -1.0, 0.0), (1.0, 1.0, 1.2), keep_out_balls_m=((0.3, 0.2, 0.2, 0.05),))
    room, rng = Room(spec, box, Distances()), np.random.default_rng(0)
    near = 0
    for _ in range(60):
        start = rng.uniform(spec.q_low_rad, spec.q_high_rad)
        way = start + np.linspace(0, 1, 4)[:, None] * rng.normal(0, rng.choice([0.003, 0.02, 0.1]), spec.num_joints)
        bound = room.least_on(way)
        between = np.array([room(start + s * (way[-1] - start))[0] for s in np.linspace(0, 1, 7)])
        assert (between[:, :-1] >= bound[:-1] - 1e-9).all()
        assert bound[-1] == min(between[0, -1], between[-1, -1])
        near += bool((bound[:-1] > between[0, :-1] - 0.02).all())
    assert near > 10  # of the small steps, the bound costs less than two centimetres


def test_what_was_asked_before_is_answered_the_same():
    room, fresh = Room(PANDA, WORKSPACE, Distances()), Room(PANDA, WORKSPACE, Distances())
    places = [HOME + 0.01 * k for k in range(20)]
    first = [room(q)[0].copy() for q in places]
    for q, h in zip(reversed(places), reversed(first), strict=True):
        np.testing.assert_array_equal(room(q)[0], h)
        np.testing.assert_array_equal(fresh(q)[0], h)

"""The generalisation splits: unseen by every shipped training, and each changing the image in its own way only."""

from __future__ import annotations

import colorsys
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import yaml

import latent_mpc  # noqa: F401  (registers the environments)
from latent_mpc.collect import CollectConfig
from latent_mpc.config import load_config
from latent_mpc.envs import scene, splits
from latent_mpc.envs.tabletop import RandomisationConfig, TabletopConfig
from latent_mpc.types import InvalidInputError, UnknownNameError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
OBJECTS = {"num_objects": 3, "shapes": ("cube", "box"), "image_size": 32, "supersample": 1}


@pytest.fixture
def make():
    made = []

    def build(split=None, **kwargs):
        config = TabletopConfig(**(OBJECTS | kwargs))
        made.append(gymnasium.make("latent_mpc/PickPlace-v0", config=config, split=split).unwrapped)
        return made[-1]

    yield build
    for env in made:
        env.close()


# ---- never seen in training ----


def test_unseen_colours_are_far_from_the_named_ones():
    def hue_deg(rgb):
        return 360 * colorsys.rgb_to_hsv(*rgb)[0]

    for unseen in splits.UNSEEN_COLOURS.values():
        for named in scene.COLOURS.values():
            assert abs((hue_deg(unseen) - hue_deg(named) + 180) % 360 - 180) > 39
        assert splits.is_unseen(unseen)
    assert not any(map(splits.is_unseen, scene.COLOURS.values()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_no_shipped_training_reaches_a_split(path):
    if "collect" in yaml.safe_load(path.read_text()):
        assert splits.reached_by(load_config(CollectConfig, path, [], section="collect").env) == []


def test_what_reaches_a_split_is_found_out():
    def reached(**randomisation):
        return splits.reached_by(TabletopConfig(randomisation=RandomisationConfig(**randomisation)))

    assert reached(light=0.3, table_colour=0.2, table_texture=True, object_colour=True, every_step=True) == []
    assert reached(camera_beyond_deg=22.0) == []
    assert reached(camera_deg=1.0) == reached(camera_m=0.01) == ["camera-jitter"]
    assert reached(light=0.35) == ["light"]


def orbit_deg(env, camera="front"):
    """Azimuth and elevation of a camera about the point that it looks at."""
    x, y, z = env.model.camera(camera).pos - np.array(scene.CAMERAS[camera][1])
    return np.rad2deg([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])


def test_a_training_camera_stands_as_usual_or_beyond_the_splits(make):
    env = make(image_size=8, randomisation=RandomisationConfig(camera_beyond_deg=20.0, every_step=True))
    env.reset(seed=0, options={"goal_image": False})
    usual = orbit_deg(make(image_size=8))
    off = []
    for _ in range(80):
        env.step(np.zeros(5))
        off.append(orbit_deg(env) - usual)
    off = np.abs(off)
    moved = off.max(1) > 1e-6
    assert 20 < moved.sum() < 60 and off[moved].min() > splits.CAMERA_JITTER_DEG and off.max() <= 20 + 1e-6


@pytest.mark.parametrize("deg", [5.0, 10.5, 60.0])
def test_a_training_camera_in_the_splits_range_is_refused(deg):
    with pytest.raises(InvalidInputError, match="0 or from 11 to 40"):
        RandomisationConfig(camera_beyond_deg=deg)


def test_no_configuration_can_name_an_unseen_colour_or_shape():
    for name in splits.UNSEEN_COLOURS:
        with pytest.raises(UnknownNameError, match="red"):
            TabletopConfig(colours=(name,))
    for name in scene.UNSEEN_SHAPES:
        with pytest.raises(UnknownNameError, match="cube"):
            TabletopConfig(shapes=(name,))


def test_random_colours_leave_out_the_unseen_hues(make):
    env = make(num_objects=8, image_size=8, randomisation=RandomisationConfig(object_colour=True))
    colours = []
    for seed in range(25):
        env.reset(seed=seed, options={"goal_image": False})
        colours += [o.rgb for o in env.objects]
    assert not any(map(splits.is_unseen, colours))
    assert np.std(colours, axis=0).min() > 0.15


def hues_deg(colours):
    return np.array([360 * colorsys.rgb_to_hsv(*rgb)[0] for rgb in colours])


def least_gap_deg(colours):
    """Between neighbours on the circle of hues."""
    hues = np.sort(hues_deg(colours))
    return np.diff(hues, append=hues[0] + 360).min()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_random_colours_keep_apart_while_there_is_room(count):
    """Beside the three arcs of 30 degrees that are unseen, four hues always have room."""
    many = [splits.random_colours(np.random.default_rng(seed), count) for seed in range(1000)]
    assert all(len(colours) == count for colours in many)
    assert not any(splits.is_unseen(rgb) for colours in many for rgb in colours)
    saturation, value = np.array([colorsys.rgb_to_hsv(*rgb)[1:] for colours in many for rgb in colours]).T
    assert saturation.min() > 0.64 and value.min() > 0.34 and value.max() < 0.96
    assert count == 1 or min(map(least_gap_deg, many)) >= splits.HUE_GAP_DEG - 1e-6


@pytest.mark.parametrize("count", [8, 30])
def test_too_many_random_colours_come_as_far_apart_as_they_may(count):
    for seed in range(10):
        colours = splits.random_colours(np.random.default_rng(seed), count)
        assert len(colours) == count and not any(map(splits.is_unseen, colours))
        assert least_gap_deg(colours) > 60 / count


def test_random_colours_are_of_any_hue_that_is_not_unseen():
    rng = np.random.default_rng(0)
    hues = hues_deg([splits.random_colours(rng, 1)[0] for _ in range(2000)])
    counts, _ = np.histogram(hues, 24, (0, 360))
    unseen = {int(h // 15) + k for h in hues_deg(splits.UNSEEN_COLOURS.values()) for k in (-1, 0, 1)}
    assert all(counts[k] > 50 for k in set(range(24)) - unseen)


def test_the_patterns_to_learn_on_are_none_of_the_unseen():
    """Nor like one, in any turn: the grey pictures correlate less than two patterns of a kind do."""
    unseen, seen = splits.table_textures(), splits.training_textures()
    assert not set(unseen) & set(seen) and len(seen) == 16

    def standard(image):
        grey = image.astype(float).mean(-1)
        return (grey - grey.mean()) / grey.std()

    for image in seen.values():
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8 and image.std() > 3
        for other in unseen.values():
            for turns in range(4):
                assert abs((standard(np.rot90(image, turns)) * standard(other)).mean()) < 0.4
    assert len({image.tobytes() for image in seen.values()}) == 16
    assert all((splits.training_textures()[name] == image).all() for name, image in seen.items())


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("split", ["unseen-colours", "unseen-textures"])
def test_a_split_holds_whatever_is_randomised(split, every_step, make):
    looks = RandomisationConfig(table_texture=True, object_colour=True, every_step=every_step)
    plain, env = make(image_size=8, randomisation=looks), make(split, image_size=8, randomisation=looks)
    table = env.model.geom("table").id
    for seed in range(8):
        for each in (plain, env):
            each.reset(seed=seed, options={"goal_image": False})
        np.testing.assert_array_equal(plain.object_poses(), env.object_poses())  # both lay out the same scenes
        for _ in range(3):
            if split == "unseen-colours":
                assert all(map(splits.is_unseen, [o.rgb for o in env.objects]))
            else:
                assert env.model.material(int(env.model.geom_matid[table])).name in splits.table_textures()
            env.step(np.zeros(5, np.float32))


def test_the_splits_lights_are_out_of_reach_of_training():
    usual = scene.build_model(1, 0.004).light("lamp").pos
    for light in splits.LIGHTS.values():
        moved = np.abs(np.subtract(light.position_m, usual)).max()
        assert max(abs(light.lamp - 1), moved) >= splits.TRAINING_LIGHT


# ---- each in its own way ----

CHANGES = {
    "unseen-colours": {"geom_rgba"},
    "camera-jitter": {"cam_pos", "cam_quat"},
    "light": {"light_pos", "light_dir", "light_diffuse"},
}


def arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value.copy() for name, value in found.items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("split", splits.SPLITS)
def test_a_split_changes_the_image_in_its_own_way_only(split, make):
    plain, env = make(), make(split)
    changed = set()
    for seed in range(8):
        (before, info), (after, other) = plain.reset(seed=seed), env.reset(seed=seed)
        for name in ("object_poses", "goal_poses", "arm_pose", "goal_arm_pose", "movers"):
            np.testing.assert_array_equal(getattr(plain.layout, name), getattr(env.layout, name))
        for key in ("image", "goal_image"):
            assert np.abs(before[key].astype(int) - after[key]).max() > 30
        np.testing.assert_array_equal(before["proprio"], after["proprio"])
        np.testing.assert_array_equal(info["object_positions"], other["object_positions"])
        assert [o.half_size_m for o in plain.objects] == [o.half_size_m for o in env.objects]
        mine, theirs = arrays(env.model), arrays(plain.model)
        if split in CHANGES:
            changed |= {k for k in mine if not np.array_equal(mine[k], theirs[k], equal_nan=mine[k].dtype.kind == "f")}
    assert changed == CHANGES.get(split, set())
    table = env.model.geom("table").id
    assert (env.model.geom_matid[table] >= 0) == (split == "unseen-textures")
    assert all((o.shape in scene.UNSEEN_SHAPES) == (split == "unseen-shapes") for o in env.objects)
    assert [o.rgb for o in plain.objects] == [o.rgb for o in env.objects] or split == "unseen-colours"


@pytest.mark.parametrize("split", set(splits.SPLITS) - {"unseen-shapes"})
def test_physics_and_scores_are_the_plain_ones(split, make):
    plain, env = make(image_size=8), make(split, image_size=8)
    plain.reset(seed=4), env.reset(seed=4)
    target = plain.object_positions()[0]
    for _ in range(12):  # goes and closes on an object, so that there are contacts
        move = np.clip((target - plain.arm.pose(plain.data)[0]) / plain.config.step_m, -1, 1)
        action = np.array([*move, 0, 1], np.float32)
        one, other = plain.step(action), env.step(action)
        for key in ("object_positions", "goal_positions", "placed", "is_success", "is_grasped"):
            np.testing.assert_array_equal(one[-1][key], other[-1][key])
        np.testing.assert_array_equal(one[0]["proprio"], other[0]["proprio"])


@pytest.mark.parametrize("split", splits.SPLITS)
def test_a_split_is_deterministic_by_seed_and_varies_with_it(split, make):
    first, second = make(split), make(split)
    second.reset(seed=99)
    options = {"object_poses": [[0.4, 0, 0.02, 0], [0.5, 0.1, 0.02, 0], [0.6, -0.1, 0.02, 0]]}
    options |= {"arm_pose": [0.4, 0, 0.2, 0], "goal_image": False}
    looks = []
    for seed in range(8):
        images = [env.reset(seed=seed, options=options)[0]["image"] for env in (first, second)]
        np.testing.assert_array_equal(*images)
        looks.append(images[0].tobytes())
    assert len(set(looks)) > 2


@pytest.mark.parametrize("camera", scene.CAMERAS)
def test_the_camera_goes_round_what_it_looks_at(camera):
    model = scene.build_model(1, 0.004)
    position, target = (np.array(v) for v in scene.CAMERAS[camera])
    index = model.camera(camera).id
    rng = np.random.default_rng(0)
    angles, distances = [], []
    for _ in range(200):
        splits.dress_scene("camera-jitter", model, camera, rng)
        R_WC = np.empty(9)
        mujoco.mju_quat2Mat(R_WC, model.cam_quat[index])
        ray = target - model.cam_pos[index]
        distances.append(np.linalg.norm(ray) - np.linalg.norm(target - position))
        np.testing.assert_allclose(R_WC.reshape(3, 3) @ [0, 0, -1], ray / np.linalg.norm(ray), atol=1e-6)
        if camera == "front":  # the whole rectangle in which objects start stays in the picture
            c = TabletopConfig()
            corners = [(x, y, 0.02) for x in (c.object_low_m[0], c.object_high_m[0]) for y in (-0.20, 0.20)]
            seen = (np.array(corners) - model.cam_pos[index]) @ R_WC.reshape(3, 3)
            assert np.abs(seen[:, :2] / seen[:, 2:]).max() < np.tan(np.deg2rad(37 / 2))
            angles.append(np.rad2deg(np.arctan2(ray[1], -ray[0])))
    assert 0.02 < np.abs(distances).max() <= splits.CAMERA_JITTER_M * np.sqrt(3)
    assert camera != "front" or 8 < np.max(np.abs(angles)) < 15


def test_unknown_split():
    with pytest.raises(UnknownNameError, match="camera-jitter"):
        gymnasium.make("latent_mpc/PickPlace-v0", split="fog")


def test_splits_go_with_every_task():
    for name in ("Stack", "ClearTable"):
        env = gymnasium.make(f"latent_mpc/{name}-v0", split="unseen-shapes").unwrapped
        _, info = env.reset(seed=0)
        assert {o.shape for o in env.objects} <= set(scene.UNSEEN_SHAPES)
        plain = gymnasium.make(f"latent_mpc/{name}-v0").unwrapped
        np.testing.assert_array_equal(plain.reset(seed=0)[1]["object_positions"], info["object_positions"])
        env.close(), plain.close()

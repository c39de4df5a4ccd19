"""Objects as they would look alone: against environments in which they are, and against the camera's geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from latent_mpc.envs.solo import SoloView
from latent_mpc.envs.tabletop import RandomisationConfig, TabletopConfig, TabletopEnv

POSES = np.array([[0.45, -0.15, 0.0, 0.5], [0.52, 0.03, 0.0, -0.4], [0.60, 0.16, 0.0, 0.3]])  # x, y, –, yaw
ARM = np.array([0.36, 0.0, 0.24, 0.2])
STEPS = np.random.default_rng(0).uniform(-1, 1, (6, 5)).astype(np.float32)

Make = Callable[..., TabletopEnv]


@pytest.fixture
def make() -> Iterator[Make]:
    made = []

    def build(task: str = "PickPlace", **settings: object) -> TabletopEnv:
        made.append(TabletopEnv(task, TabletopConfig(**settings)))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.fixture
def look() -> Iterator[Callable[[TabletopEnv], NDArray[np.uint8]]]:
    views: dict[int, SoloView] = {}

    def render(env: TabletopEnv) -> NDArray[np.uint8]:
        return views.setdefault(id(env), SoloView(env)).render()

    yield render
    for view in views.values():
        view.close()


Look = Callable[[TabletopEnv], NDArray[np.uint8]]


def arrange(env: TabletopEnv, seed: int = 0) -> None:
    """Objects at POSES, each on the table, whatever its height."""
    env.reset(seed=seed, options={"goal_image": False})  # which shapes and sizes there are
    poses = POSES.copy()
    poses[:, 2] = [o.half_size_m[2] for o in env.objects]
    env.reset(seed=seed, options={"goal_image": False, "object_poses": poses, "arm_pose": ARM})


def red(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    r, g, b = np.moveaxis(image.astype(int), -1, 0)
    return (r > 1.8 * g) & (r > 1.8 * b) & (r > 50)


def pixel_of(env: TabletopEnv, point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row and column at which the observation's camera sees a point in W."""
    camera = env.model.camera(env.config.camera).id
    x, y, z = (point - env.data.cam_xpos[camera]) @ env.data.cam_xmat[camera].reshape(3, 3)
    half = env.config.image_size / 2
    scale = half / np.tan(np.deg2rad(env.model.cam_fovy[camera] / 2))
    return np.array([half - 0.5 + scale * y / z, half - 0.5 - scale * x / z])


def test_a_plain_cube_alone_looks_as_it_is(make: Make, look: Look) -> None:
    env = make()
    observation, _ = env.reset(seed=3)
    assert look(env).shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(look(env)[0], observation["image"])
    for action in STEPS:
        env.step(action)
        mujoco.mj_kinematics(env.model, env.data)  # an observation is one physics step behind the state
        np.testing.assert_array_equal(look(env)[0], env._observe_image())


@pytest.mark.parametrize("shape", ["cube", "box", "cylinder", "sphere", "cup", "plate"])
def test_each_of_many_looks_as_a_plain_cube_alone_in_its_place(shape: str, make: Make, look: Look) -> None:
    """The oracle is an environment that has this cube and nothing else; round things have no yaw."""
    env, alone = make(num_objects=3, shapes=(shape,), half_size_m=(0.02, 0.03)), make()
    arrange(env, seed=1)
    seen = look(env)
    assert seen.shape == (3, 64, 64, 3)
    for image, (x, y, _, yaw) in zip(seen, POSES, strict=True):
        pose = [[x, y, 0.02, yaw if shape in ("cube", "box") else 0.0]]
        options = {"goal_image": False, "object_poses": pose, "arm_pose": ARM}
        np.testing.assert_array_equal(image, alone.reset(seed=9, options=options)[0]["image"])


def test_each_picture_shows_one_red_thing_where_the_object_is(make: Make, look: Look) -> None:
    env = make(num_objects=3, shapes=("cup", "plate", "box", "cylinder"), colours=("red", "orange", "purple"))
    for seed in range(3):
        arrange(env, seed)
        for image, (x, y, *_) in zip(look(env), POSES, strict=True):
            blobs, count = ndimage.label(red(image))
            assert count == 1 and 10 < blobs.sum() < 60
            centre = ndimage.center_of_mass(blobs)
            np.testing.assert_allclose(centre, pixel_of(env, np.array([x, y, 0.02])), atol=1.0)


@pytest.mark.parametrize("shape", ["cup", "plate", "cube"])
def test_what_is_lifted_is_shown_as_high_over_the_table(shape: str, make: Make, look: Look) -> None:
    env, alone = make(num_objects=3, shapes=(shape,), half_size_m=(0.03, 0.03)), make()
    arrange(env)
    alone.reset(seed=0, options={"goal_image": False, "object_poses": [[0.5, 0, 0.02, 0]], "arm_pose": ARM})
    at, cube = env._object_qpos[1], alone._object_qpos[0]
    for lift_m in (0.0, 0.1):
        env.data.qpos[at : at + 7] = *POSES[1, :2], env.objects[1].half_size_m[2] + lift_m, 1, 0, 0, 0
        alone.data.qpos[cube : cube + 7] = *POSES[1, :2], 0.02 + lift_m, 1, 0, 0, 0
        for each in (env, alone):
            mujoco.mj_forward(each.model, each.data)
        np.testing.assert_array_equal(look(env)[1], alone._observe_image())


def test_neither_looks_nor_task_show(make: Make, look: Look) -> None:
    """Lamp, table and colours are plain ones, and nothing but table and arm is there."""
    looks = RandomisationConfig(light=0.3, table_colour=0.2, table_texture=True, object_colour=True, every_step=True)
    plain, strange = make(num_objects=3), make(num_objects=3, randomisation=looks)
    tray = make("ClearTable", num_objects=3, shapes=("cup", "plate", "box"))
    for seed in range(3):
        for env in (plain, strange):
            arrange(env, seed)
        tray.reset(seed=seed, options={"goal_image": False})
        tray.data.qpos[:] = plain.data.qpos
        assert (plain._observe_image() != strange._observe_image()).mean() > 0.5
        np.testing.assert_array_equal(look(strange), look(plain))
    tray.objects = plain.objects
    np.testing.assert_array_equal(look(tray), look(plain))


def test_looking_changes_nothing(make: Make, look: Look) -> None:
    """The states after each step are bit for bit those of an environment that nobody looks into."""
    settings = dict(num_objects=3, shapes=("cup", "box"), image_size=24, supersample=1)
    seen, unseen = make(**settings), make(**settings)
    for env in (seen, unseen):
        env.reset(seed=5)
    for action in STEPS:
        model = {name: np.array(getattr(seen.model, name)) for name in ("geom_rgba", "geom_size", "body_mass", "qpos0")}
        state = seen.data.qpos.copy(), seen.data.qvel.copy(), seen.data.xpos.copy(), seen.data.time, seen.objects
        look(seen)
        for name, value in model.items():
            np.testing.assert_array_equal(getattr(seen.model, name), value)
        for before, after in zip(
            state, (seen.data.qpos, seen.data.qvel, seen.data.xpos, seen.data.time, seen.objects), strict=True
        ):
            np.testing.assert_array_equal(before, after)
        one, other = seen.step(action), unseen.step(action)
        for key in ("image", "proprio", "goal_image"):
            np.testing.assert_array_equal(one[0][key], other[0][key])
        np.testing.assert_array_equal(seen.data.qpos, unseen.data.qpos)


def test_looking_again_gives_the_same(make: Make, look: Look) -> None:
    """Nothing of the last picture is left in the next."""
    env = make(num_objects=3, shapes=("cube", "plate"))
    arrange(env)
    first = look(env)
    for action in STEPS:
        env.step(action)
    assert (look(env) != first).any(axis=(1, 2, 3)).all()
    arrange(env)
    np.testing.assert_array_equal(look(env), first)

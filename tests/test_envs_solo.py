"""Objects as they would look alone: against environments in which they are, and against the camera's geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from latent_mpc.envs import scene
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


def test_after_a_reset_the_new_things_are_shown(make: Make, look: Look) -> None:
    """As somebody sees them who has not looked before."""
    settings = dict(num_objects=3, shapes=("cup", "plate", "box"), half_size_m=(0.02, 0.03))
    env, fresh = make(**settings), make(**settings)
    arrange(env, seed=1)
    look(env)
    before = env.objects
    for each in (env, fresh):
        arrange(each, seed=2)
    assert env.objects != before
    np.testing.assert_array_equal(look(env), look(fresh))


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
@pytest.mark.parametrize("lift_m", [0.0, 0.1])
def test_each_of_many_looks_as_it_would_alone_and_red(shape: str, lift_m: float, make: Make, look: Look) -> None:
    """The oracle is an environment that has this thing and nothing else; round things have no yaw."""
    settings = dict(shapes=(shape,), half_size_m=(0.02, 0.03))
    env, alone = make(num_objects=3, **settings), make(**settings)
    arrange(env, seed=1)
    alone.reset(seed=0, options={"goal_image": False})
    sizes = set()
    for i, (at, (x, y, _, yaw)) in enumerate(zip(env._object_qpos, POSES, strict=True)):
        env.data.qpos[at + 2] += lift_m
        scene.set_object(alone.model, 0, replace(env.objects[i], rgb=scene.COLOURS["red"]))
        mujoco.mj_setConst(alone.model, alone.data)  # which leaves the arm stretched out
        alone.data.qpos[: env._object_qpos[0]] = env.data.qpos[: env._object_qpos[0]]
        turn = yaw / 2 if shape in ("cube", "box") else 0.0
        height = env.objects[i].half_size_m[2] + lift_m
        alone.data.qpos[alone._object_qpos[0] :] = x, y, height, np.cos(turn), 0, 0, np.sin(turn)
        mujoco.mj_forward(alone.model, alone.data)
        np.testing.assert_array_equal(look(env)[i], alone._observe_image())
        sizes.add(env.objects[i].half_size_m)
    assert len(sizes) == 3


def test_each_picture_shows_one_red_thing_where_the_object_is(make: Make, look: Look) -> None:
    env = make(num_objects=3, shapes=("cup", "plate", "box", "cylinder"), colours=("red", "orange", "purple"))
    for seed in range(3):
        arrange(env, seed)
        heights = [o.half_size_m[2] for o in env.objects]
        for image, (x, y, *_), height in zip(look(env), POSES, heights, strict=True):
            blobs, count = ndimage.label(red(image))
            assert count == 1 and 10 < blobs.sum() < 60
            centre = ndimage.center_of_mass(blobs)
            np.testing.assert_allclose(centre, pixel_of(env, np.array([x, y, height])), atol=1.0)


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

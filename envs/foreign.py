"""Two environments that are not ours, with goal images: Gymnasium's Reacher and gymnasium-robotics' FetchPush.

Their physics, starts, goals and Fetch's test of success are their own. The marker of the target is hidden: the goal is
the image. Shadows are off: rendered in software they take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs.goal_image import GoalImageEnv, Rectangle, smooth_actions
from latent_mpc.envs.rendering import make_renderer
from latent_mpc.types import LatentMPCError

SUPERSAMPLE = 2
REACHER_LINKS_M = (0.1, 0.11)
REACHER_ELBOW_RAD = 3.0  # limit of the elbow's joint
REACHER_TOLERANCE_M = 0.02
REACHER_REPEAT, REACHER_LIMIT = 4, 0.12
# One control step at full torque: 200 N m, an armature of 1 kg m², steps of 0.02 s.
REACHER_SPEED_GAIN = 200 * REACHER_LIMIT * REACHER_REPEAT * 0.02
FETCH_REPEAT = 2
FETCH_RAISE = 6  # of its own steps upwards, out of the object's way


def make_reacher(size: int = 64) -> GoalImageEnv:
    """Reacher-v5 in control steps of 0.08 s; -1 to 1 is an eighth of its torque, with which 2 cm can be met."""
    env = _make("Reacher-v5")
    env.unwrapped.model.geom("target").rgba[3] = 0
    picture = MujocoPicture(env, SUPERSAMPLE * size, lookat=(0, 0, 0), distance=0.56, azimuth=90, elevation=-90)
    return GoalImageEnv(
        picture, Reacher(), size=size, action_repeat=REACHER_REPEAT, action_limit=REACHER_LIMIT, hold_steps=2
    )


def make_fetch_push(size: int = 64) -> GoalImageEnv:
    """FetchPush-v4 in control steps of 0.08 s.

    Raises:
        LatentMPCError: gymnasium-robotics is not installed.
    """
    try:
        import gymnasium_robotics
        from gymnasium_robotics.utils import mujoco_utils
    except ImportError as error:
        raise LatentMPCError("FetchPush needs gymnasium-robotics: pip install 'latent-mpc[foreign]'") from error
    gymnasium.register_envs(gymnasium_robotics)
    if np.int32(0) not in (mujoco.mjtJoint.mjJNT_FREE,):  # since MuJoCo 3.12; the package's asserts ask just that
        joints = {name: int(kind) for name, kind in mujoco.mjtJoint.__members__.items()}
        mujoco_utils.mujoco = SimpleNamespace(**(vars(mujoco) | {"mjtJoint": SimpleNamespace(**joints)}))
    env = _make("FetchPush-v4")
    model = env.unwrapped.model
    model.site("target0").rgba[3] = 0
    model.geom_rgba[model.geom_bodyid == model.body("robot0:mocap").id, 3] = 0  # lines that mark the setpoint
    # From low in front, so that what lies behind the fingers shows below the hand.
    picture = MujocoPicture(
        env, SUPERSAMPLE * size, lookat=(1.32, 0.75, 0.45), distance=0.75, azimuth=180, elevation=-20
    )
    return GoalImageEnv(picture, FetchPush(), size=size, action_repeat=FETCH_REPEAT)


class MujocoPicture(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Renders a MuJoCo environment of Gymnasium's without a screen, shadows and sky, from a camera of our own.

    Args:
        env: has `model` and `data`.
        pixels: of each side.
        lookat: what the camera looks at in W (3,), metres.
        distance: of the camera from it, metres.
        azimuth, elevation: of its line of sight, degrees; at an elevation of -90 it looks down.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        pixels: int,
        lookat: tuple[float, float, float],
        distance: float,
        azimuth: float,
        elevation: float,
    ) -> None:
        super().__init__(env)
        self._renderer: mujoco.Renderer | None = None
        self._pixels, self._camera = pixels, mujoco.MjvCamera()
        self._camera.lookat[:] = lookat
        self._camera.distance, self._camera.azimuth, self._camera.elevation = distance, azimuth, elevation

    def render(self) -> Any:
        """uint8 (pixels, pixels, 3)."""
        inner: Any = self.env.unwrapped
        if self._renderer is None:
            self._renderer = make_renderer(inner.model, self._pixels, self._pixels)
        self._renderer.update_scene(inner.data, camera=self._camera)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        super().close()


def _make(env_id: str) -> Any:
    """A foreign environment without its own limit of steps."""
    return gymnasium.make(env_id, render_mode="rgb_array", max_episode_steps=-1, disable_env_checker=True)


class Reacher:
    """The fingertip within 2 cm of where the goal image shows it."""

    region_m: Rectangle = ((-0.22, -0.22), (0.22, 0.22))

    def arrange_goal(self, env: Any, rng: np.random.Generator) -> NDArray[np.float64]:
        """The fingertip at the target, the elbow to either side; nearer than 2 cm to the base, as near as it gets."""
        a, b = REACHER_LINKS_M
        x, y = env.data.qpos[2:]
        cosine = (x * x + y * y - a * a - b * b) / (2 * a * b)
        elbow = rng.choice([-1, 1]) * min(np.arccos(np.clip(cosine, -1, 1)), REACHER_ELBOW_RAD)
        shoulder = np.arctan2(y, x) - np.arctan2(b * np.sin(elbow), a + b * np.cos(elbow))
        env.set_state(np.array([shoulder, elbow, x, y]), np.zeros(4))
        return self.positions(env)

    def positions(self, env: Any) -> NDArray[np.float64]:
        return env.data.body("fingertip").xpos[None].copy()

    def is_success(self, env: Any, goal_positions: NDArray[np.float64]) -> bool:
        return bool(np.linalg.norm(self.positions(env) - goal_positions) < REACHER_TOLERANCE_M)

    def proprio(self, env: Any) -> NDArray[np.float64]:
        """Cosines, sines (2,) and speeds (2,), rad/s, of the joints."""
        angles = env.data.qpos[:2]
        return np.concatenate([np.cos(angles), np.sin(angles), env.data.qvel[:2]])

    def play(self, env: Any, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
        """Turn the joints at speeds drawn anew every few steps, at none in a third of the cases."""
        while True:
            speeds = rng.normal(0, 2, 2) * rng.choice([0, 1, 1])
            for _ in range(rng.integers(2, 11)):
                yield (speeds - env.data.qvel[:2]) / REACHER_SPEED_GAIN + rng.normal(0, 0.1, 2)


class FetchPush:
    """The cube where the goal image shows it: the environment's own goal and its own test, 5 cm."""

    region_m: Rectangle = ((1.14, 0.55), (1.5, 0.95))

    def arrange_goal(self, env: Any, rng: np.random.Generator) -> NDArray[np.float64]:
        """The cube at the environment's goal, the gripper raised out of its way."""
        for _ in range(FETCH_RAISE):
            env.step(np.array([0.0, 0.0, 1.0, 0.0]))
        joint = env.data.joint("object0:joint")
        joint.qpos[:] = *env.goal, 1, 0, 0, 0
        joint.qvel[:] = 0
        mujoco.mj_forward(env.model, env.data)
        return self.positions(env)

    def positions(self, env: Any) -> NDArray[np.float64]:
        return env.data.site("object0").xpos[None].copy()

    def is_success(self, env: Any, goal_positions: NDArray[np.float64]) -> bool:
        return bool(env._is_success(self.positions(env)[0], env.goal))

    def proprio(self, env: Any) -> NDArray[np.float64]:
        """Position of the gripper (3,), metres. Its fingers are blocked."""
        return env.data.site("robot0:grip").xpos.copy()

    def play(self, env: Any, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
        """Reach anywhere, wiggle, and push the cube towards anywhere, from where it lies; interrupted at random."""
        while True:
            behaviours = (self._push, self._push, self._push, self._reach, self._wiggle)
            behaviour = behaviours[rng.integers(len(behaviours))](env, rng)
            for action in behaviour:
                yield np.array([*action, 0.0]) + 0.1 * rng.standard_normal(4)
                if rng.random() < 0.03:
                    break

    def _wiggle(self, env: Any, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
        for _, action in zip(range(rng.integers(3, 9)), smooth_actions(rng, 3, std=0.3), strict=False):
            yield action

    def _reach(self, env: Any, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
        yield from self._go(env, self._point(rng, env.height_offset + rng.uniform(0, 0.2)), rng.uniform(0.4, 1))

    def _push(self, env: Any, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
        """Go over the cube to its far side from a random point of the table, down, and towards that point."""
        cube = self.positions(env)[0]
        aim = self._point(rng, cube[2])
        way = (aim - cube) / max(float(np.linalg.norm(aim - cube)), 1e-6)
        behind = cube - 0.08 * way + [*rng.normal(0, 0.01, 2), 0]
        yield from self._go(env, behind + [0, 0, 0.09], 1.0)
        yield from self._go(env, behind, 1.0)
        yield from self._go(env, aim - 0.04 * way, rng.uniform(0.2, 0.8))
        yield from self._go(env, self._gripper(env) + [0, 0, rng.uniform(0.05, 0.15)], 1.0)

    def _go(self, env: Any, target: NDArray[np.float64], speed: float) -> Iterator[NDArray[np.float64]]:
        """Move until within 2 cm, 12 steps at most."""
        for _ in range(12):
            move = (target - self._gripper(env)) / 0.08
            yield move * min(1.0, speed / max(float(np.linalg.norm(move)), 1e-6))
            if np.linalg.norm(target - self._gripper(env)) < 0.02:
                return

    def _gripper(self, env: Any) -> NDArray[np.float64]:
        return self.proprio(env)

    def _point(self, rng: np.random.Generator, height: float) -> NDArray[np.float64]:
        return np.array([*rng.uniform(*self.region_m), height])

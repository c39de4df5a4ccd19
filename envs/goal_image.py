"""Any rendered Gymnasium environment as one whose goal is an image.

A `GoalTask` says what no interface can know: how to bring the simulator to a goal, what counts, and how to play. The
rest is the same for all: `reset` with a seed gives a start; with the same seed the simulator is brought to the goal,
photographed, and put back to the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latent_mpc.types import InvalidInputError

MAX_DRAWS = 100
Rectangle = tuple[tuple[float, float], tuple[float, float]]  # lower and upper corner (x, y), metres


class GoalTask(Protocol):
    """What `GoalImageEnv` has to be told. `env` is always the wrapped environment, without its own wrappers."""

    @property
    def region_m(self) -> Rectangle:
        """Where the things that count can be; only for the picture of what play covers."""
        ...

    def arrange_goal(self, env: Any, rng: np.random.Generator) -> NDArray[np.float64]:
        """Bring the freshly reset simulator to a goal. Returns where the things that count are there, (N, 3), metres.

        The goal may be the one that the environment has drawn at its reset, or be drawn from `rng`.
        """
        ...

    def positions(self, env: Any) -> NDArray[np.float64]:
        """Where the things that count are now, (N, 3), metres. For scoring: no agent sees it."""
        ...

    def is_success(self, env: Any, goal_positions: NDArray[np.float64]) -> bool:
        """Whether the goal is reached now."""
        ...

    def proprio(self, env: Any) -> NDArray[np.float64]:
        """What the robot knows of itself, (P,), P at least 3. Nothing about objects or goals."""
        ...

    def play(self, env: Any, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
        """Endless actions (A,) in [-1, 1] that know no goal; asked for one a control step, clipped."""
        ...


class GoalImageEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """Wraps a rendered environment; the observation is `image`, `goal_image` and `proprio`, the action in [-1, 1].

    It is no `gymnasium.Wrapper`: spaces, seeds, reward and end of an episode are its own. Reward is 1 at success,
    which ends the episode. `info` has `object_positions`, `goal_positions` (N, 3), `position_error_m`, `is_success`,
    `share_placed` and `is_grasped` (always False), for scoring only.

    Args:
        env: with `render_mode="rgb_array"`, pictures whose sides are `size` times a whole number, a bounded Box of
            actions and `render_fps` in its metadata. A time limit of its own counts its own steps.
        task: what counts in it.
        size: of the images, pixels; they are means over blocks of what `env` renders.
        action_repeat: steps of `env` in one control step.
        action_limit: share of the range of actions that -1 to 1 is mapped to, about its middle.
        hold_steps: control steps in a row for which the goal must be reached.

    Raises:
        InvalidInputError: `env` is none of that.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        task: GoalTask,
        *,
        size: int = 64,
        action_repeat: int = 1,
        action_limit: float = 1.0,
        hold_steps: int = 1,
    ) -> None:
        box = env.action_space
        if env.render_mode != "rgb_array":
            raise InvalidInputError(f"make the environment with render_mode='rgb_array', not {env.render_mode!r}")
        if not (isinstance(box, spaces.Box) and len(box.shape) == 1 and np.isfinite([box.low, box.high]).all()):
            raise InvalidInputError(f"actions must be a bounded Box of shape (A,), not {box}")
        if min(size, action_repeat, hold_steps) < 1 or not 0 < action_limit <= 1:
            raise InvalidInputError(
                "size, action_repeat and hold_steps must be at least 1 and action_limit in (0, 1], got "
                f"{size}, {action_repeat}, {hold_steps}, {action_limit}"
            )
        fps = env.metadata.get("render_fps")
        if not fps:
            raise InvalidInputError("the environment's metadata lacks render_fps, its steps a second")
        self.env, self.task, self.render_mode = env, task, "rgb_array"
        self.control_dt_s = action_repeat / fps
        self._size, self._repeat, self._hold_steps = size, action_repeat, hold_steps
        self._middle = (box.high + box.low) / 2
        self._half_range = action_limit * (box.high - box.low) / 2
        self._goal_positions: NDArray[np.float64] | None = None
        self._goal_image = np.zeros((size, size, 3), np.uint8)
        self._held = 0
        env.reset(seed=0)
        image = spaces.Box(0, 255, self._image().shape, np.uint8)
        proprio = spaces.Box(-np.inf, np.inf, self._proprio().shape, np.float32)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]  # gymnasium's own stubs disagree
            image=image, proprio=proprio, goal_image=image
        )
        self.action_space = spaces.Box(-1.0, 1.0, box.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode at which the goal is not reached yet.

        Args:
            seed: makes the episode deterministic to the pixel, where the wrapped environment is.
            options: `goal_image` False skips the goal (for play): its image is black then, and nothing is a success.
        Raises:
            InvalidInputError: an unknown option, or 100 starts in a row are at their goals.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        if unknown := sorted(set(options) - {"goal_image"}):
            raise InvalidInputError(f"unknown reset options {unknown}; available: ['goal_image']")
        with_goal = bool(options.get("goal_image", True))
        for _ in range(MAX_DRAWS):
            drawn = int(self.np_random.integers(2**31))
            self._goal_positions, self._held = None, 0
            self._goal_image = np.zeros_like(self._goal_image)
            self.env.reset(seed=drawn)
            if with_goal:
                rng = np.random.default_rng(np.random.SeedSequence(drawn, spawn_key=(1,)))
                self._goal_positions = np.array(self.task.arrange_goal(self.env.unwrapped, rng))
                self._goal_image = self._image()
                self.env.reset(seed=drawn)
            if not self._reached():
                return self._observation(), self._info(False)
        raise InvalidInputError(f"{MAX_DRAWS} starts in a row are at their goals; the test of success lets all pass")

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Repeat one action for a control step; actions outside [-1, 1] are clipped.

        Raises:
            InvalidInputError: the action has another shape or is not finite.
        """
        a = np.asarray(action, dtype=np.float64)
        if a.shape != self.action_space.shape or not np.isfinite(a).all():
            raise InvalidInputError(f"action must be finite with shape {self.action_space.shape}, got {action!r}")
        inner: Any = self.env.action_space
        command = (self._middle + self._half_range * a.clip(-1, 1)).astype(inner.dtype)
        terminated = truncated = False
        for _ in range(self._repeat):
            _, _, terminated, truncated, _ = self.env.step(command)
            if terminated or truncated:
                break
        self._held = self._held + 1 if self._reached() else 0
        success = self._held >= self._hold_steps
        return self._observation(), float(success), success or terminated, truncated, self._info(success)

    def render(self) -> NDArray[np.uint8]:
        """What the wrapped environment renders, uint8 (height, width, 3)."""
        picture: Any = self.env.render()
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        self.env.close()

    def play(self, rng: np.random.Generator) -> TaskPlay:
        """Task-agnostic play in this environment."""
        return TaskPlay(self, rng)

    def _image(self) -> NDArray[np.uint8]:
        picture = self.render()
        factor, rest = divmod(picture.shape[0], self._size)
        if picture.shape != (picture.shape[0], picture.shape[0], 3) or rest or not factor:
            raise InvalidInputError(
                f"the environment renders {picture.shape}; wanted a square of {self._size} times a whole number"
            )
        blocks = picture.reshape(self._size, factor, self._size, factor, 3)
        return blocks.mean(axis=(1, 3)).astype(np.uint8)

    def _proprio(self) -> NDArray[np.float32]:
        return np.asarray(self.task.proprio(self.env.unwrapped), np.float32)

    def _observation(self) -> dict[str, NDArray[Any]]:
        return {"image": self._image(), "proprio": self._proprio(), "goal_image": self._goal_image.copy()}

    def _reached(self) -> bool:
        goal = self._goal_positions
        return goal is not None and bool(self.task.is_success(self.env.unwrapped, goal))

    def _info(self, success: bool) -> dict[str, Any]:
        positions = np.array(self.task.positions(self.env.unwrapped))
        goal = np.full_like(positions, np.nan) if self._goal_positions is None else self._goal_positions
        return {
            "object_positions": positions,
            "goal_positions": goal.copy(),
            "position_error_m": float(np.linalg.norm(positions - goal, axis=-1).max()),
            "is_success": success,
            "is_grasped": False,
            "share_placed": float(success),
        }


class TaskPlay:
    """A task's play. Call `reset` after each reset of the environment; `act` gives an action (A,) float32."""

    def __init__(self, env: GoalImageEnv, rng: np.random.Generator) -> None:
        self._env, self._rng = env, rng
        self.reset()

    def reset(self) -> None:
        self._actions = self._env.task.play(self._env.env.unwrapped, self._rng)

    def act(self) -> NDArray[np.float32]:
        return np.clip(next(self._actions), -1, 1).astype(np.float32)


def smooth_actions(
    rng: np.random.Generator, action_dim: int, std: float = 0.5, memory: float = 0.8
) -> Iterator[NDArray[np.float64]]:
    """Play for what needs no script: a_t = m a_{t-1} + sqrt(1 - m²) s ε, of standard deviation s; not clipped."""
    action = std * rng.standard_normal(action_dim)
    while True:
        yield action
        action = memory * action + np.sqrt(1 - memory**2) * std * rng.standard_normal(action_dim)

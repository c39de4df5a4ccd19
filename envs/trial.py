"""What would come of it: the simulation goes on, is looked at, and is put back as if nothing had been.

For agents that are allowed to ask the simulator, and for images of what is on the way to a goal.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs.play import ScriptedExpert
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.types import InvalidInputError

ABOVE_GOAL_M = 0.02  # across the table: so near the goal, what is held is above it
MAX_STEPS = 45  # of the expert, who needs about 20


@contextlib.contextmanager
def trial(env: TabletopEnv) -> Iterator[None]:
    """Inside, `env.advance` may be called at will; afterwards the simulation is what it was, to the bit."""
    before = copy.copy(env.data)
    try:
        yield
    finally:
        mujoco.mj_copyData(env.data, env.model, before)


def rollout(env: TabletopEnv, actions: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each of several action sequences (S, H, A) would do from now.

    Returns:
        The objects' positions (S, H, N, 3) and the tool's (S, H, 3) after each step, metres in W.
    """
    samples, steps, _ = actions.shape
    objects, tool = np.empty((samples, steps, env.config.num_objects, 3)), np.empty((samples, steps, 3))
    for s in range(samples):
        with trial(env):
            for t in range(steps):
                env.advance(actions[s, t])
                objects[s, t], tool[s, t] = env.object_positions(), env.arm.pose(env.data)[0]
    return objects, tool


def expert_ahead(env: TabletopEnv, steps: int) -> dict[str, NDArray[Any]]:
    """The observation that there would be if the scripted expert acted for `steps` control steps from now."""
    with trial(env):
        expert = ScriptedExpert(env)
        for _ in range(steps):
            env.advance(expert.act())
        return env.observe()


def pick_place_images(env: TabletopEnv) -> NDArray[np.uint8]:
    """Three goal images of a pick and place, uint8 (3, H, W, 3): grasped, held above its goal, placed.

    The scripted expert shows the first two; the third is the goal image of the episode.
    Source: the protocol of V-JEPA 2-AC (arXiv 2506.09985), section 4.

    Raises:
        InvalidInputError: not one object moves, or the expert has failed.
    """
    if not env.task.moves_object or len(env.layout.movers) != 1:
        raise InvalidInputError("three goal images are of one object that is picked and placed")
    (mover,) = env.layout.movers
    goal = env.layout.goal_poses[mover, :2]
    images: list[NDArray[np.uint8]] = []
    with trial(env):
        expert = ScriptedExpert(env)
        for _ in range(MAX_STEPS):
            action = expert.act()
            lifts = action[2] > 0 and action[4] > 0
            if not images and lifts and env.grasped()[mover]:
                images.append(env.observe()["image"])
            env.advance(action)
            near = np.linalg.norm(env.object_positions()[mover, :2] - goal) <= ABOVE_GOAL_M
            if images and near and env.grasped()[mover]:
                seen = env.observe()
                return np.stack([*images, seen["image"], seen["goal_image"]])
    raise InvalidInputError("the expert has not brought the object above its goal")

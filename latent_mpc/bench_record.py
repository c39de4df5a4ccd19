"""Moments of the agent's own pick-and-place episodes, on which planners are compared.

    python -m latent_mpc.bench_record       records them anew, into bench_moments.safetensors beside this file

What is kept is what the agent saw, images and proprioception, so the moments outlive a model that is trained anew.
The file holds `images` and `goal_images`, each one PNG of N pictures on top of each other as bytes, `proprio` (N, P)
and `phases` (N,), an index into `PHASES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from latent_mpc.agent import load_agent
from latent_mpc.envs import register_envs
from latent_mpc.envs.tasks import GOAL_RADIUS_M
from latent_mpc.loop import Step, position_error_m, run_episode

PATH = Path(__file__).parent / "bench_moments.safetensors"
PHASES = ("before the grasp", "carrying", "near the goal")
NEAR_M = 0.08  # closer to the goal than this is near
FIRST_SEED = 6_000_000  # no evaluation gets there


@dataclass(frozen=True)
class Moment:
    """What an agent sees: image and goal image uint8 (H, W, 3), proprio float32 (P,), and in which phase it is."""

    image: NDArray[np.uint8]
    proprio: NDArray[np.float32]
    goal_image: NDArray[np.uint8]
    phase: str


@cache
def read_moments(path: Path = PATH) -> tuple[Moment, ...]:
    """The recorded moments, those of each phase by turns."""
    file = load_file(path)
    images, goals = _pictures(file["images"], len(file["phases"])), _pictures(file["goal_images"], len(file["phases"]))
    return tuple(
        Moment(image, proprio, goal, PHASES[phase])
        for image, proprio, goal, phase in zip(images, file["proprio"], goals, file["phases"], strict=True)
    )


def record_moments(path: Path = PATH, count: int = 24) -> None:
    """Run the shipped agent, and keep one moment of each episode that comes through the phase whose turn it is.

    The middle one of the steps in that phase; none of them is solved.
    """
    register_envs()
    env = gymnasium.make("latent_mpc/PickPlace-v0", disable_env_checker=True)
    agent = load_agent("panda-tabletop")
    moments: list[Moment] = []
    seed = FIRST_SEED
    with tqdm(total=count, desc="recording", unit="moment") as bar:
        while len(moments) < count:
            watch = _Watch(env, PHASES[len(moments) % len(PHASES)])
            run_episode(env, agent, seed=seed, callbacks=[watch])
            seed += 1
            if watch.moments:
                moments.append(watch.moments[len(watch.moments) // 2])
                bar.update()
    env.close()
    save_file(
        {
            "images": _png([m.image for m in moments]),
            "goal_images": _png([m.goal_image for m in moments]),
            "proprio": np.stack([m.proprio for m in moments]),
            "phases": np.array([PHASES.index(m.phase) for m in moments]),
        },
        path,
    )


class _Watch:
    """Collects the moments of one phase."""

    def __init__(self, env: gymnasium.Env[Any, Any], phase: str) -> None:
        self._env, self._phase, self._touched = env, phase, False
        self.moments: list[Moment] = []

    def begin(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        self._look(observation, info)

    def step(self, step: Step) -> None:
        self._look(step.next_observation, step.info)

    def _look(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        gap = position_error_m(self._env, observation, info)
        self._touched |= bool(info["is_grasped"])
        phase = PHASES[0] if not self._touched else PHASES[1 if gap > NEAR_M else 2]
        if phase == self._phase and gap > GOAL_RADIUS_M and (info["is_grasped"] or not self._touched):
            image, proprio, goal = (observation[k].copy() for k in ("image", "proprio", "goal_image"))
            self.moments.append(Moment(image, proprio, goal, phase))


def _png(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) -> the bytes of one PNG."""
    return np.frombuffer(iio.imwrite("<bytes>", np.concatenate(images), extension=".png"), np.uint8)


def _pictures(png: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """What `_png` wrote -> (count, H, W, 3)."""
    image = iio.imread(png.tobytes(), extension=".png")
    return image.reshape(count, -1, *image.shape[1:])


if __name__ == "__main__":
    record_moments()

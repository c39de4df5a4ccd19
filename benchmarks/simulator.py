"""How fast the environment steps, images included, by image size; one process, one core.

python benchmarks/simulator.py
"""

from __future__ import annotations

import platform
import time

import gymnasium
import numpy as np

import latent_mpc  # noqa: F401  (registers the environments)
from latent_mpc.envs.play import PlayPolicy
from latent_mpc.envs.tabletop import TabletopConfig

STEPS = 200


def steps_per_second(image_size: int, supersample: int) -> float:
    """Steps of play a second; play's own thinking is not counted."""
    config = TabletopConfig(image_size=image_size, supersample=supersample)
    env = gymnasium.make("latent_mpc/PickPlace-v0", config=config).unwrapped
    env.reset(seed=0, options={"goal_image": False})
    play = PlayPolicy(env, np.random.default_rng(0))
    seconds = 0.0
    for _ in range(STEPS):
        action = play.act()
        started = time.perf_counter()
        env.step(action)
        seconds += time.perf_counter() - started
    env.close()
    return STEPS / seconds


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print("| image | supersampled | steps a second |\n|---|---|---|")
    for image_size, supersample in ((64, 1), (64, 2), (96, 1), (96, 2), (128, 1)):
        print(f"| {image_size} px | {supersample}× | {steps_per_second(image_size, supersample):.0f} |")


if __name__ == "__main__":
    main()

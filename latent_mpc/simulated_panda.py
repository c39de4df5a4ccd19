"""The tabletop environment's scene, for a simulated Panda that is driven from outside."""

from __future__ import annotations

from pathlib import Path

import mujoco

from latent_mpc.envs import arm
from latent_mpc.envs.rendering import make_renderer
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.robots.panda import panda
from latent_mpc.robots.world import SceneCamera, SimulationConfig
from latent_mpc.types import WorkspaceSpec

# Where the tabletop's tool may go. The fingertips may come to 8 mm of the table; the environment's own box ends at 15.
TABLETOP = WorkspaceSpec(low_m=(0.28, -0.30, 0.008), high_m=(0.72, 0.30, 0.32))
SERVO_LAG_S = 0.08  # of the simulated Panda behind moving setpoints, where it follows a path best


def simulation_config(env: TabletopEnv, folder: Path, seed: int) -> SimulationConfig:
    """The scene that `env` was reset to, and its camera; the model is saved in `folder`. seed: of the latencies."""
    scene = folder / "scene.mjb"
    mujoco.mj_saveModel(env.model, str(scene), None)
    c = env.config
    camera = SceneCamera(make_renderer, c.camera, c.image_size, c.supersample, seed=seed)
    return SimulationConfig(scene, panda(arm.PANDA_XML), tuple(env.data.qpos), camera)

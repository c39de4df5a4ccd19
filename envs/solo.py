"""One object of a scene as it would look alone: the same arm, the object painted a plain red, plain light.

What the eye has to learn (world_model/attention.py) is to see in any scene what this picture shows. Round things are
shown unturned.
"""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs import scene
from latent_mpc.envs.play import ROUND_SHAPES
from latent_mpc.envs.rendering import make_renderer, render
from latent_mpc.envs.tabletop import TabletopEnv

AWAY_M = -5.0  # below the floor


class SoloView:
    """Renders an environment's observation as if each object were alone; reads the simulator, and changes nothing."""

    def __init__(self, env: TabletopEnv) -> None:
        self._env = env
        num_objects = env.config.num_objects
        parts = scene.most_parts(env.config.shapes)
        self._model = scene.build_model(num_objects, env.config.physics_dt_s, num_parts=parts)
        self._data = mujoco.MjData(self._model)
        self._shown: list[scene.ObjectSpec] = []
        self._qpos = [int(self._model.joint(f"object{i}").qposadr[0]) for i in range(num_objects)]
        side = env.config.image_size * env.config.supersample
        self._renderer = make_renderer(self._model, side, side)

    def render(self) -> NDArray[np.uint8]:
        """Images uint8 (N, size, size, 3), one for each object."""
        env, data = self._env, self._data
        self._shape()
        arm = self._qpos[0]
        data.qpos[:arm] = env.data.qpos[:arm]
        for at in self._qpos:
            data.qpos[at + 2] = AWAY_M
        images = []
        for at, spec, pose in zip(self._qpos, env.objects, env.object_poses(), strict=True):
            data.qpos[at : at + 7] = pose
            if spec.shape in ROUND_SHAPES:
                data.qpos[at + 3 : at + 7] = 1, 0, 0, 0
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_camlight(self._model, data)
            images.append(render(self._renderer, data, env.config.camera, env.config.supersample))
            data.qpos[at + 2] = AWAY_M
        return np.stack(images)

    def _shape(self) -> None:
        """Give the objects the environment's shapes, which change at each of its resets."""
        wanted = [replace(spec, rgb=scene.COLOURS["red"]) for spec in self._env.objects]
        if wanted == self._shown:
            return
        for i, spec in enumerate(wanted):
            scene.set_object(self._model, i, spec)
        mujoco.mj_setConst(self._model, self._data)
        self._shown = wanted

    def close(self) -> None:
        self._renderer.close()

"""One object of a scene as it would look alone: the same arm, a plain red cube in the object's place, plain light.

What the eye has to learn (world_model/attention.py) is to see in any scene what this picture shows. The cube stands on
what the object stands on, whatever the object's height, and round things are shown unturned.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs import scene
from latent_mpc.envs.play import ROUND_SHAPES
from latent_mpc.envs.rendering import make_renderer, render
from latent_mpc.envs.tabletop import TabletopEnv

CUBE = scene.ObjectSpec("cube", (0.02, 0.02, 0.02), scene.COLOURS["red"])


class SoloView:
    """Renders an environment's observation as if each object were alone; reads the simulator, and changes nothing."""

    def __init__(self, env: TabletopEnv) -> None:
        self._env = env
        self._model = scene.build_model(1, env.config.physics_dt_s)
        self._data = mujoco.MjData(self._model)
        scene.set_object(self._model, 0, CUBE)
        mujoco.mj_setConst(self._model, self._data)
        side = env.config.image_size * env.config.supersample
        self._renderer = make_renderer(self._model, side, side)

    def render(self) -> NDArray[np.uint8]:
        """Images uint8 (N, size, size, 3), one for each object."""
        env, data = self._env, self._data
        arm = int(self._model.joint("object0").qposadr[0])
        data.qpos[:arm] = env.data.qpos[:arm]
        images = []
        for spec, pose in zip(env.objects, env.object_poses(), strict=True):
            data.qpos[arm:] = pose
            data.qpos[arm + 2] += CUBE.half_size_m[2] - spec.half_size_m[2]
            if spec.shape in ROUND_SHAPES:
                data.qpos[arm + 3 :] = 1, 0, 0, 0
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_camlight(self._model, data)
            images.append(render(self._renderer, data, env.config.camera, env.config.supersample))
        return np.stack(images)

    def close(self) -> None:
        self._renderer.close()

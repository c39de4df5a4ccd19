"""Drives the simulated Panda by end-effector displacements: inverse kinematics (mink) and position servos.

Frames: W world, E the tool centre point ("tcp"), which points down; its yaw is the angle about W's z.
"""

from __future__ import annotations

from pathlib import Path

import mink
import mujoco
import numpy as np
from numpy.typing import NDArray

PANDA_XML = Path(__file__).with_name("panda.xml")
FINGER_RANGE_M = 0.04  # travel of one finger; the opening is twice that
NUM_JOINTS = 7
HOME_Q_RAD = np.array([0.0, 0.10, 0.0, -2.35, 0.0, 2.45, np.pi / 4])


class Arm:
    """End-effector control of the arm in `model`; holds no state of its own beside the inverse kinematics' scratch."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._tcp = model.site("tcp").id
        alone = mujoco.MjModel.from_xml_path(str(PANDA_XML))  # the arm without a scene, for the kinematics
        self._range = alone.jnt_range.T.copy()
        self._configuration = mink.Configuration(alone)
        self._task = mink.FrameTask("tcp", "site", position_cost=1.0, orientation_cost=0.3, lm_damping=1e-3)
        posture = mink.PostureTask(alone, cost=1e-3)
        posture.set_target(np.concatenate([HOME_Q_RAD, [FINGER_RANGE_M / 2] * 2]))
        self._tasks = [self._task, posture]
        self._limits = [mink.ConfigurationLimit(alone)]

    def pose(self, data: mujoco.MjData) -> tuple[NDArray[np.float64], float]:
        """Measured position of E in W (3,) in metres and yaw in radians."""
        R_WE = data.site_xmat[self._tcp].reshape(3, 3)
        return data.site_xpos[self._tcp].copy(), float(np.arctan2(R_WE[1, 0], R_WE[0, 0]))

    def finger_opening_m(self, data: mujoco.MjData) -> float:
        """Distance between the finger pads in metres."""
        return float(data.qpos[NUM_JOINTS] + data.qpos[NUM_JOINTS + 1])

    def solve(
        self, q_rad: NDArray[np.float64], position: NDArray[np.float64], yaw: float, iterations: int
    ) -> NDArray[np.float64]:
        """Joint angles (7,) that bring E to `position` (3,) with `yaw`, pointing down, searched from `q_rad` (7,)."""
        c, s = np.cos(yaw), np.sin(yaw)
        X_WE = np.eye(4)
        X_WE[:3, :3] = [[c, s, 0], [s, -c, 0], [0, 0, -1]]  # Rz(yaw) diag(1, -1, -1)
        X_WE[:3, 3] = position
        self._task.set_target(mink.SE3.from_matrix(X_WE))
        q = np.concatenate([q_rad, [FINGER_RANGE_M / 2] * 2])
        self._configuration.update(np.clip(q, *self._range))
        for _ in range(iterations):
            velocity = mink.solve_ik(
                self._configuration,
                self._tasks,
                dt=1.0,
                solver="daqp",
                damping=1e-6,
                limits=self._limits,
            )
            self._configuration.integrate_inplace(velocity, 1.0)
        return self._configuration.q[:NUM_JOINTS].copy()

    def place(self, data: mujoco.MjData, position: NDArray[np.float64], yaw: float) -> None:
        """Put the arm at a pose at once, at rest, fingers open (for resets and goal images only)."""
        data.qpos[:NUM_JOINTS] = self.solve(HOME_Q_RAD, position, yaw, iterations=30)
        data.qpos[NUM_JOINTS : NUM_JOINTS + 2] = FINGER_RANGE_M
        data.qvel[: NUM_JOINTS + 2] = 0
        data.ctrl[:NUM_JOINTS] = data.qpos[:NUM_JOINTS]
        data.ctrl[NUM_JOINTS] = FINGER_RANGE_M

    def move(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        position: NDArray[np.float64],
        yaw: float,
        opening: float,
        num_steps: int,
    ) -> None:
        """Step physics `num_steps` times towards a pose; the setpoint ramps over the first half of them.

        Args:
            position: target of E in W, (3,), metres.
            yaw: target yaw, radians.
            opening: finger opening as a fraction, 0 closed to 1 open.
        """
        start = data.ctrl[:NUM_JOINTS].copy()
        target = self.solve(data.qpos[:NUM_JOINTS], position, yaw, iterations=3)
        data.ctrl[NUM_JOINTS] = opening * FINGER_RANGE_M
        ramp = num_steps // 2
        for i in range(ramp):
            data.ctrl[:NUM_JOINTS] = start + (target - start) * ((i + 1) / ramp)
            mujoco.mj_step(model, data)
        mujoco.mj_step(model, data, nstep=num_steps - ramp)

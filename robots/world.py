"""The simulated robot's physics: an arm under position servos in its scene, its camera, and its faults.

    τ = clip(k_p (u − q) − k_v q̇, ±τ_max) + g(q)      g: gravity, always compensated
    τ = −clip(k_v q̇, ±τ_max) + g(q)                  without torque: the gears' friction

A setpoint reaches the servos as a ramp over one control period, as a real arm's own controller interpolates. Every one
is checked first; setpoint_check.py counts what no sound controller sends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from latent_mpc.robots.robot import Array, RobotSpec
from latent_mpc.robots.setpoint_check import SetpointCheck
from latent_mpc.types import InvalidInputError, UnknownNameError

FRAME_FAULTS = ("", "stalled", "black", "repeated", "swapped", "wrong size")
STUCK = 1e6  # N·m·s/rad, of a blocked joint


@dataclass(frozen=True)
class SceneCamera:
    """How the camera of a scene sees it; frames reach the reader after a random latency, in order.

    Attributes:
        make_renderer: (model, height, width) -> mujoco.Renderer, a function that another process can import.
        name: of the camera in the scene. size: side of the square image in pixels, averaged over `supersample`².
        frame_hz: frames a second. latency_s: (shortest, longest), uniform. seed: of the latencies.
    """

    make_renderer: Callable[[mujoco.MjModel, int, int], mujoco.Renderer]
    name: str = "front"
    size: int = 64
    supersample: int = 2
    frame_hz: float = 20.0
    latency_s: tuple[float, float] = (0.03, 0.06)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size, self.supersample, self.frame_hz) <= 0:
            raise InvalidInputError("size, supersample and frame_hz must be positive")
        if not 0 <= self.latency_s[0] <= self.latency_s[1]:
            raise InvalidInputError(f"latency_s must be a range from 0 up, got {self.latency_s}")


@dataclass(frozen=True)
class SimulationConfig:
    """A simulated robot in its scene.

    Attributes:
        scene: MJCF (.xml) or a compiled model (.mjb); a position actuator for every joint of `spec`.
        spec: of the arm; its limits are what the setpoints are checked against.
        qpos: the scene's initial state, (nq,); None starts in the model's own, with the arm at home.
        camera: None for a robot without one.
        gripper_actuator: its control range is the opening, 0 to 1; a scene without it has no gripper.
        watchdog_s: without a setpoint for so long, the last one is held and a silence is counted.
    """

    scene: Path
    spec: RobotSpec
    qpos: tuple[float, ...] | None = None
    camera: SceneCamera | None = None
    gripper_actuator: str = "gripper"
    watchdog_s: float = 0.1

    def __post_init__(self) -> None:
        if self.watchdog_s <= 0:
            raise InvalidInputError(f"watchdog_s must be positive, got {self.watchdog_s}")


@dataclass(frozen=True)
class Faults:
    """What is to go wrong; `Faults()` is a sound robot.

    Attributes:
        frozen: states are no longer sent, though the robot moves on. nan: states hold NaN.
        blocked: a joint that cannot turn, by name; "" for none. protective_stop: brakes, and obeys nothing.
        frame: one of `FRAME_FAULTS`. flash: the image is brighter, from the next frame on.
    """

    frozen: bool = False
    nan: bool = False
    blocked: str = ""
    protective_stop: bool = False
    frame: str = ""
    flash: bool = False

    def __post_init__(self) -> None:
        if self.frame not in FRAME_FAULTS:
            raise UnknownNameError("frame fault", self.frame, list(FRAME_FAULTS))


class World:
    """The scene, stepped by hand: no clock, no process."""

    def __init__(self, config: SimulationConfig) -> None:
        """Load the scene.

        Raises:
            InvalidInputError: no such file, a joint without a position actuator, or a wrong `qpos`.
            UnknownNameError: the scene has no such joint or camera.
        """
        self.config, self.spec = config, config.spec
        self.model = load_scene(config.scene)
        self.data = mujoco.MjData(self.model)
        m = self.model
        joints = [_find(m, mujoco.mjtObj.mjOBJ_JOINT, "joint", name) for name in self.spec.joint_names]
        self.qpos_of, self.dof_of = m.jnt_qposadr[joints], m.jnt_dofadr[joints]
        servo = (m.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (m.actuator_biasprm[:, 1] < 0)  # −k_p q
        driven = {int(m.actuator_trnid[i, 0]): i for i in np.flatnonzero(servo)}
        if missing := [n for n, j in zip(self.spec.joint_names, joints, strict=True) if j not in driven]:
            raise InvalidInputError(f"{config.scene} has no position actuator for the joints {missing}")
        self._motors = np.array([driven[j] for j in joints])
        self._gripper = mujoco.mj_name2id(m, mujoco.mjtObj.mjOBJ_ACTUATOR, config.gripper_actuator)
        self._gain, self._bias = m.actuator_gainprm[:, 0].copy(), m.actuator_biasprm[:, 1].copy()
        self._friction = -m.actuator_biasprm[self._motors, 2]  # k_v, which plays its part without torque
        self._sound_damping = m.dof_damping.copy()
        self._damping = self._sound_damping.copy()  # with the faults
        self.check, self._anew = SetpointCheck(self.spec), True
        self.sequence = 0  # of the last command of any kind
        self.faults, self.powered, self.motion_s = Faults(), True, math.nan
        self._goal, self._left_s = self.q_rad, 0.0  # where the setpoint's ramp ends, and in what time
        self._braking = np.zeros(self.spec.num_joints)  # velocity that a stop has still to take off
        self._renderer: mujoco.Renderer | None = None
        start = np.array(m.qpos0 if config.qpos is None else config.qpos, float)
        if start.shape != (m.nq,) or not np.isfinite(start).all():
            raise InvalidInputError(f"qpos must be {m.nq} finite numbers for {config.scene}, got shape {start.shape}")
        if config.qpos is None:
            start[self.qpos_of] = self.spec.home_rad
        self.place(start)
        self.power(False)
        if config.camera is not None:
            _find(m, mujoco.mjtObj.mjOBJ_CAMERA, "camera", config.camera.name)

    # ---- what a device measures and does ----

    @property
    def q_rad(self) -> Array:
        return self.data.qpos[self.qpos_of]

    @property
    def qd_rad_s(self) -> Array:
        return self.data.qvel[self.dof_of]

    @property
    def torque_nm(self) -> Array:
        return self.data.actuator_force[self._motors]

    @property
    def gripper(self) -> float:
        """Opening, 0 to 1; 1 without a gripper."""
        if self._gripper < 0:
            return 1.0
        low, high = self.model.actuator_ctrlrange[self._gripper]
        return float(np.clip((self.data.actuator_length[self._gripper] - low) / (high - low), 0, 1))

    def power(self, on: bool) -> None:
        """Torque on, holding the measured position; or off: gravity stays compensated and the gears' friction brakes.

        The friction is k_v q̇, at most τ_max, as the servo's damping; see `_rub`."""
        if on:
            self.data.ctrl[self._motors] = self.q_rad
            self._grip(self.gripper)
        if on != self.powered:
            self.model.actuator_gainprm[:, 0] = on * self._gain
            self.model.actuator_biasprm[:, 1] = on * self._bias
            self.model.actuator_biasprm[self._motors, 2] = -on * self._friction
            self.model.dof_damping[:] = self._damping
        self.powered, self._anew = on, True
        self._left_s, self._braking = 0.0, np.zeros(self.spec.num_joints)

    def move(self, sequence: int, q_rad: Array, gripper: float, motion_s: float) -> None:
        """Follow a setpoint, if it is finite and the torque is on; counted either way."""
        if not self.powered:
            self.check.counts.unarmed += 1
            return
        if self._anew:
            self.check.begin(self.sequence, self.data.ctrl[self._motors], motion_s)
            self._anew = False
        self.sequence = sequence
        if not self.check.take(sequence, q_rad, gripper, motion_s):
            return
        self._braking, self.motion_s = np.zeros(self.spec.num_joints), motion_s
        self._goal, self._left_s = q_rad.copy(), 1 / self.spec.control_hz
        self._grip(gripper)

    def brake(self) -> None:
        """Bring the setpoint to rest at the joints' largest deceleration, and hold it there."""
        if self._left_s > 0:
            self._braking = (self._goal - self.data.ctrl[self._motors]) / self._left_s
        self._left_s, self._anew = 0.0, True

    def step(self) -> None:
        """One step of physics, `model.opt.timestep` seconds."""
        dt, ctrl = self.model.opt.timestep, self.data.ctrl
        if self._braking.any():
            slower = np.abs(self._braking) - dt * np.array(self.spec.acceleration_rad_s2)
            self._braking = np.sign(self._braking) * np.maximum(slower, 0)
            ctrl[self._motors] += dt * self._braking
        elif self._left_s > 0:
            rest = (self._goal - ctrl[self._motors]) * max(1 - dt / self._left_s, 0)
            ctrl[self._motors] = self._goal - rest
            self._left_s = max(self._left_s - dt, 0)
        if not self.powered:
            self._rub()
        mujoco.mj_step(self.model, self.data)

    # ---- what a test does ----

    def place(self, qpos: Array) -> None:
        """Put every coordinate of `qpos` (nq,) that is not NaN there at once, its joint at rest."""
        given = np.isfinite(qpos)
        self.data.qpos[given] = qpos[given]
        ends = [*self.model.jnt_qposadr[1:], self.model.nq]
        dof_ends = [*self.model.jnt_dofadr[1:], self.model.nv]
        for j, (a, b) in enumerate(zip(self.model.jnt_qposadr, ends, strict=True)):
            if given[a:b].any():
                self.data.qvel[self.model.jnt_dofadr[j] : dof_ends[j]] = 0
        mujoco.mj_forward(self.model, self.data)
        if given[self.qpos_of].any():
            self.data.ctrl[self._motors], self._anew = self.q_rad, True
            self._left_s, self._braking = 0.0, np.zeros(self.spec.num_joints)
            self._grip(self.gripper)

    def break_down(self, faults: Faults) -> None:
        """Have these faults from now on, and no others. Raises UnknownNameError for an unknown joint."""
        if faults.blocked and faults.blocked not in self.spec.joint_names:
            raise UnknownNameError("joint", faults.blocked, list(self.spec.joint_names))
        self._damping = self._sound_damping.copy()
        if faults.blocked:
            self._damping[self.dof_of[self.spec.joint_names.index(faults.blocked)]] = STUCK
        self.model.dof_damping[:] = self._damping
        self.faults = faults

    def render(self) -> np.ndarray:
        """What the camera sees now, uint8 (size, size, 3) RGB, without the frame's faults."""
        c = self.config.camera
        if c is None:
            raise InvalidInputError("this simulated robot has no camera; give SimulationConfig.camera")
        if self._renderer is None:
            self._renderer = c.make_renderer(self.model, c.size * c.supersample, c.size * c.supersample)
        self._renderer.update_scene(self.data, camera=c.name)
        fine = self._renderer.render().astype(np.uint16)
        n = c.supersample
        return (sum(fine[i::n, j::n] for i in range(n) for j in range(n)) // n**2).astype(np.uint8)

    def close(self) -> None:
        """Free the renderer; may be called twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _rub(self) -> None:
        """The gears' friction in the next step.

        It is the joints' own damping, which the integrator takes implicitly, and no force of the motors: MuJoCo takes
        one that is clipped explicitly, and at 4 ms a wrist then trembles at ±0.2 rad/s without an end, as
        τ_max dt / (2 I) is the speed at which it is clipped again.
        """
        most = np.array(self.spec.torque_nm) / np.maximum(np.abs(self.qd_rad_s), 1e-9)
        self.model.dof_damping[self.dof_of] = self._damping[self.dof_of] + np.minimum(self._friction, most)

    def _grip(self, opening: float) -> None:
        if self._gripper >= 0:
            low, high = self.model.actuator_ctrlrange[self._gripper]
            self.data.ctrl[self._gripper] = low + np.clip(opening, 0, 1) * (high - low)


def load_scene(path: Path) -> mujoco.MjModel:
    """A model from MJCF or from a compiled .mjb. Raises InvalidInputError with MuJoCo's own complaint."""
    try:
        if path.suffix == ".mjb":
            return mujoco.MjModel.from_binary_path(str(path))
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise InvalidInputError(f"scene {path}: {error}") from error


def _find(model: mujoco.MjModel, kind: mujoco.mjtObj, word: str, name: str) -> int:
    if (found := mujoco.mj_name2id(model, kind, name)) < 0:
        count = {"joint": model.njnt, "camera": model.ncam}[word]
        known = [mujoco.mj_id2name(model, kind, i) for i in range(count)]
        raise UnknownNameError(word, name, [n for n in known if n])
    return int(found)

"""The tabletop environment: physics, observation and reset; what counts as success is the task's (tasks.py)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latent_mpc.envs import scene, splits
from latent_mpc.envs.arm import Arm
from latent_mpc.envs.rendering import make_renderer, render
from latent_mpc.envs.tasks import Situation, check_objects, for_play, make_task
from latent_mpc.types import InvalidInputError, UnknownNameError

ACTION_DIM = 5  # dx, dy, dz, dyaw, gripper
PROPRIO_DIM = 6  # x, y, z (m), sin yaw, cos yaw, finger opening (m)
MIN_START_DISTANCE_M = 0.10
MOST_ORBIT_DEG = 40.0  # from there on the cameras look over the table, or from straight above


@dataclass(frozen=True)
class RandomisationConfig:
    """Domain randomisation at each reset; everything is off at zero or False.

    Attributes:
        light: relative change of the lamp's brightness and, in metres, of its position.
        table_colour: largest change of each RGB channel of the table.
        table_texture: give the table a pattern (splits.py) in half of the cases.
        object_colour: draw strong colours of any hue for the objects, well apart, instead of the named ones, but none
            of the unseen (splits.py).
        camera_deg: largest rotation of the camera about each of its axes.
        camera_m: largest displacement of the camera along each world axis.
        camera_beyond_deg: in half of the cases the camera goes round the point that it looks at, its azimuth and its
            elevation each by more than camera-jitter's ever do (splits.py) and by up to this; 0 for never.
        every_step: draw anew at each control step, too: for what learns to see, not for what learns to move.
    """

    light: float = 0.0
    table_colour: float = 0.0
    table_texture: bool = False
    object_colour: bool = False
    camera_deg: float = 0.0
    camera_m: float = 0.0
    camera_beyond_deg: float = 0.0
    every_step: bool = False

    def __post_init__(self) -> None:
        for name in ("light", "table_colour", "camera_deg", "camera_m"):
            if getattr(self, name) < 0:
                raise InvalidInputError(f"randomisation.{name} must be at least 0, got {getattr(self, name)}")
        least_deg = splits.CAMERA_JITTER_DEG + splits.CAMERA_GAP_DEG
        if self.camera_beyond_deg != 0 and not least_deg <= self.camera_beyond_deg <= MOST_ORBIT_DEG:
            raise InvalidInputError(
                f"randomisation.camera_beyond_deg must be 0 or from {least_deg:g} to {MOST_ORBIT_DEG:g}, got "
                f"{self.camera_beyond_deg}"
            )


@dataclass(frozen=True)
class TabletopConfig:
    """Geometry, timing and looks. SI units; world frame W at the robot's base, x forward, z up, table at z = 0.

    Attributes:
        num_objects: free objects on the table; which of them move is the task's choice, the others are distractors.
        shapes: drawn from for each object.
        half_size_m: range of an object's half size.
        colours: several objects draw from them without repetition while they last; a single one has the first.
        object_low_m, object_high_m: rectangle (x, y) in which objects start and goals lie.
        tcp_low_m, tcp_high_m: box (x, y, z) that the tool centre point is kept in.
        max_yaw_rad: the gripper's yaw is kept within plus and minus this.
        object_yaw_rad: objects start with a yaw in plus and minus this.
        step_m, step_yaw_rad: what an action of 1 means, per control step.
        control_dt_s, physics_dt_s: the first must be a whole multiple of the second.
        camera: observation camera; image_size: its side in pixels, after averaging
            frames rendered `supersample` times finer.
    """

    num_objects: int = 1
    shapes: tuple[str, ...] = ("cube",)
    half_size_m: tuple[float, float] = (0.02, 0.02)
    colours: tuple[str, ...] = ("red", "blue", "yellow", "green", "purple", "orange")
    object_low_m: tuple[float, float] = (0.37, -0.20)
    object_high_m: tuple[float, float] = (0.63, 0.20)
    tcp_low_m: tuple[float, float, float] = (0.30, -0.28, 0.015)
    tcp_high_m: tuple[float, float, float] = (0.70, 0.28, 0.30)
    home_m: tuple[float, float, float] = (0.36, 0.0, 0.24)
    max_yaw_rad: float = 1.0
    object_yaw_rad: float = 0.785
    step_m: float = 0.06
    step_yaw_rad: float = 0.3
    control_dt_s: float = 0.2
    physics_dt_s: float = 0.004
    camera: str = "front"
    image_size: int = 64
    supersample: int = 2
    randomisation: RandomisationConfig = field(default_factory=RandomisationConfig)

    def __post_init__(self) -> None:
        if self.camera not in scene.CAMERAS:
            raise UnknownNameError("camera", self.camera, list(scene.CAMERAS))
        for kind, names, known in (
            ("shape", self.shapes, scene.SHAPES),
            ("colour", self.colours, scene.COLOURS),
        ):
            for name in names:
                if name not in known:
                    raise UnknownNameError(kind, name, list(known))
            if not names:
                raise InvalidInputError(f"name at least one {kind} of {sorted(known)}")
        steps = self.control_dt_s / self.physics_dt_s
        if steps < 2 or abs(steps - round(steps)) > 1e-9:
            raise InvalidInputError(
                f"control_dt_s {self.control_dt_s} must be a whole multiple (2 or more) of "
                f"physics_dt_s {self.physics_dt_s}"
            )
        if not 1 <= self.num_objects <= 8:
            raise InvalidInputError(f"num_objects must be 1 to 8, got {self.num_objects}")
        if not 0.01 <= self.half_size_m[0] <= self.half_size_m[1] <= 0.035:
            raise InvalidInputError(f"half_size_m must be a range within 0.01 to 0.035, got {self.half_size_m}")
        for low, high in ((self.object_low_m, self.object_high_m), (self.tcp_low_m, self.tcp_high_m)):
            if not all(a < b for a, b in zip(low, high, strict=True)):
                raise InvalidInputError(f"lower corner {low} must lie below upper corner {high}")
        if min(self.step_m, self.step_yaw_rad, self.image_size, self.supersample) <= 0:
            raise InvalidInputError("step_m, step_yaw_rad, image_size and supersample must be positive")


# What a task is made with when nobody says.
DEFAULTS = {
    "Rearrange": TabletopConfig(num_objects=2),
    "Stack": TabletopConfig(num_objects=2),
    "ClearTable": TabletopConfig(num_objects=3, shapes=("cup", "plate", "box"), half_size_m=(0.02, 0.03)),
}


class TabletopEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """A Panda at a table, with a goal given as an image.

    Observation: `image` and `goal_image` uint8 (size, size, 3); `proprio` float32 (6,): tool position (m) in W,
    sine and cosine of its yaw, finger opening (m).
    Action: float32 (5,) in [-1, 1]: displacement of the tool along W's axes (times `step_m`), yaw (times
    `step_yaw_rad`), gripper (-0.5 and below open, 0.5 and above closed, linear between).
    Info, for scoring only: `object_positions`, `goal_positions` float64 (N, 3) in W, `is_success`, `is_grasped` (any
    object that is to move), `placed` bool (N,): which objects lie where they belong, released and at rest, those that
    are to move lifted before; `share_placed`: how many of those that are to move, 0 to 1.
    Reward: 1 on the step of success, else 0. Terminated: success. Truncated: by `gymnasium.make`'s time limit, or
    after 45 steps for each object that moves where the task may move several.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(
        self,
        task: str,
        config: TabletopConfig | None = None,
        *,
        num_objects: int | None = None,
        split: str | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        """Make a task's environment.

        Args:
            task: a name in tasks.TASKS.
            config: None for the task's own.
            num_objects: in place of the configuration's.
            split: a name in splits.SPLITS: looks that no training has seen.
            render_mode, width, height: of `render`.
        Raises:
            UnknownNameError: no such task or split.
            InvalidInputError: the task cannot be done with so many objects, or of these shapes.
        """
        if render_mode not in (None, "rgb_array"):
            raise InvalidInputError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.task, self.render_mode, self.split = make_task(task), render_mode, split
        splits.check_name(split)
        config = config or DEFAULTS.get(task, TabletopConfig())
        if num_objects is not None:
            config = replace(config, num_objects=num_objects)
        check_objects(task, config)
        self.config = config
        self._render_size = (height, width)
        self.model = scene.build_model(
            config.num_objects,
            config.physics_dt_s,
            num_parts=scene.most_parts(scene.UNSEEN_SHAPES if split == splits.SHAPES else config.shapes),
            tray=self.task.tray,
            table_textures=self._table_textures(),
        )
        self.data = mujoco.MjData(self.model)
        self.arm = Arm(self.model)
        self._physics_steps = round(config.control_dt_s / config.physics_dt_s)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._looks = {
            name: getattr(self.model, name).copy()
            for name in ("light_diffuse", "light_pos", "light_dir", "geom_rgba", "geom_matid", "cam_pos", "cam_quat")
        }
        self._split_rng = np.random.default_rng()
        self._pad_of = np.full(self.model.ngeom, -1)  # 0 left, 1 right, -1 neither
        self._pad_of[[self.model.geom(name).id for name in ("left_pad", "right_pad")]] = 0, 1
        first = self.model.body("object0").id
        self._object_of = np.maximum(self.model.geom_bodyid - first, -1)  # of each geom; -1 none
        self._object_qpos = [int(self.model.joint(f"object{i}").qposadr[0]) for i in range(config.num_objects)]
        self._object_qvel = [int(self.model.joint(f"object{i}").dofadr[0]) for i in range(config.num_objects)]
        self.objects: tuple[scene.ObjectSpec, ...] = ()
        self._goal_image = np.zeros((config.image_size, config.image_size, 3), np.uint8)
        image = spaces.Box(0, 255, self._goal_image.shape, np.uint8)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]  # gymnasium's own stubs disagree
            image=image, proprio=spaces.Box(-2.0, 2.0, (PROPRIO_DIM,), np.float32), goal_image=image
        )
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    # ---- Gymnasium ----

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: makes the episode deterministic to the pixel.
            options: any of `object_poses` and `goal_poses` (N, 4): x, y, z (m), yaw (rad); `arm_pose` and
                `goal_arm_pose` (4,), the same of the tool; `goal_image` False skips the goal (for play), and then
                objects may start where a goal would have them, stacked or in the tray.
        Raises:
            InvalidInputError: an unknown option, a wrong shape, or a start within 10 cm of its goal.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._split_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        options = dict(options or {})
        known = ["object_poses", "goal_poses", "arm_pose", "goal_arm_pose", "goal_image"]
        if unknown := sorted(set(options) - set(known)):
            raise InvalidInputError(f"unknown reset options {unknown}; available: {known}")
        n = self.config.num_objects
        given = {k: _poses(options[k], k, n if "poses" in k else None) for k in known[:4] if options.get(k) is not None}
        mujoco.mj_resetData(self.model, self.data)
        self._dress()
        with_goal = bool(options.get("goal_image", True))
        layout = self.task.sample(self.np_random, self.config, [o.half_size_m[2] for o in self.objects], given)
        if not with_goal and "object_poses" not in given:
            layout = for_play(self.np_random, layout, self.task.play_at_goal)
        if with_goal and self.task.moves_object:
            gaps = np.linalg.norm(layout.object_poses[:, :3] - layout.goal_poses[:, :3], axis=1)
            for i in layout.movers:
                if gaps[i] < MIN_START_DISTANCE_M:
                    raise InvalidInputError(
                        f"object {i} starts {100 * gaps[i]:.1f} cm from its goal; starts must be at least "
                        f"{100 * MIN_START_DISTANCE_M:.0f} cm away"
                    )
        if with_goal:
            self._arrange(layout.goal_poses, layout.goal_arm_pose)
            self._goal_image = self._observe_image()
        self._arrange(layout.object_poses, layout.arm_pose)
        self.layout, self._elapsed = layout, 0
        situation = self._situation()
        self.task.begin(situation)
        return self.observe(), self._info(situation, False)

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Move for one control period; actions outside [-1, 1] are clipped.

        Raises:
            InvalidInputError: the action has another shape or is not finite.
        """
        self.advance(action)
        situation = self._situation()
        success = self.task.update(situation)
        self._elapsed += 1
        if self.config.randomisation.every_step:
            self._dress_looks()
        per_object = self.task.steps_per_object
        truncated = per_object is not None and self._elapsed >= per_object * len(self.layout.movers)
        return self.observe(), float(success), success, truncated, self._info(situation, success)

    def advance(self, action: NDArray[np.float32]) -> None:
        """The physics of `step` and nothing else: what is neither seen nor judged, as in a trial (trial.py).

        Raises:
            InvalidInputError: as `step`.
        """
        a = np.asarray(action, dtype=np.float64)
        if a.shape != (ACTION_DIM,) or not np.isfinite(a).all():
            raise InvalidInputError(f"action must be finite with shape ({ACTION_DIM},), got {action!r}")
        a = a.clip(-1, 1)
        c = self.config
        position, yaw = self.arm.pose(self.data)
        position = np.clip(position + c.step_m * a[:3], c.tcp_low_m, c.tcp_high_m)
        yaw = float(np.clip(yaw + c.step_yaw_rad * a[3], -c.max_yaw_rad, c.max_yaw_rad))
        opening = float(np.clip(0.5 - a[4], 0, 1))
        self.arm.move(self.model, self.data, position, yaw, opening, self._physics_steps)

    def judge(self, qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> bool:
        """Whether the task is done when another simulation of this scene is in a state (nq,), (nv,).

        The counterpart of `step` for an arm that is driven from outside: one call a control step.
        """
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self.model, self.data)
        return self.task.update(self._situation())

    def render(self) -> NDArray[np.uint8]:
        """The overview camera at the size given to the constructor, uint8 (height, width, 3)."""
        return self.render_camera("overview", *self._render_size)

    def render_camera(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """Any named camera at any size, uint8 (height, width, 3), four times supersampled."""
        if camera not in scene.CAMERAS:
            raise UnknownNameError("camera", camera, list(scene.CAMERAS))
        return self._render(camera, height, width, supersample=2)

    def render_goal(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """What the goal looks like from a named camera at any size, uint8 (height, width, 3)."""
        before = self.data.qpos.copy(), self.data.qvel.copy(), self.data.ctrl.copy()
        self._arrange(self.layout.goal_poses, self.layout.goal_arm_pose)
        image = self.render_camera(camera, height, width)
        self.data.qpos[:], self.data.qvel[:], self.data.ctrl[:] = before
        mujoco.mj_forward(self.model, self.data)
        return image

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    # ---- parts ----

    def _table_textures(self) -> dict[str, NDArray[np.uint8]]:
        """The patterns that the table may get."""
        unseen = splits.table_textures() if self.split == splits.TEXTURES else {}
        return unseen | (splits.training_textures() if self.config.randomisation.table_texture else {})

    def _dress(self) -> None:
        """Draw shapes, sizes and looks."""
        c, rng = self.config, self.np_random
        order = rng.permutation(len(c.colours)) if c.num_objects > 1 else [0]
        objects = []
        for i in range(c.num_objects):
            shape = c.shapes[int(rng.integers(len(c.shapes)))]
            uneven = shape in ("box", "cylinder", "cup")
            half = rng.uniform(*c.half_size_m, size=3) if uneven else rng.uniform(*c.half_size_m)
            a, b, h = np.broadcast_to(half, 3)
            if shape in ("cylinder", "cup"):
                b = a
            if shape == "plate":
                h = scene.PLATE_HALF_HEIGHT_M
            rgb = scene.COLOURS[c.colours[int(order[i % len(order)])]]
            objects.append(scene.ObjectSpec(shape, (a, b, h), rgb))
        self.objects = tuple(splits.dress_objects(self.split, objects, self._split_rng))
        for i, spec in enumerate(self.objects):
            scene.set_object(self.model, i, spec)
        self._plain_looks()
        mujoco.mj_setConst(self.model, self.data)
        self._dress_looks()

    def _dress_looks(self) -> None:
        """Draw what is randomised of colours, light, table and camera."""
        c, r, rng, m = self.config, self.config.randomisation, self.np_random, self.model
        self._plain_looks()
        colours = splits.random_colours(rng, c.num_objects) if r.object_colour else []
        if colours and self.split != splits.COLOURS:
            self.objects = tuple(replace(o, rgb=rgb) for o, rgb in zip(self.objects, colours, strict=True))
        for i, spec in enumerate(self.objects):
            scene.paint_object(m, i, spec.rgb)
        m.light_diffuse *= 1 + rng.uniform(-r.light, r.light)
        m.light_pos += rng.uniform(-r.light, r.light, 3)
        table = m.geom("table").id
        m.geom_rgba[table, :3] = np.clip(m.geom_rgba[table, :3] + rng.uniform(-r.table_colour, r.table_colour, 3), 0, 1)
        if r.table_texture and rng.random() < 0.5:
            m.geom_matid[table] = m.material(str(rng.choice(list(splits.training_textures())))).id
        if r.camera_beyond_deg and rng.random() < 0.5:
            scene.orbit_camera(m, c.camera, *splits.camera_beyond(r.camera_beyond_deg, rng))
        camera = m.camera(c.camera).id
        m.cam_pos[camera] += rng.uniform(-r.camera_m, r.camera_m, 3)
        rotation = np.deg2rad(rng.uniform(-r.camera_deg, r.camera_deg, 3))
        mujoco.mju_quatIntegrate(m.cam_quat[camera], rotation, 1.0)
        splits.dress_scene(self.split, m, c.camera, self._split_rng)
        mujoco.mj_camlight(m, self.data)  # a step's picture is taken before the next physics

    def _plain_looks(self) -> None:
        """Colours, light and camera as compiled."""
        for name, value in self._looks.items():
            getattr(self.model, name)[:] = value

    def _arrange(self, object_poses: NDArray[np.float64], arm_pose: NDArray[np.float64]) -> None:
        """Put objects (N, 4) and tool (4,) in place, at rest."""
        self.data.qvel[:] = 0
        for adr, (x, y, z, yaw) in zip(self._object_qpos, object_poses, strict=True):
            self.data.qpos[adr : adr + 7] = x, y, z, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        self.arm.place(self.data, arm_pose[:3], float(arm_pose[3]))
        mujoco.mj_forward(self.model, self.data)

    def _render(self, camera: str, height: int, width: int, supersample: int) -> NDArray[np.uint8]:
        size = height * supersample, width * supersample
        if size not in self._renderers:
            self._renderers[size] = make_renderer(self.model, *size)
        return render(self._renderers[size], self.data, camera, supersample)

    def _observe_image(self) -> NDArray[np.uint8]:
        return self._render(self.config.camera, self.config.image_size, self.config.image_size, self.config.supersample)

    def observe(self) -> dict[str, NDArray[Any]]:
        """The observation of this moment."""
        position, yaw = self.arm.pose(self.data)
        proprio = np.array([*position, np.sin(yaw), np.cos(yaw), self.arm.finger_opening_m(self.data)], np.float32)
        return {"image": self._observe_image(), "proprio": proprio, "goal_image": self._goal_image.copy()}

    def object_positions(self) -> NDArray[np.float64]:
        """Centres of the objects in W, (N, 3), metres."""
        return np.stack([self.data.qpos[adr : adr + 3] for adr in self._object_qpos])

    def object_poses(self) -> NDArray[np.float64]:
        """Poses of the objects in W, (N, 7): position in metres, quaternion (w, x, y, z)."""
        return np.stack([self.data.qpos[adr : adr + 7] for adr in self._object_qpos])

    def object_yaws(self) -> NDArray[np.float64]:
        """Yaw of each object, (N,), radians."""
        q = np.stack([self.data.qpos[adr + 3 : adr + 7] for adr in self._object_qpos])
        return 2 * np.arctan2(q[:, 3], q[:, 0])

    def grasped(self) -> NDArray[np.bool_]:
        """Whether each object touches both finger pads, (N,)."""
        left, right = self._touching().T
        return left & right

    def _touching(self) -> NDArray[np.bool_]:
        """Contact of each object with each pad, (N, 2)."""
        touching = np.zeros((self.config.num_objects, 2), bool)
        geoms = self.data.contact.geom[: self.data.ncon]
        for one, other in (geoms.T, geoms.T[::-1]):
            objects, pads = self._object_of[one], self._pad_of[other]
            found = (objects >= 0) & (pads >= 0)
            touching[objects[found], pads[found]] = True
        return touching

    def _situation(self) -> Situation:
        left, right = self._touching().T
        return Situation(
            tool_position=self.arm.pose(self.data)[0],
            object_positions=self.object_positions(),
            object_speeds=np.array([np.linalg.norm(self.data.qvel[a : a + 3]) for a in self._object_qvel]),
            grasped=left & right,
            touched=left | right,
            layout=self.layout,
        )

    def _info(self, situation: Situation, success: bool) -> dict[str, Any]:
        movers = list(self.layout.movers)
        return {
            "object_positions": situation.object_positions.copy(),
            "goal_positions": self.layout.goal_poses[:, :3].copy(),
            "is_success": success,
            "is_grasped": bool(situation.grasped[movers].any()),
            "placed": self.task.placed.copy(),
            "share_placed": float(self.task.placed[movers].mean()),
        }


def _poses(value: Any, name: str, count: int | None) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=np.float64)
    shape = (4,) if count is None else (count, 4)
    if array.shape != shape or not np.isfinite(array).all():
        raise InvalidInputError(f"option {name!r} must be finite, shape {shape}: x, y, z (m), yaw (rad); got {value!r}")
    return array

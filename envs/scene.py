"""The MuJoCo scene: Panda, table, free objects, cameras and lights, and edits of a compiled model in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from latent_mpc.types import InvalidInputError, UnknownNameError

# name -> (position, target) in the world frame W, metres. The robot stands at the origin and looks along +x.
CAMERAS = {
    "front": ((1.13, 0.0, 0.72), (0.47, 0.0, 0.055)),
    "side": ((0.50, 0.72, 0.68), (0.50, 0.0, 0.05)),
    "top": ((0.501, 0.0, 1.05), (0.50, 0.0, 0.0)),
    "overview": ((1.25, -0.75, 0.85), (0.35, 0.0, 0.15)),
}
SHAPES = ("cube", "box", "cylinder", "sphere", "cup", "plate")
UNSEEN_SHAPES = ("cross", "hexagon", "tower")  # of the split unseen-shapes; no configuration may name them
COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.10, 0.60, 0.20),
    "blue": (0.10, 0.25, 0.85),
    "yellow": (0.95, 0.80, 0.10),
    "orange": (0.95, 0.45, 0.05),
    "purple": (0.50, 0.15, 0.65),
}
DENSITY = 500.0  # kg/m³, light wood
PLATE_HALF_HEIGHT_M = 0.008
WALL_M = 0.004  # thickness of a cup's or a plate's wall and bottom
WALL_SEGMENTS = 8
# The tray: its inside (x, y) and the height of its rim. Its floor is a coat of colour: what lies there is on the table.
TRAY_LOW_M, TRAY_HIGH_M = (0.365, 0.072), (0.635, 0.238)
TRAY_RIM_M = 0.012


@dataclass(frozen=True)
class ObjectSpec:
    """One object: shape, half sizes along its axes (m) and RGB colour in 0..1.

    A cylinder takes (radius, radius, half height), and so do cup and plate, which are hollow and open at the top;
    a sphere takes three times its radius.
    """

    shape: str
    half_size_m: tuple[float, float, float]
    rgb: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.shape not in SHAPES + UNSEEN_SHAPES:
            raise UnknownNameError("shape", self.shape, list(SHAPES + UNSEEN_SHAPES))
        if min(self.half_size_m) <= 0:
            raise InvalidInputError(f"half sizes must be positive, got {self.half_size_m}")


@dataclass(frozen=True)
class Part:
    """A primitive of an object: half extents (m) along its own axes, its centre and yaw in the object's frame."""

    type: mujoco.mjtGeom
    half_m: tuple[float, float, float]
    centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw_rad: float = 0.0


def parts(spec: ObjectSpec) -> list[Part]:
    """The primitives that an object is made of; the first is always there."""
    a, b, c = spec.half_size_m
    box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    if spec.shape in ("cube", "box"):
        return [Part(box, (a, b, c))]
    if spec.shape == "cylinder":
        return [Part(cylinder, (a, a, c))]
    if spec.shape == "sphere":
        return [Part(mujoco.mjtGeom.mjGEOM_SPHERE, (a, a, a))]
    if spec.shape == "cross":
        return [Part(box, (a, b / 3, c)), Part(box, (a / 3, b, c))]
    if spec.shape == "hexagon":
        return [Part(box, (a, a * np.tan(np.pi / 6), c), yaw_rad=k * np.pi / 3) for k in range(3)]
    if spec.shape == "tower":
        return [Part(box, (a, b, c / 2), (0, 0, -c / 2)), Part(box, (0.65 * a, 0.65 * b, c / 2), (0, 0, c / 2))]
    wall = WALL_M / 2  # a ring of flat walls on a bottom; on the table only the bottom is in contact
    yaws = 2 * np.pi * np.arange(WALL_SEGMENTS) / WALL_SEGMENTS
    half = (wall, a * np.tan(np.pi / WALL_SEGMENTS), c - wall)
    ring = [Part(box, half, ((a - wall) * np.cos(t), (a - wall) * np.sin(t), wall), t) for t in yaws]
    return [Part(cylinder, (a, a, wall), (0, 0, wall - c)), *ring]


def most_parts(shapes: tuple[str, ...]) -> int:
    """The number of primitives that any of these shapes needs."""
    return max(len(parts(ObjectSpec(shape, (0.02,) * 3, (0, 0, 0)))) for shape in shapes)


def build_model(
    num_objects: int,
    physics_dt_s: float,
    *,
    num_parts: int = 1,
    tray: bool = False,
    table_textures: Mapping[str, NDArray[np.uint8]] | None = None,
) -> mujoco.MjModel:
    """Compile the scene with `num_objects` free bodies named object0, object1, …; `set_object` shapes them.

    Args:
        num_parts: primitives that an object may have: `most_parts` of its shapes.
        tray: put the tray onto the table.
        table_textures: materials that the table may be given, by name: images uint8 (height, width, 3).
    """
    spec = mujoco.MjSpec.from_file(str(Path(__file__).with_name("panda.xml")))
    spec.option.timestep = physics_dt_s
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
    spec.visual.headlight.diffuse = [0.25, 0.25, 0.25]
    spec.visual.headlight.specular = [0, 0, 0]
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0.5, 0, -0.02],
        size=[0.35, 0.5, 0.02],
        rgba=[0.72, 0.68, 0.60, 1],
        friction=[1, 0.01, 0.001],
    )
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        pos=[0, 0, -0.4],
        size=[3, 3, 0.1],
        rgba=[0.35, 0.37, 0.40, 1],
    )
    world.add_light(name="lamp", pos=[0.6, -0.6, 1.6], dir=[-0.1, 0.4, -1], diffuse=[0.6, 0.6, 0.6], castshadow=False)
    for name, (position, target) in CAMERAS.items():
        world.add_camera(name=name, pos=position, quat=look_at(position, target), fovy=37)
    if tray:
        _add_tray(world)
    for name, image in (table_textures or {}).items():
        height, width, _ = image.shape
        texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height)
        texture.nchannel, texture.data = 3, image.tobytes()
        roles = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
        roles[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        spec.add_material(name=name, textures=roles)
    for i in range(num_objects):
        body = world.add_body(name=f"object{i}")
        body.add_freejoint(name=f"object{i}")
        for part in range(num_parts):
            body.add_geom(
                name=_part_name(i, part),
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[0.02] * 3,
                density=DENSITY,
                condim=4,
                friction=[1, 0.02, 0.001],
            )
    return spec.compile()


def _part_name(index: int, part: int) -> str:
    return f"object{index}" if part == 0 else f"object{index}_part{part}"


def _add_tray(world: mujoco.MjsBody) -> None:
    """A floor without thickness and four low walls around it."""
    low, high = np.array(TRAY_LOW_M), np.array(TRAY_HIGH_M)
    (x, y), (half_x, half_y) = (low + high) / 2, (high - low) / 2
    rim, wall = TRAY_RIM_M / 2, 0.003
    box, rgba = mujoco.mjtGeom.mjGEOM_BOX, [0.30, 0.33, 0.38, 1]
    world.add_geom(
        name="tray", type=box, pos=[x, y, 0], size=[half_x, half_y, 0.001], rgba=rgba, contype=0, conaffinity=0
    )
    long, short = [half_x + 2 * wall, wall, rim], [wall, half_y, rim]
    for k, (dx, dy, size) in enumerate(
        [(0, half_y + wall, long), (0, -half_y - wall, long), (half_x + wall, 0, short), (-half_x - wall, 0, short)]
    ):
        world.add_geom(name=f"tray_wall{k}", type=box, pos=[x + dx, y + dy, rim], size=size, rgba=[0.2, 0.22, 0.26, 1])


def look_at(position: tuple[float, ...], target: tuple[float, ...]) -> NDArray[np.float64]:
    """Quaternion (w, x, y, z) of a camera at `position` that looks along its -z at `target`, with y upwards."""
    z = np.subtract(position, target)
    z = z / np.linalg.norm(z)
    x = np.cross((0.0, 0.0, 1.0), z)
    x = x / np.linalg.norm(x) if np.linalg.norm(x) > 0.02 else np.array([0.0, 1.0, 0.0])
    R_WC = np.stack([x, np.cross(z, x), z], axis=1)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, R_WC.ravel())
    return quat


def orbit_camera(
    model: mujoco.MjModel, name: str, azimuth_deg: float, elevation_deg: float, shift_m: ArrayLike = (0, 0, 0)
) -> None:
    """Move a camera around the point that it looks at, then along the world's axes, and aim it there again."""
    position, target = (np.array(v) for v in CAMERAS[name])
    x, y, z = position - target
    around = np.arctan2(y, x) + np.deg2rad(azimuth_deg)
    up = min(np.arctan2(z, np.hypot(x, y)) + np.deg2rad(elevation_deg), np.pi / 2 - 0.1)  # over the top it turns
    ray = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    moved = target + np.linalg.norm(position - target) * ray + shift_m
    index = model.camera(name).id
    model.cam_pos[index], model.cam_quat[index] = moved, look_at(tuple(moved), tuple(target))


def set_object(model: mujoco.MjModel, index: int, spec: ObjectSpec) -> None:
    """Give object `index` of a compiled model its shape, size, mass, inertia and colour.

    Call mj_setConst after: it fits MuJoCo's bounding volumes and its notes of shared frames to the edited parts. The
    mass lies where the parts are, but its centre is taken to be the object's own.
    """
    body = model.body(f"object{index}").id
    first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
    made_of = parts(spec)
    mass, inertia = 0.0, np.zeros(3)
    for geom, part in zip(range(first, first + len(made_of)), made_of, strict=True):
        a, b, c = part.half_m
        R = np.array([[np.cos(part.yaw_rad), -np.sin(part.yaw_rad)], [np.sin(part.yaw_rad), np.cos(part.yaw_rad)]])
        if part.type == mujoco.mjtGeom.mjGEOM_BOX:
            size, bound = (a, b, c), np.sqrt(a * a + b * b + c * c)
            part_mass = DENSITY * 8 * a * b * c
            part_inertia = part_mass / 3 * np.array([b * b + c * c, a * a + c * c, a * a + b * b])
        elif part.type == mujoco.mjtGeom.mjGEOM_CYLINDER:
            size, bound = (a, c, 0.0), np.hypot(a, c)
            part_mass = DENSITY * np.pi * a * a * 2 * c
            part_inertia = part_mass * np.array([a * a / 4 + c * c / 3, a * a / 4 + c * c / 3, a * a / 2])
        else:
            size, bound = (a, 0.0, 0.0), a
            part_mass = DENSITY * 4 / 3 * np.pi * a**3
            part_inertia = 0.4 * part_mass * a * a * np.ones(3)
        x, y, z = part.centre_m
        part_inertia[:2] = (R**2) @ part_inertia[:2]
        mass += part_mass
        inertia += part_inertia + part_mass * np.array([y * y + z * z, x * x + z * z, x * x + y * y])
        model.geom_type[geom], model.geom_size[geom], model.geom_rbound[geom] = part.type, size, bound
        model.geom_aabb[geom] = (0, 0, 0, a, b, c)
        model.geom_pos[geom] = part.centre_m
        model.geom_quat[geom] = np.cos(part.yaw_rad / 2), 0, 0, np.sin(part.yaw_rad / 2)
        model.geom_group[geom], model.geom_contype[geom], model.geom_conaffinity[geom] = 0, 1, 1
    hidden = slice(first + len(made_of), first + count)
    model.geom_group[hidden], model.geom_contype[hidden], model.geom_conaffinity[hidden] = 3, 0, 0
    model.body_mass[body], model.body_inertia[body] = mass, inertia
    paint_object(model, index, spec.rgb)


def paint_object(model: mujoco.MjModel, index: int, rgb: tuple[float, float, float]) -> None:
    """Give object `index` another colour, 0..1."""
    body = model.body(f"object{index}").id
    first = int(model.body_geomadr[body])
    model.geom_rgba[first : first + int(model.body_geomnum[body])] = *rgb, 1

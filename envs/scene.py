"""The MuJoCo scene: Panda, table, free objects, cameras and lights, and edits of a compiled model in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import InvalidInputError, UnknownNameError

# name -> (position, target) in the world frame W, metres. The robot stands at the origin and looks along +x.
CAMERAS = {
    "front": ((1.13, 0.0, 0.72), (0.47, 0.0, 0.055)),
    "side": ((0.50, 0.72, 0.68), (0.50, 0.0, 0.05)),
    "top": ((0.501, 0.0, 1.05), (0.50, 0.0, 0.0)),
    "overview": ((1.25, -0.75, 0.85), (0.35, 0.0, 0.15)),
}
SHAPES = ("cube", "box", "cylinder", "sphere")
COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.10, 0.60, 0.20),
    "blue": (0.10, 0.25, 0.85),
    "yellow": (0.95, 0.80, 0.10),
    "orange": (0.95, 0.45, 0.05),
    "purple": (0.50, 0.15, 0.65),
}
DENSITY = 500.0  # kg/m³, light wood


@dataclass(frozen=True)
class ObjectSpec:
    """One object: shape, half sizes along its axes (m) and RGB colour in 0..1.

    A cylinder takes (radius, radius, half height), a sphere three times its radius.
    """

    shape: str
    half_size_m: tuple[float, float, float]
    rgb: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UnknownNameError("shape", self.shape, list(SHAPES))
        if min(self.half_size_m) <= 0:
            raise InvalidInputError(f"half sizes must be positive, got {self.half_size_m}")


def build_model(num_objects: int, physics_dt_s: float) -> mujoco.MjModel:
    """Compile the scene with `num_objects` free bodies named object0, object1, …; `set_object` shapes them."""
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
    for i in range(num_objects):
        body = world.add_body(name=f"object{i}")
        body.add_freejoint(name=f"object{i}")
        body.add_geom(
            name=f"object{i}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[0.02] * 3,
            density=DENSITY,
            condim=4,
            friction=[1, 0.02, 0.001],
        )
    return spec.compile()


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


def set_object(model: mujoco.MjModel, index: int, spec: ObjectSpec) -> None:
    """Give object `index` of a compiled model its shape, size, mass, inertia and colour (call mj_setConst after)."""
    geom, body = model.geom(f"object{index}").id, model.body(f"object{index}").id
    a, b, c = spec.half_size_m
    if spec.shape in ("cube", "box"):
        model.geom_type[geom], model.geom_size[geom] = mujoco.mjtGeom.mjGEOM_BOX, (a, b, c)
        mass = DENSITY * 8 * a * b * c
        inertia = mass / 3 * np.array([b * b + c * c, a * a + c * c, a * a + b * b])
        bound = np.sqrt(a * a + b * b + c * c)
    elif spec.shape == "cylinder":
        model.geom_type[geom], model.geom_size[geom] = mujoco.mjtGeom.mjGEOM_CYLINDER, (a, c, 0)
        mass = DENSITY * np.pi * a * a * 2 * c
        inertia = mass * np.array([a * a / 4 + c * c / 3, a * a / 4 + c * c / 3, a * a / 2])
        bound = np.hypot(a, c)
    else:
        model.geom_type[geom], model.geom_size[geom] = mujoco.mjtGeom.mjGEOM_SPHERE, (a, 0, 0)
        mass = DENSITY * 4 / 3 * np.pi * a**3
        inertia = 0.4 * mass * a * a * np.ones(3)
        bound = a
    model.geom_rbound[geom] = bound
    model.geom_aabb[geom] = (0, 0, 0, *spec.half_size_m)
    model.body_mass[body], model.body_inertia[body] = mass, inertia
    model.geom_rgba[geom] = (*spec.rgb, 1)

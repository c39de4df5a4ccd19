"""Generalisation splits: looks that no training may use, fixed by name, to evaluate on.

Each changes the image in its own way and nothing else: where things start and lie is the plain environment's of the
same seed. What a split draws comes from a generator of its own, so that the others' draws do not shift.
"""

from __future__ import annotations

import colorsys
import functools
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs import scene
from latent_mpc.types import UnknownNameError

if TYPE_CHECKING:
    from latent_mpc.envs.tabletop import RandomisationConfig, TabletopConfig

COLOURS, SHAPES, TEXTURES, CAMERA, LIGHT = SPLITS = (
    "unseen-colours",
    "unseen-shapes",
    "unseen-textures",
    "camera-jitter",
    "light",
)
# Hues 90, 180 and 322 degrees, bright and dark: 40 degrees and more from the hues of scene.COLOURS.
UNSEEN_COLOURS = {
    "lime": (0.50, 0.90, 0.10),
    "turquoise": (0.10, 0.80, 0.80),
    "pink": (0.95, 0.25, 0.69),
    "moss": (0.23, 0.42, 0.04),
    "teal": (0.03, 0.36, 0.36),
    "plum": (0.42, 0.06, 0.29),
}
HUE_GAP_DEG = 30.0  # between the random colours of one scene
PATIENT_DRAWS = 100  # for a colour before the gap shrinks
UNSEEN_HUE_DEG = 15.0  # what is nearer than this to an unseen colour's hue is unseen, too
CAMERA_JITTER_DEG = 10.0
CAMERA_JITTER_M = 0.05
CAMERA_GAP_DEG = 1.0  # between the split's cameras and those of RandomisationConfig.camera_beyond_deg


@dataclass(frozen=True)
class Light:
    """A lamp at `position_m`, aimed where the usual one is; `lamp` and `ambient` scale what is usual."""

    position_m: tuple[float, float, float]
    lamp: float
    ambient: float
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


LIGHTS = {
    "dim": Light((0.6, -0.6, 1.6), 0.5, 0.55),
    "bright": Light((0.6, -0.6, 1.6), 1.6, 1.25),
    "from the left": Light((0.4, 1.3, 0.9), 1.5, 0.7),
    "from behind": Light((1.5, 0.1, 0.9), 1.5, 0.7),
    "warm": Light((0.6, -0.6, 1.6), 1.5, 0.9, (1.0, 0.84, 0.62)),
    "cool": Light((0.6, -0.6, 1.6), 1.5, 0.9, (0.68, 0.86, 1.0)),
}
AIM_M = (0.44, 0.04, 0.0)
TRAINING_LIGHT = 0.35  # RandomisationConfig.light from here on would reach the split's lights


def check_name(split: str | None) -> None:
    """Raises UnknownNameError when no split has this name; None is no split."""
    if split is not None and split not in SPLITS:
        raise UnknownNameError("split", split, list(SPLITS))


def is_unseen(rgb: tuple[float, ...]) -> bool:
    """Whether a colour has the hue of an unseen one (greys have none)."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*rgb)
    hues = [colorsys.rgb_to_hsv(*other)[0] for other in UNSEEN_COLOURS.values()]
    return saturation > 0.1 and min(abs((hue - h + 0.5) % 1 - 0.5) for h in hues) * 360 < UNSEEN_HUE_DEG


def reached_by(config: TabletopConfig) -> list[str]:
    """The splits of which an environment of this configuration may show something: a training's must be none.

    Colours and shapes are kept apart by construction: no configuration may name an unseen one, and randomised object
    colours leave out the unseen hues.
    """
    r: RandomisationConfig = config.randomisation
    camera = [CAMERA] if max(r.camera_deg, r.camera_m) > 0 else []
    return camera + ([LIGHT] if r.light >= TRAINING_LIGHT else [])


def table_textures() -> dict[str, NDArray[np.uint8]]:
    """The tables of unseen-textures: images uint8 (128, 128, 3)."""
    y, x = np.mgrid[:128, :128]
    rng = np.random.default_rng(0)
    patterns = {
        "checker": ((x // 16 + y // 16) % 2, (0.80, 0.76, 0.68), (0.45, 0.38, 0.30)),
        "tiles": ((x % 32 < 3) | (y % 32 < 3), (0.62, 0.66, 0.70), (0.30, 0.31, 0.33)),
        "stripes along": (x // 8 % 2, (0.70, 0.70, 0.72), (0.45, 0.46, 0.50)),
        "stripes across": (y // 16 % 2, (0.76, 0.66, 0.52), (0.56, 0.42, 0.30)),
        "grain": (rng.random((128, 128)), (0.85, 0.82, 0.76), (0.35, 0.32, 0.30)),
        "clouds": (np.kron(rng.random((16, 16)), np.ones((8, 8))), (0.78, 0.78, 0.74), (0.42, 0.44, 0.42)),
    }
    return {name: _blend(np.asarray(mix, float), one, other) for name, (mix, one, other) in patterns.items()}


@functools.cache
def training_textures() -> dict[str, NDArray[np.uint8]]:
    """Tables to learn on, none of them one of unseen-textures: slanting waves of a few lengths, uint8 (128, 128, 3)."""
    y, x = np.mgrid[:128, :128] / 128
    rng = np.random.default_rng(1)
    images = {}
    for k in range(16):
        waves = np.zeros((128, 128))
        for _ in range(4):
            angle = np.deg2rad(rng.choice([1, -1]) * rng.uniform(15, 75))  # never along the table's edges
            length = 0.04 * 12 ** rng.random()
            phase = rng.uniform(0, 2 * np.pi)
            waves += np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
        mix = 1 / (1 + np.exp(-rng.uniform(0.5, 4) * waves))
        bright, tint = np.sort(rng.uniform(0.25, 0.9, 2)), rng.uniform(0.85, 1.0, (2, 3))
        images[f"waves{k}"] = _blend(mix, bright[1] * tint[0], bright[0] * tint[1])
    return images


def random_colours(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Strong colours, their hues `HUE_GAP_DEG` and more apart while there is room, none of them unseen."""
    hues: list[float] = []
    colours: list[tuple[float, float, float]] = []
    while len(colours) < count:
        for draws in itertools.count():
            gap_deg = HUE_GAP_DEG * 0.98 ** max(0, draws - PATIENT_DRAWS)
            rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.65, 1.0), rng.uniform(0.35, 0.95))
            hue = colorsys.rgb_to_hsv(*rgb)[0]
            if not is_unseen(rgb) and all(abs((hue - h + 0.5) % 1 - 0.5) * 360 >= gap_deg for h in hues):
                break
        hues.append(hue)
        colours.append(rgb)
    return colours


def _blend(
    mix: NDArray[np.float64],
    one: NDArray[np.float64] | tuple[float, ...],
    other: NDArray[np.float64] | tuple[float, ...],
) -> NDArray[np.uint8]:
    """Image uint8 (H, W, 3): the first colour where `mix` (H, W) is 0, the second where it is 1."""
    return np.rint(255 * (np.multiply.outer(1 - mix, one) + np.multiply.outer(mix, other))).astype(np.uint8)


def camera_beyond(most_deg: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Azimuth and elevation, degrees, of a camera that stands where camera-jitter's never does: both of them further
    from the usual than any of its, up to `most_deg`."""
    return rng.choice([-1, 1], 2) * rng.uniform(CAMERA_JITTER_DEG + CAMERA_GAP_DEG, most_deg, 2)


def dress_objects(
    split: str | None, objects: list[scene.ObjectSpec], rng: np.random.Generator
) -> list[scene.ObjectSpec]:
    """The objects in the split's colours or shapes; sizes stay."""
    if split == COLOURS:
        colours = list(UNSEEN_COLOURS.values())
        order = rng.permutation(len(colours))
        return [replace(o, rgb=colours[order[i % len(order)]]) for i, o in enumerate(objects)]
    if split == SHAPES:
        return [replace(o, shape=str(rng.choice(scene.UNSEEN_SHAPES))) for o in objects]
    return objects


def dress_scene(split: str | None, model: mujoco.MjModel, camera: str, rng: np.random.Generator) -> None:
    """Table, camera or light of a model that looks as it was compiled, but for the randomisation."""
    if split == TEXTURES:
        table = model.geom("table").id
        model.geom_matid[table] = model.material(str(rng.choice(list(table_textures())))).id
        model.geom_rgba[table] = 1
    elif split == CAMERA:
        azimuth_deg, elevation_deg = rng.uniform(-CAMERA_JITTER_DEG, CAMERA_JITTER_DEG, 2)
        shift_m = rng.uniform(-CAMERA_JITTER_M, CAMERA_JITTER_M, 3)
        scene.orbit_camera(model, camera, azimuth_deg, elevation_deg, shift_m)
    elif split == LIGHT:
        light = LIGHTS[str(rng.choice(list(LIGHTS)))]
        lamp = model.light("lamp").id
        model.light_pos[lamp] = light.position_m
        model.light_dir[lamp] = np.subtract(AIM_M, light.position_m)
        model.light_dir[lamp] /= np.linalg.norm(model.light_dir[lamp])
        model.light_diffuse[lamp] = 0.6 * light.lamp * np.array(light.tint)
        model.vis.headlight.ambient[:] = 0.35 * light.ambient * np.array(light.tint)
        model.vis.headlight.diffuse[:] = 0.25 * light.ambient * np.array(light.tint)

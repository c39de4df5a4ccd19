"""Arms with their cameras, as a person names them on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import yaml
from numpy.typing import NDArray

from latent_mpc.config import load_config
from latent_mpc.drive import Stage, Station, simulated_station
from latent_mpc.robots.camera import Camera, Frame, OpenCVCamera, square
from latent_mpc.robots.drivers import DRIVERS, make_driver
from latent_mpc.robots.robot import Driver
from latent_mpc.shipped import image_size
from latent_mpc.types import InvalidInputError, UnknownNameError, WorkspaceSpec

SIMULATED = "mujoco"
FEETECH = ("so100", "so101")  # arms that the Feetech driver drives


@dataclass(frozen=True)
class RobotChoice:
    """Which arm: a name, and what its driver and its camera are to be made with.

    Attributes:
        name: "mujoco", "so101", "so100", or a key of `DRIVERS`. port, calibration: of an SO-101 or SO-100.
        camera: index or URL. workspace: file of a `WorkspaceSpec`. options: "key=value" for other drivers.
    """

    name: str
    port: str | None
    camera: str | None
    calibration: Path
    workspace: Path | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = sorted({*FEETECH, *DRIVERS} - {"feetech", "lerobot"})
        if self.name not in names:
            raise UnknownNameError("robot", self.name, names)
        if self.name in FEETECH and self.port is None:
            raise InvalidInputError(f"an SO-{self.name[2:]} needs --port, such as /dev/ttyACM0")

    def driver(self) -> Callable[[], Driver]:
        """Makes the driver of a real arm; picklable."""
        if self.name in FEETECH:
            return partial(make_driver, "feetech", port=self.port, calibration=self.calibration, spec=self.name)
        return partial(make_driver, self.name, **_options(self.options))


class SquareCamera:
    """A camera whose frames are cut and averaged to the model's square image, each once."""

    def __init__(self, camera: Camera, size: int) -> None:
        self._camera, self._size = camera, size
        self._last: Frame | None = None

    def connect(self) -> None:
        self._last = None
        self._camera.connect()

    def read(self) -> Frame | None:
        frame = self._camera.read()
        if frame is not None and (self._last is None or frame.sequence != self._last.sequence):
            self._last = replace(frame, image=square(frame.image, self._size))
        return self._last

    def close(self) -> None:
        self._camera.close()


def square_camera(source: str, size: int) -> SquareCamera:
    """A camera by index or URL."""
    return SquareCamera(OpenCVCamera(int(source) if source.isdigit() else source), size)


def read_goal(path: Path, size: int) -> NDArray[np.uint8]:
    """A goal image from a file, as the model wants it: uint8 (size, size, 3).

    Raises:
        InvalidInputError: no such file, or not an RGB image of `size` pixels a side or more.
    """
    try:
        image = np.asarray(iio.imread(path))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"goal {path} cannot be read as an image: {error}") from error
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InvalidInputError(f"goal {path} must be an 8-bit RGB image, got {image.dtype} {image.shape}")
    return square(image, size)


def read_workspace(path: Path) -> WorkspaceSpec:
    """Where a tool may go, from a YAML file. Raises InvalidInputError: no such file, or it is no workspace."""
    try:
        if not path.is_file():
            raise InvalidInputError("there is no such file")
        return load_config(WorkspaceSpec, path, [])
    except InvalidInputError as error:
        raise InvalidInputError(f"workspace {path}: {error}; `latent-mpc drive --help` shows an example") from error


@contextlib.contextmanager
def open_station(choice: RobotChoice, weights: str, goal: Path | None, task: str, seed: int) -> Iterator[Station]:
    """The arm and camera of a choice.

    Args:
        weights: whose image size the camera is to have. goal: image file; a simulated arm has one of its own.
        task, seed: scene of a simulated arm.
    Raises:
        InvalidInputError: a real arm lacks its camera, goal or workspace, or one of them cannot be read.
    """
    size = image_size(weights)
    image = None if goal is None else read_goal(goal, size)
    if choice.name == SIMULATED:
        with simulated_station(task, seed, image) as station:
            yield station
        return
    stage = _real_stage(choice, size)
    if image is None:
        raise InvalidInputError(f"robot {choice.name!r} needs --goal, an image; see docs/driving.md")
    yield Station(**vars(stage), goal_image=image)


@contextlib.contextmanager
def open_stage(choice: RobotChoice, size: int, seed: int) -> Iterator[Stage]:
    """The arm and camera of a choice, without a goal.

    Args:
        size: of a real camera's frames, pixels a side. seed: scene of the simulated arm, whose frames have their size.
    Raises:
        InvalidInputError: a real arm lacks its camera or workspace, or one of them cannot be read.
    """
    if choice.name == SIMULATED:
        with simulated_station("PickPlace", seed) as station:
            yield station
        return
    yield _real_stage(choice, size)


def _real_stage(choice: RobotChoice, size: int) -> Stage:
    make = choice.driver()
    if choice.camera is None or choice.workspace is None:
        raise InvalidInputError(f"robot {choice.name!r} needs --camera and --workspace; see docs/driving.md")
    return Stage(make, partial(square_camera, choice.camera, size), read_workspace(choice.workspace))


def capture_goal(source: str, out: Path, size: int, *, page: bool) -> str:
    """Save an image of a camera, at once or when the page's button is pressed; returns what to tell the person."""
    camera = square_camera(source, size)
    camera.connect()
    try:
        if page:
            from latent_mpc.web import preview

            image = preview(lambda: None if (frame := camera.read()) is None else frame.image)
        else:
            frame = camera.read()
            assert frame is not None  # connect waited for one
            image = frame.image
    finally:
        camera.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(out, image)
    return f"{out}: {size} x {size} pixels"


def _options(texts: tuple[str, ...]) -> dict[str, Any]:
    """`key=value` texts, the values read as YAML."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidInputError(f"--set {text!r} must be KEY=VALUE")
        options[key] = yaml.safe_load(value)
    return options

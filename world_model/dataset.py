"""The play dataset: a folder with `dataset.yaml` and one HDF5 file an episode.

    episode_000000.h5   image   uint8   (T+1, H, W, 3)  lzf, one frame a chunk
                        proprio float32 (T+1, P)
                        action  float32 (T, A)          action[t] leads from frame t to frame t+1
                        truth/object_positions float32 (T+1, N, 3), metres, world frame
                        truth/is_grasped       bool    (T+1,)
                        solo/image  uint8   (T+1, N, H, W, 3)           each object as it would look alone
                        solo/rgb    float32 (T+1, N, 3)                 its colour in `image`, 0 to 1
                        attributes: seed, length = T

`truth` is for scoring; nothing that trains reads it, and play of a real arm has none. A file appears under its name
only when it is whole, so a kill loses at most the episode under way, workers need no lock, and whoever resumes skips
what exists. `solo` is there where it was asked for: a simulator shows the same moment twice, and who learns to attend
learns from the pair.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from latent_mpc.types import InvalidInputError

HEADER_NAME = "dataset.yaml"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T actions and T+1 frames.

    Attributes:
        image: uint8 (T+1, H, W, 3), RGB.
        proprio: float32 (T+1, P).
        action: float32 (T, A), in [-1, 1].
        seed: the seed that the episode was made with.
        object_positions: float32 (T+1, N, 3), metres, world frame; for scoring only, None where nobody knows.
        is_grasped: bool (T+1,); likewise.
        solo_image: uint8 (T+1, N, H, W, 3), each object as it would look alone, or None.
        solo_rgb: float32 (T+1, N, 3), its colour in `image`, 0 to 1, or None.
    """

    image: NDArray[np.uint8]
    proprio: NDArray[np.float32]
    action: NDArray[np.float32]
    seed: int
    object_positions: NDArray[np.float32] | None = None
    is_grasped: NDArray[np.bool_] | None = None
    solo_image: NDArray[np.uint8] | None = None
    solo_rgb: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        t = len(self.action)
        arrays = (
            self.image, self.proprio, self.object_positions, self.is_grasped, self.solo_image, self.solo_rgb
        )  # fmt: skip
        frames = [len(array) for array in arrays if array is not None]
        if t < 1 or any(count != t + 1 for count in frames):
            raise InvalidInputError(f"an episode of {t} actions needs {t + 1} frames, got {frames}")
        if (self.solo_image is None) != (self.solo_rgb is None):
            raise InvalidInputError("solo_image and solo_rgb belong together: give both or neither")


@dataclass(frozen=True)
class DatasetHeader:
    """What `dataset.yaml` says: how the episodes were made, and their shapes.

    Attributes:
        env_id: Gymnasium id of the environment, or "robot/" and an arm's name.
        env_config: the environment's configuration as plain YAML values.
        play_config: the play policy's configuration as plain YAML values.
        seed: base seed; episode i uses `SeedSequence(seed, spawn_key=(i,))`.
        image_size: height and width in pixels.
        action_dim: A.
        proprio_dim: P.
        control_dt_s: seconds between frames.
        format_version: of the files' layout.
    """

    env_id: str
    env_config: dict[str, Any]
    play_config: dict[str, Any]
    seed: int
    image_size: tuple[int, int]
    action_dim: int
    proprio_dim: int
    control_dt_s: float
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        sizes = (*self.image_size, self.action_dim, self.proprio_dim)
        if len(sizes) != 4 or any(not isinstance(n, int) or n < 1 for n in sizes):
            raise InvalidInputError(
                f"image_size, action_dim and proprio_dim must be positive whole numbers, got "
                f"{self.image_size}, {self.action_dim}, {self.proprio_dim}"
            )


def plain(value: Any) -> Any:
    """Dataclasses, tuples, paths and NumPy values as what YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def write_header(directory: Path, header: DatasetHeader) -> Path:
    """Write `dataset.yaml`; as crash-safe as an episode."""
    text = yaml.safe_dump(plain(header), sort_keys=False)
    return write_whole(Path(directory) / HEADER_NAME, text.encode())


def read_header(directory: Path) -> DatasetHeader:
    """Read `dataset.yaml`.

    Raises:
        InvalidInputError: it is missing, is not ours, or has another format version.
    """
    path = Path(directory) / HEADER_NAME
    if not path.is_file():
        raise InvalidInputError(
            f"{directory} is no play dataset: no {HEADER_NAME} there; make one with `latent-mpc collect`"
        )
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not YAML: {error}") from error
    names = {field.name for field in dataclasses.fields(DatasetHeader)}
    if not isinstance(values, dict) or set(values) != names:
        found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise InvalidInputError(f"{path} is not the header of a play dataset: found {found}, expected {sorted(names)}")
    if values["format_version"] != FORMAT_VERSION:
        raise InvalidInputError(
            f"{path} has format version {values['format_version']}, this release reads {FORMAT_VERSION}; collect anew"
        )
    try:
        return DatasetHeader(**{**values, "image_size": tuple(values["image_size"])})
    except (TypeError, InvalidInputError) as error:
        raise InvalidInputError(f"{path} is not the header of a play dataset: {error}") from error


def begin_dataset(directory: Path, header: DatasetHeader) -> None:
    """Write the header, or go on with what was begun under the same one; leftovers of a kill are cleared away.

    Raises:
        InvalidInputError: `directory` holds a dataset made with other settings; it is left as it is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for partial in directory.glob("*.partial"):  # left by a process that was killed while it wrote
        partial.unlink(missing_ok=True)
    if not (directory / HEADER_NAME).exists():
        write_header(directory, header)
        return
    old, new = dataclasses.asdict(read_header(directory)), dataclasses.asdict(header)
    changed = {key: f"{old[key]} there, {new[key]} asked for" for key in new if old[key] != new[key]}
    if changed:
        raise InvalidInputError(
            f"{directory} holds a dataset made with other settings ({changed}); give another folder, or the same "
            "settings"
        )


def episode_path(directory: Path, index: int) -> Path:
    """Where episode `index` lies."""
    return Path(directory) / f"episode_{index:06d}.h5"


def episode_paths(directory: Path) -> list[Path]:
    """All episodes of a dataset that are whole by name, in order."""
    return sorted(Path(directory).glob(f"episode_{'[0-9]' * 6}.h5"))


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file so that it exists whole or not at all: temporary name, fsync, rename.

    Raises:
        OSError: the disk is full, say; the temporary file is gone then, and what lay at `path` is untouched.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_episode(directory: Path, index: int, episode: Episode) -> Path:
    """Write one episode; it appears under its name only when it is whole.

    Raises:
        OSError: as `write_whole`.
    """
    path = episode_path(directory, index)
    # Built in memory: a full disk is then a plain OSError of one write, not a half-closed HDF5 file.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        storage = {"compression": "lzf", "fletcher32": True}
        file.create_dataset("image", data=episode.image, dtype="u1", chunks=(1, *episode.image.shape[1:]), **storage)
        file.create_dataset("proprio", data=episode.proprio, dtype="f4")
        file.create_dataset("action", data=episode.action, dtype="f4")
        for name, truth, dtype in (
            ("object_positions", episode.object_positions, "f4"),
            ("is_grasped", episode.is_grasped, "?"),
        ):
            if truth is not None:
                file.create_dataset(f"truth/{name}", data=truth, dtype=dtype)
        if episode.solo_image is not None:
            frame = episode.solo_image.shape[1:]
            file.create_dataset("solo/image", data=episode.solo_image, dtype="u1", chunks=(1, *frame), **storage)
            file.create_dataset("solo/rgb", data=episode.solo_rgb, dtype="f4")
        file.attrs["seed"] = episode.seed
        file.attrs["length"] = len(episode.action)
        file.flush()
        data = file.id.get_file_image()
    return write_whole(path, data)


def read_episode(path: Path) -> Episode:
    """Read one episode.

    Raises:
        InvalidInputError: the file is truncated, or is not an episode.
    """
    try:
        with h5py.File(path, "r") as file:
            return Episode(
                image=file["image"][:],
                proprio=file["proprio"][:],
                action=file["action"][:],
                seed=int(file.attrs["seed"]),
                **{name: truth[:] for name, truth in file.get("truth", {}).items()},
                **{f"solo_{name}": solo[:] for name, solo in file.get("solo", {}).items()},
            )
    except _READ_ERRORS as error:
        raise InvalidInputError(f"{path} is no whole episode ({error}); {_REMEDY}") from error


def read_solo(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Of one episode each object as it would look alone, uint8 (T+1, N, H, W, 3), and its colours (T+1, N, 3).

    Raises:
        InvalidInputError: the file is truncated or no episode, or was recorded without.
    """
    episode = read_episode(path)
    if episode.solo_image is None or episode.solo_rgb is None:
        raise InvalidInputError(f"{path} does not show the objects alone; collect with solo=true")
    return episode.solo_image, episode.solo_rgb


@dataclass(frozen=True)
class PlayDataset:
    """A play dataset in memory, all episodes one after the other.

    Attributes:
        header: of the dataset.
        image: uint8 (F, H, W, 3).
        proprio: float32 (F, P).
        action: float32 (F, A); `action[f]` leads to frame f+1, and is zero at the last frame of an episode.
        episode_index: int64 (F,), the number in the episode's file name.
        step_index: int64 (F,), 0 at the first frame of an episode.
        object_positions: float32 (F, N, 3), metres, world frame, or None; for scoring only.
        is_grasped: bool (F,), or None; for scoring only.
    """

    header: DatasetHeader
    image: NDArray[np.uint8]
    proprio: NDArray[np.float32]
    action: NDArray[np.float32]
    episode_index: NDArray[np.int64]
    step_index: NDArray[np.int64]
    object_positions: NDArray[np.float32] | None = None
    is_grasped: NDArray[np.bool_] | None = None

    @classmethod
    def load(
        cls,
        directory: Path | str,
        *,
        max_episodes: int | None = None,
        with_truth: bool = False,
        progress: bool = True,
    ) -> PlayDataset:
        """Read a dataset into memory: 150,000 frames of 64 px take 1.8 GB.

        Args:
            directory: the folder that `latent-mpc collect` wrote.
            max_episodes: read at most that many, the first ones.
            with_truth: also read `object_positions` and `is_grasped`.
            progress: show a progress bar.
        Raises:
            InvalidInputError: no header, no readable episode, or no truth where it was asked for. Single bad files are
                skipped with a warning.
        """
        directory = Path(directory)
        header = read_header(directory)
        frames: dict[Path, int] = {}
        num_objects = 0
        for path in episode_paths(directory)[:max_episodes]:
            try:
                with h5py.File(path, "r") as file:
                    length = file["action"].shape[0]
                    if with_truth and "truth" not in file:
                        raise _NoTruth(f"{path} was recorded where nobody knows the objects' true positions")
                    if with_truth:
                        num_objects = num_objects or file["truth/object_positions"].shape[1]
                    frames[path] = length + 1
            except _NoTruth:
                raise
            except _READ_ERRORS as error:
                warnings.warn(f"skipped {path}: {error}; {_REMEDY}", stacklevel=2)
        capacity = sum(frames.values())
        arrays: dict[str, NDArray[Any]] = {
            "image": np.empty((capacity, *header.image_size, 3), np.uint8),
            "proprio": np.empty((capacity, header.proprio_dim), np.float32),
            "action": np.zeros((capacity, header.action_dim), np.float32),
        }
        if with_truth:
            arrays["truth/object_positions"] = np.empty((capacity, num_objects, 3), np.float32)
            arrays["truth/is_grasped"] = np.empty((capacity,), np.bool_)
        episodes: list[int] = []
        counts: list[int] = []
        end = 0
        for path, count in tqdm(frames.items(), "loading", unit="episode", disable=not progress):
            try:
                with h5py.File(path, "r") as file:
                    for name, array in arrays.items():
                        _read_into(array[end : end + count - (name == "action")], file[name])
            except _READ_ERRORS as error:  # the next episode overwrites what was read of it
                warnings.warn(f"skipped {path}: {error}; {_REMEDY}", stacklevel=2)
                continue
            arrays["action"][end + count - 1] = 0.0
            episodes.append(int(path.stem.removeprefix("episode_")))
            counts.append(count)
            end += count
        if not episodes:
            raise InvalidInputError(f"{directory} holds no readable episode; make some with `latent-mpc collect`")
        return cls(
            header,
            arrays["image"][:end],
            arrays["proprio"][:end],
            arrays["action"][:end],
            np.repeat(np.asarray(episodes, np.int64), counts),
            np.concatenate([np.arange(n, dtype=np.int64) for n in counts]),
            arrays["truth/object_positions"][:end] if with_truth else None,
            arrays["truth/is_grasped"][:end] if with_truth else None,
        )

    @property
    def episodes(self) -> NDArray[np.int64]:
        """The episodes' numbers, (E,)."""
        return self.episode_index[self.step_index == 0]

    @property
    def lengths(self) -> list[int]:
        """Frames of each episode."""
        return np.diff(np.flatnonzero(self.step_index == 0), append=len(self.step_index)).tolist()

    def clip_starts(self, length: int, episodes: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Frames from which `length` actions follow inside one episode.

        Args:
            length: number of actions, at least 0; the clip has `length + 1` frames.
            episodes: only in these (numbers as in `episode_index`, as `split` gives them); default all.
        Returns:
            Frame indices, int64, ascending; empty where every episode is shorter.
        """
        if length < 0:
            raise InvalidInputError(f"a clip cannot have {length} actions; length must be at least 0")
        starts = np.arange(max(0, len(self.action) - length), dtype=np.int64)
        # Same episode at both ends, and no wrap between: step indices run on by exactly `length`.
        inside = self.step_index[starts + length] == self.step_index[starts] + length
        inside &= self.episode_index[starts + length] == self.episode_index[starts]
        if episodes is not None:
            inside &= np.isin(self.episode_index[starts], episodes)
        return starts[inside]

    def split(self, validation_fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Divide the episodes, the same way for the same episodes and seed.

        Returns:
            Numbers of the training and of the validation episodes, ascending; each has at least one.
        Raises:
            InvalidInputError: the fraction is not in (0, 1), or there is only one episode.
        """
        episodes = self.episodes
        if not 0.0 < validation_fraction < 1.0:
            raise InvalidInputError(f"validation_fraction must lie in (0, 1), got {validation_fraction}")
        if len(episodes) < 2:
            raise InvalidInputError("a split needs at least 2 episodes, the dataset has 1; collect more")
        count = int(np.clip(round(validation_fraction * len(episodes)), 1, len(episodes) - 1))
        order = np.random.default_rng(seed).permutation(episodes)
        return np.sort(order[count:]), np.sort(order[:count])


class _NoTruth(InvalidInputError):
    """An episode of a real arm, where truth was asked for."""


# What h5py raises on a bad file, and what a foreign one makes of the lines that read it.
_READ_ERRORS = (OSError, KeyError, RuntimeError, AttributeError, ValueError, IndexError, TypeError)
_REMEDY = "delete it and run `latent-mpc collect` again with the same settings, which makes only what is missing"


def _read_into(array: NDArray[Any], dataset: h5py.Dataset) -> None:
    """Fill `array`, contiguous rows of a larger array: HDF5 scatters slowly into a selection."""
    if dataset.shape != array.shape:
        raise InvalidInputError(
            f"{dataset.name} has shape {dataset.shape}, the dataset's header asks for {array.shape}"
        )
    dataset.read_direct(array)

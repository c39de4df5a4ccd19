"""Runs of an arm as a dataset of LeRobot's, in the layout of its version 3.0: `latent-mpc replay RUN… --lerobot DIR`.

    row k of an episode:   observation.images.front  frame k, each frame once
                           observation.state         joints and gripper as read when it was taken
                           action                    joints and gripper as sent when it was taken
                           timestamp                 k / fps
    value = 180 / π q of "joint.pos", 100 opening of "gripper.pos", as robots/as_lerobot.py has them

An episode is a stretch of a run in which the motors had torque and no frame is missing; `fps` is the camera's rate,
rounded, and one for all, so a timestamp is off by what the camera's own clock is.

    meta/info.json  meta/stats.json  meta/tasks.parquet  meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet  videos/observation.images.front/chunk-000/file-000.mp4

Written after LeRobot's own reader and writer, release 0.4.4; LeRobot itself is never imported.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latent_mpc.film import nearest
from latent_mpc.frame_log import Frames, read_frames
from latent_mpc.robots.camera import Image
from latent_mpc.robots.log import Run, read_run
from latent_mpc.robots.robot import Array
from latent_mpc.types import InvalidInputError
from latent_mpc.video import write_video

EXTRA = "lerobot"
STATE, ACTION, CAMERA = "observation.state", "action", "observation.images.front"
TASK = "match the goal image"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
FIRST = FILE.format(chunk_index=0, file_index=0)
MISSING = 1.5  # periods without a frame
KEYFRAMES = 2  # LeRobot's own: its loaders pick frames at random
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Stats = dict[str, list[Any]]


@dataclass(frozen=True)
class Episode:
    """One episode of N rows.

    Attributes:
        state, action: float32 (N, J + 1), degrees and 100 · opening.
        images: uint8 (M, H, W, 3), H and W even, mapped from the run's file. shown: (N,) indices of them.
    """

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    images: Image
    shown: NDArray[np.intp]


def export(folders: Sequence[Path], out: Path) -> str:
    """Write runs as one dataset, which appears only when it is whole, and say what it holds.

    Args:
        folders: of runs, of one arm and one image size. out: must not exist, or be empty.
    Raises:
        InvalidInputError: a run cannot be read, has no frames or had no torque meanwhile; the runs are of different
            arms or image sizes; `out` holds something; pyarrow is missing.
        OSError: the disk refused.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InvalidInputError(f"LeRobot's format needs pyarrow: pip install 'latent-mpc[{EXTRA}]'") from error
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{out} holds something already; give another folder, with all runs at once")
    runs = [(folder, read_run(folder), _frames(folder)) for folder in folders]
    first, size = runs[0][1], _even(runs[0][2]).shape[1:]
    for folder, run, frames in runs:
        if (run.joint_names, run.run.get("arm")) != (first.joint_names, first.run.get("arm")):
            raise InvalidInputError(f"{folder} is of another arm than {folders[0]}; export them apart")
        if _even(frames).shape[1:] != size:
            raise InvalidInputError(f"{folder} has images of another size than {folders[0]}; export them apart")
    fps = _camera_fps([frames for _, _, frames in runs])
    episodes = [episode for folder, run, frames in runs for episode in _episodes(folder, run, frames, fps)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        dataset = Path(work) / out.name
        _write(dataset, episodes, fps, first)
        dataset.replace(out)
    rows = sum(len(e.shown) for e in episodes)
    return f"{out}: {len(episodes)} episodes, {rows} rows at {fps} a second, {rows / fps:.1f} s; none repeats a frame"


def _frames(folder: Path) -> Frames:
    if (frames := read_frames(folder)) is None:
        raise InvalidInputError(f"{folder} holds no frames, and LeRobot's format is for them; drive with --log again")
    return frames


def _even(frames: Frames) -> Image:
    """All images (n, H, W, 3) of a run; an odd side loses its last row or column, as H.264 needs."""
    images = frames.records["image"]
    return images[:, : images.shape[1] // 2 * 2, : images.shape[2] // 2 * 2]


def _camera_fps(runs: Sequence[Frames]) -> int:
    """Frames a second of the camera, also of those that are missing."""
    periods = []
    for frames in runs:
        seconds, counts = np.diff(frames.records["captured_s"]), np.diff(frames.records["sequence"])
        good = (seconds > 0) & (counts > 0)
        periods.append(seconds[good] / counts[good])
    every = np.concatenate(periods)
    if not len(every):
        raise InvalidInputError("the runs hold too few frames to tell the camera's rate")
    return max(1, round(1 / float(np.median(every))))


def _episodes(folder: Path, run: Run, frames: Frames, fps: int) -> list[Episode]:
    """The episodes of a run, at least one. Raises InvalidInputError if there is none."""
    ticks, captured_s = run.ticks, frames.records["captured_s"]
    period_s = np.diff(captured_s)
    follows = (np.diff(frames.records["sequence"]) == 1) & (period_s > 0) & (period_s < MISSING / fps)
    edges = np.flatnonzero(np.diff(ticks["torque"], prepend=False, append=False))
    episodes = []
    for begin, end in edges.reshape(-1, 2):
        stiff = ticks[begin:end]
        during = np.flatnonzero((captured_s >= stiff["now_s"][0]) & (captured_s <= stiff["now_s"][-1]))
        for shown in np.split(during, 1 + np.flatnonzero(~follows[during[:-1]] | (np.diff(during) != 1))):
            if len(shown) < 2:
                continue
            tick = stiff[nearest(stiff["now_s"], captured_s[shown])]
            state, action = _values(tick["q_rad"], tick["gripper"]), _values(tick["sent_rad"], tick["sent_gripper"])
            episodes.append(Episode(state, action, _even(frames), shown))
    if not episodes:
        raise InvalidInputError(
            f"{folder} has no stretch with torque and frames: nothing was driven that can be learnt"
        )
    return episodes


def _values(q_rad: Array, gripper: Array) -> NDArray[np.float32]:
    """Joints (N, J) and openings (N,) as LeRobot's values (N, J + 1)."""
    return np.column_stack([np.degrees(q_rad), 100 * gripper]).astype(np.float32)


def _write(root: Path, episodes: Sequence[Episode], fps: int, run: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for folder in ("meta/episodes", "data", f"videos/{CAMERA}"):
        (root / folder / FIRST).parent.mkdir(parents=True)
    lengths = [len(e.shown) for e in episodes]
    ends = np.cumsum(lengths)
    video = root / "videos" / CAMERA / f"{FIRST}.mp4"
    histograms = np.zeros((len(episodes), 3, 256), np.int64)
    bar = tqdm(_images(episodes, histograms), CAMERA, int(ends[-1]), unit="frame")
    write_video(video, bar, fps=fps, keyframes=KEYFRAMES)

    frame_index = np.concatenate([np.arange(length) for length in lengths])
    columns: dict[str, NDArray[Any]] = {
        STATE: np.concatenate([e.state for e in episodes]),
        ACTION: np.concatenate([e.action for e in episodes]),
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": np.repeat(np.arange(len(episodes)), lengths),
        "index": np.arange(ends[-1]),
        "task_index": np.zeros(ends[-1], np.int64),
    }
    arrays = {
        key: pa.array(column)
        if column.ndim == 1
        else pa.FixedSizeListArray.from_arrays(column.ravel(), column.shape[1])
        for key, column in columns.items()
    }
    pq.write_table(pa.table(arrays), root / "data" / f"{FIRST}.parquet")

    rows = []
    for i, (end, length) in enumerate(zip(ends.tolist(), lengths, strict=True)):
        row: dict[str, Any] = {"episode_index": i, "tasks": [TASK], "length": length}
        row |= {"dataset_from_index": end - length, "dataset_to_index": end}
        row |= {f"videos/{CAMERA}/from_timestamp": (end - length) / fps, f"videos/{CAMERA}/to_timestamp": end / fps}
        row |= {
            f"{kind}/{n}_index": 0 for kind in ("data", f"videos/{CAMERA}", "meta/episodes") for n in ("chunk", "file")
        }
        stats = _all_stats({key: column[end - length : end] for key, column in columns.items()}, histograms[i])
        row |= {f"stats/{key}/{name}": value for key, found in stats.items() for name, value in found.items()}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes" / f"{FIRST}.parquet")
    tasks = pa.table({"task_index": [0], "task": [TASK]}).replace_schema_metadata({"pandas": _TASKS_INDEX})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    _write_json(root / "meta/stats.json", _all_stats(columns, histograms.sum(0)))
    _write_json(root / "meta/info.json", _info(run, episodes[0].images.shape[1:3], fps, lengths))


def _images(episodes: Sequence[Episode], histograms: NDArray[np.int64]) -> Iterator[Image]:
    """All frames in order, counted on the way into `histograms` (E, 3, 256)."""
    for histogram, episode in zip(histograms, episodes, strict=True):
        for index in episode.shown:
            image = episode.images[index]
            for channel in range(3):
                histogram[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
            yield image


def _info(run: Run, size: tuple[int, ...], fps: int, lengths: Sequence[int]) -> dict[str, Any]:
    names = [f"{joint}.pos" for joint in (*run.joint_names, "gripper")]
    joints = {"dtype": "float32", "shape": [len(names)], "names": names}
    scalar = {"shape": [1], "names": None}
    stored = {"height": size[0], "width": size[1], "codec": "h264", "pix_fmt": "yuv420p", "is_depth_map": False}
    stored |= {"fps": fps, "channels": 3}
    return {
        "codebase_version": "v3.0",
        "robot_type": run.run.get("arm"),
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": f"data/{FILE}.parquet",
        "video_path": f"videos/{{video_key}}/{FILE}.mp4",
        "features": {
            STATE: joints,
            ACTION: joints,
            CAMERA: {
                "dtype": "video",
                "shape": [*size, 3],
                "names": ["height", "width", "channels"],
                "info": {**{f"video.{key}": value for key, value in stored.items()}, "has_audio": False},
            },
            "timestamp": {"dtype": "float32", **scalar},
            **{f"{key}index": {"dtype": "int64", **scalar} for key in ("frame_", "episode_", "", "task_")},
        },
    }


def _all_stats(columns: dict[str, NDArray[Any]], histogram: NDArray[np.int64]) -> dict[str, Stats]:
    """Statistics of each feature over rows (N, …); those of the images from their histogram (3, 256), levels 0 to 1."""
    stats = {key: _stats(column.reshape(len(column), -1)) for key, column in columns.items()}
    levels, total = np.arange(256) / 255, histogram.sum(1, keepdims=True)
    mean = histogram @ levels / total[:, 0]
    below = histogram.cumsum(1) / total  # (3, 256)
    found = {
        "min": levels[(histogram > 0).argmax(1)],
        "max": levels[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt((histogram * (levels - mean[:, None]) ** 2).sum(1) / total[:, 0]),
        **{name: levels[(below >= q).argmax(1)] for name, q in QUANTILES.items()},
    }
    stats[CAMERA] = {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()}
    stats[CAMERA]["count"] = [len(columns["index"])]
    return stats


def _stats(values: NDArray[Any]) -> Stats:
    """Of each column of `values` (N, D)."""
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    found |= {name: np.quantile(values, q, axis=0) for name, q in QUANTILES.items()}
    return {name: value.tolist() for name, value in found.items()} | {"count": [len(values)]}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")


_TASKS_INDEX = json.dumps(  # LeRobot reads the file with pandas, and looks tasks up by its index
    {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
            for name, kind, dtype in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
    }
)

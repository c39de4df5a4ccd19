"""What a play dataset covers: how often objects are held and lifted, where they have been, what the actions are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.dataset import DatasetHeader, episode_paths, read_header, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIFTED_M = 0.03  # above where the object was lowest in its episode
MOVED_M = 0.02
CELL_M = 0.04
Rectangle = tuple[tuple[float, float], tuple[float, float]]  # lower and upper corner (x, y), metres


@dataclass(frozen=True)
class Track:
    """One episode without its images: truth (T+1, …) and actions (T, A)."""

    object_positions: NDArray[np.float32]
    is_grasped: NDArray[np.bool_]
    action: NDArray[np.float32]

    @property
    def lifted(self) -> NDArray[np.bool_]:
        """Whether any object is off the table, (T+1,)."""
        height = self.object_positions[..., 2]
        return np.asarray((height > height.min(axis=0) + LIFTED_M).any(axis=1))


@dataclass(frozen=True)
class PlayStatistics:
    """Shares lie in 0 to 1; `episodes_*` counts episodes in which it happened at all, `steps_*` frames.

    Attributes:
        hours: robot time.
        episodes_moved: an object went further than 2 cm from where it began.
        table_covered: share of 4 cm cells of the object rectangle in which an object has been.
        object_low_m, object_high_m: smallest and largest coordinate (x, y, z) of any object.
        action_mean, action_std: of each action dimension.
        action_saturated: share of actions at -1 or 1, of each dimension.
    """

    episodes: int
    frames: int
    hours: float
    episodes_grasped: float
    steps_grasped: float
    episodes_lifted: float
    steps_lifted: float
    episodes_moved: float
    table_covered: float
    object_low_m: tuple[float, ...]
    object_high_m: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    action_saturated: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{self.episodes} episodes, {self.frames} frames, {self.hours:.2f} h of robot time\n"
            f"an object held in {self.episodes_grasped:.0%} of the episodes ({self.steps_grasped:.0%} of the frames), "
            f"lifted in {self.episodes_lifted:.0%} ({self.steps_lifted:.0%}), moved in {self.episodes_moved:.0%}\n"
            f"objects have been in {self.table_covered:.0%} of the table's {100 * CELL_M:.0f} cm cells"
        )


def read_tracks(directory: Path) -> list[Track]:
    """Read truth and actions of all episodes.

    Raises:
        InvalidInputError: a file is truncated or foreign.
    """
    tracks = []
    for path in episode_paths(directory):
        try:
            with h5py.File(path, "r") as file:
                truth = file["truth"]
                tracks.append(Track(truth["object_positions"][:], truth["is_grasped"][:], file["action"][:]))
        except (OSError, KeyError) as error:
            raise InvalidInputError(
                f"{path} is no whole episode ({error}); delete it and run `latent-mpc collect` again"
            ) from error
    return tracks


def play_statistics(tracks: list[Track], control_dt_s: float, region_m: Rectangle) -> PlayStatistics:
    """Summarise episodes; `region_m` is the rectangle in which the environment puts objects."""
    positions = np.concatenate([t.object_positions.reshape(-1, 3) for t in tracks])
    actions = np.concatenate([t.action for t in tracks])
    grasped = np.concatenate([t.is_grasped for t in tracks])
    lifted = np.concatenate([t.lifted for t in tracks])
    moved = [np.linalg.norm(t.object_positions - t.object_positions[0], axis=-1).max() > MOVED_M for t in tracks]
    visits = _visits(positions, region_m)
    return PlayStatistics(
        episodes=len(tracks),
        frames=len(grasped),
        hours=len(actions) * control_dt_s / 3600,
        episodes_grasped=float(np.mean([t.is_grasped.any() for t in tracks])),
        steps_grasped=float(grasped.mean()),
        episodes_lifted=float(np.mean([t.lifted.any() for t in tracks])),
        steps_lifted=float(lifted.mean()),
        episodes_moved=float(np.mean(moved)),
        table_covered=float((visits > 0).mean()),
        object_low_m=tuple(positions.min(axis=0).tolist()),
        object_high_m=tuple(positions.max(axis=0).tolist()),
        action_mean=tuple(actions.mean(axis=0).tolist()),
        action_std=tuple(actions.std(axis=0).tolist()),
        action_saturated=tuple((np.abs(actions) >= 1).mean(axis=0).tolist()),
    )


def _visits(positions: NDArray[np.float32], region_m: Rectangle) -> NDArray[np.float64]:
    """Frames with an object in each cell of the region, (X, Y)."""
    edges = [
        np.linspace(low, high, max(1, round((high - low) / CELL_M)) + 1) for low, high in zip(*region_m, strict=True)
    ]
    return np.histogram2d(positions[:, 0], positions[:, 1], bins=edges)[0]


def save_coverage(directory: Path, region_m: Rectangle) -> PlayStatistics:
    """Write `statistics.json` and `coverage.png` of the dataset in `directory`."""
    header, tracks = read_header(directory), read_tracks(directory)
    statistics = play_statistics(tracks, header.control_dt_s, region_m)
    write_whole(Path(directory) / "statistics.json", json.dumps(asdict(statistics), indent=1).encode())
    _draw(tracks, statistics, header, region_m).savefig(Path(directory) / "coverage.png", dpi=120)
    return statistics


def _draw(tracks: list[Track], statistics: PlayStatistics, header: DatasetHeader, region_m: Rectangle) -> Figure:
    from matplotlib.figure import Figure  # half of the import time of every collecting process

    positions = np.concatenate([t.object_positions.reshape(-1, 3) for t in tracks])
    actions = np.concatenate([t.action for t in tracks])
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    figure.suptitle(
        f"{header.env_id}: {statistics.episodes} episodes, {statistics.hours:.1f} h — held in "
        f"{statistics.episodes_grasped:.0%}, lifted in {statistics.episodes_lifted:.0%} of them",
        fontsize=12,
    )
    table, height, action = figure.subplots(1, 3, width_ratios=(1.25, 1, 1.25))

    (x0, y0), (x1, y1) = region_m
    # Seen from the robot: x forward is up, y to the left.
    counts = table.hexbin(
        positions[:, 1], positions[:, 0], gridsize=32, bins="log", mincnt=1, cmap="viridis", linewidths=0.2
    )
    figure.colorbar(counts, ax=table, label="frames", shrink=0.85)
    table.plot([y0, y1, y1, y0, y0], [x0, x0, x1, x1, x0], color="0.35", lw=1, ls="--")
    table.set(title=f"objects on the table ({statistics.table_covered:.0%} covered)", xlabel="y (m)", ylabel="x (m)")
    table.set_aspect("equal")
    table.invert_xaxis()

    height.hist(100 * positions[:, 2], bins=40, color="#2a788e")
    height.set(title="height of objects", xlabel="z (cm)", ylabel="frames", yscale="log")

    parts = action.violinplot([actions[:, i] for i in range(actions.shape[1])], showextrema=False, widths=0.85)
    for body in parts["bodies"]:
        body.set(facecolor="#2a788e", alpha=0.7)
    action.axhline(0, color="0.6", lw=0.8, zorder=0)
    action.set(title="actions", xlabel="dimension", ylim=(-1.05, 1.05), xticks=range(1, actions.shape[1] + 1))
    action.set_xticklabels([str(i) for i in range(actions.shape[1])])
    for axes in (table, height, action):
        axes.spines[["top", "right"]].set_visible(False)
    return figure

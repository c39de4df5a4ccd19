"""What a play dataset looks like, as a film."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latent_mpc.video import tile, write_video
from latent_mpc.world_model.dataset import episode_paths, read_episode

PREVIEW_EPISODES = 6


def write_preview(out: Path, control_dt_s: float) -> None:
    """The first episodes of a dataset side by side, three times as fast as they were, as `preview.mp4`."""
    films = [read_episode(path).image for path in episode_paths(out)[:PREVIEW_EPISODES]]
    scale = max(1, round(213 / films[0].shape[2]))
    frames = (
        tile([np.kron(film[min(t, len(film) - 1)], np.ones((scale, scale, 1), np.uint8)) for film in films], 3)
        for t in range(max(map(len, films)))
    )
    write_video(out / "preview.mp4", frames, fps=3 / control_dt_s)

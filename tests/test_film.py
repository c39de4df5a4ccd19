"""The video shows at each time the frame that was nearest, beside the goal, at real speed."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np

from latent_mpc.film import FPS, SIDE, film_run, nearest
from latent_mpc.frame_log import read_frames
from latent_mpc.robots.camera import Image
from latent_mpc.robots.log import read_run

from .synthetic_run import FRAME_S, GOAL_LEVEL, level, write_run


def decoded(path: Path) -> list[Image]:
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]


def test_a_runs_video_is_of_its_frames_and_goal_at_real_speed(tmp_path: Path) -> None:
    sequences = [*range(20), *range(40, 60)]  # a second is missing
    run = write_run(tmp_path, sequences)
    frames = read_frames(run)
    assert frames is not None
    film = decoded(film_run(read_run(run), frames, tmp_path / "replay.mp4"))
    assert len(film) == round(59 * FRAME_S * FPS) + 1
    for k, picture in enumerate(film):
        seen, goal = picture[8 : SIDE - 8, 8 : SIDE - 8], picture[8 : SIDE - 8, SIDE + 16 : -8]
        at = k / FPS / FRAME_S  # frames from the first one on
        distance = min(abs(s - at) for s in sequences)
        possible = [level(s) for s in sequences if abs(abs(s - at) - distance) < 1e-6]
        assert min(abs(seen.mean() - value) for value in possible) < 1.5
        assert abs(goal.mean() - GOAL_LEVEL) < 1.5


def test_the_strip_tells_the_time_and_shows_how_far_the_run_is(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    frames = read_frames(run)
    assert frames is not None
    film = decoded(film_run(read_run(run), frames, tmp_path / "replay.mp4"))
    cursor = [int(picture[-16:-14].astype(int).sum((0, 2)).argmax()) for picture in film]
    assert np.all(np.diff(cursor) > 0)
    assert cursor[0] < 4 and cursor[-1] > film[0].shape[1] - 6
    text = [picture[SIDE + 4 : SIDE + 30, : SIDE - 8].astype(int) for picture in film]
    assert all(np.abs(a - b).max() > 60 for a, b in zip(text[::10], text[10::10], strict=False))
    width = film[0].shape[1]
    calibrated, running = (film[0][-12:-6, round(width * share)].mean(0) for share in (0.1, 0.5))
    assert calibrated[2] > calibrated[1] + 20 and running[1] > running[2] + 50  # blue, then green


def test_nearest_is_nearest_in_whatever_order() -> None:
    rng = np.random.default_rng(0)
    times, wanted = rng.uniform(0, 1, 50), rng.uniform(-0.2, 1.2, 500)
    found = nearest(times, wanted)
    assert found.tolist() == np.abs(times[None] - wanted[:, None]).argmin(1).tolist()
    assert nearest(times[:1], wanted).tolist() == [0] * 500

"""A run told in words, as a picture, and as a video if its frames were kept."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import imageio_ffmpeg
import pytest
from typer.testing import CliRunner

from latent_mpc.cli import app
from latent_mpc.film import FPS
from latent_mpc.replay import replay
from latent_mpc.types import InvalidInputError

from .synthetic_run import FRAME_S, write_run


def test_words_picture_and_video(tmp_path: Path) -> None:
    said = replay(write_run(tmp_path / "run"), tmp_path / "out")
    assert "300 ticks in 3.0 s" in said
    assert "CALIBRATED: made up" in said
    assert iio.imread(tmp_path / "out" / "run.png").ndim == 3
    assert f"Video: {tmp_path / 'out' / 'replay.mp4'}" in said
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "out" / "replay.mp4"))
    assert count == round(59 * FRAME_S * FPS) + 1
    assert seconds == pytest.approx(59 * FRAME_S, abs=2 / FPS)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"run.png", "replay.mp4"}


def test_without_frames_there_is_no_video(tmp_path: Path) -> None:
    said = replay(write_run(tmp_path, []), tmp_path)
    assert "Video: none" in said
    assert (tmp_path / "run.png").exists() and not list(tmp_path.glob("*.mp4"))


def test_a_run_that_was_cut_off_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    said = replay(write_run(tmp_path, cut=7), tmp_path)
    assert "299 ticks in 3.0 s" in said
    count, _ = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "replay.mp4"))
    assert count == round(58 * FRAME_S * FPS) + 1


def test_a_run_without_a_tick_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "ticks.bin").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="holds no ticks"):
        replay(run, tmp_path)


def test_the_command_shows_one_run_and_exports_several(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name)) for name in ("a", "b")]
    shown = CliRunner().invoke(app, ["replay", runs[0]])
    assert shown.exit_code == 0 and (tmp_path / "a" / "replay.mp4").exists()
    refused = CliRunner().invoke(app, ["replay", *runs])
    assert refused.exit_code == 2 and "one RUN at a time" in refused.stderr
    pytest.importorskip("pyarrow")
    exported = CliRunner().invoke(app, ["replay", *runs, "--lerobot", str(tmp_path / "set")])
    assert exported.exit_code == 0 and "2 episodes" in exported.stdout
    assert (tmp_path / "set" / "meta" / "info.json").exists()

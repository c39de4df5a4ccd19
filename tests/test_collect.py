"""Collecting: the same data from any number of workers, and nothing finished is lost to kills, Ctrl-C or full disks."""

import contextlib
import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from latent_mpc.collect import CollectConfig, collect
from latent_mpc.coverage import Track, play_statistics
from latent_mpc.envs.play import PlayConfig
from latent_mpc.envs.solo import SoloView
from latent_mpc.envs.splits import is_unseen
from latent_mpc.envs.tabletop import RandomisationConfig, TabletopConfig, TabletopEnv
from latent_mpc.types import InvalidInputError, LatentMPCError
from latent_mpc.world_model import dataset
from latent_mpc.world_model.dataset import PlayDataset, episode_paths, read_episode, read_header, read_solo

CONFIG = CollectConfig(env=TabletopConfig(image_size=16, supersample=1), num_episodes=4, episode_length=4)
SCRIPT = """
import sys
from latent_mpc.collect import CollectConfig, collect
from latent_mpc.envs.tabletop import TabletopConfig

if __name__ == "__main__":
    env = TabletopConfig(image_size=16, supersample=1)
    collect(CollectConfig(env=env, num_episodes=2000, episode_length=4), out=sys.argv[1], seed=3, workers=2)
"""


def run(config, out, **kwargs):
    return collect(config, out=out, seed=3, progress=False, **{"workers": 1, **kwargs})


def assert_same_episodes(one: Path, other: Path, count: int):
    for index in range(count):
        a, b = (read_episode(dataset.episode_path(d, index)) for d in (one, other))
        for name in ("image", "proprio", "action", "object_positions", "is_grasped", "seed"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    out = tmp_path_factory.mktemp("play") / "new"
    return out, run(CONFIG, out)


def test_what_was_played_is_what_the_header_says(collected):
    out, statistics = collected
    header, data = read_header(out), PlayDataset.load(out, with_truth=True, progress=False)
    assert header.env_id == "latent_mpc/PickPlace-v0" and header.control_dt_s == 0.2 and header.seed == 3
    assert header.env_config["image_size"] == 16 and header.play_config["pick"] == PlayConfig().pick
    assert len(data.episodes) == 4 and len(data.image) == 20
    assert data.image.std() > 5  # a picture, not a blank
    assert np.abs(data.action).max() <= 1 and np.abs(data.action[data.step_index < 4]).max() > 0
    assert ((data.object_positions[..., 2] > 0.005) & (data.object_positions[..., 2] < 0.3)).all()
    assert (statistics.episodes, statistics.frames) == (4, 20)
    assert statistics.hours == pytest.approx(4 * 4 * 0.2 / 3600)


def test_episodes_differ_and_proprio_follows_the_actions(collected):
    data = PlayDataset.load(collected[0], progress=False)
    starts = data.image[data.step_index == 0].astype(int)
    assert all(np.abs(starts[i] - starts[j]).max() > 30 for i in range(4) for j in range(i))
    step = data.step_index < 4
    moved = (data.proprio[np.flatnonzero(step) + 1] - data.proprio[step])[:, :3]
    assert np.corrcoef(moved.ravel(), data.action[step][:, :3].ravel())[0, 1] > 0.5


def test_leaves_preview_statistics_and_coverage(collected):
    out, statistics = collected
    assert imageio_ffmpeg.count_frames_and_secs(str(out / "preview.mp4"))[0] == 5
    assert json.loads((out / "statistics.json").read_text())["table_covered"] == statistics.table_covered
    assert (out / "coverage.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(out.glob("*.partial"))


def test_two_processes_collect_what_one_does(collected, tmp_path):
    run(CONFIG, tmp_path, workers=2)
    assert_same_episodes(tmp_path, collected[0], 4)


def test_resuming_keeps_what_is_there_and_adds_what_is_missing(collected, tmp_path):
    run(replace(CONFIG, num_episodes=2), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in episode_paths(tmp_path)}
    (tmp_path / "episode_000002.h5.99.partial").write_bytes(b"left by a kill")
    run(CONFIG, tmp_path)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert_same_episodes(tmp_path, collected[0], 4)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "config, seed, word",
    [
        (CONFIG, 4, "seed"),
        (replace(CONFIG, play=PlayConfig(pick=0.1)), 3, "play_config"),
        (replace(CONFIG, env=TabletopConfig(image_size=24, supersample=1)), 3, "image_size"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused_untouched(collected, config, seed, word):
    out = collected[0]
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(InvalidInputError, match=rf"other settings \(.*{word}"):
        collect(config, out=out, seed=seed, workers=1, progress=False)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


LOOKS = RandomisationConfig(light=0.3, table_colour=0.2, table_texture=True, object_colour=True, every_step=True)


def test_objects_are_shown_alone_too_and_the_play_is_the_same(tmp_path):
    env = TabletopConfig(num_objects=2, image_size=16, supersample=1, randomisation=LOOKS)
    config = replace(CONFIG, env=env, num_episodes=2)
    run(config, tmp_path / "without")
    run(replace(config, solo=True), tmp_path / "with")
    assert_same_episodes(tmp_path / "with", tmp_path / "without", 2)
    assert read_header(tmp_path / "with").play_config["solo"] is True
    assert "solo" not in read_header(tmp_path / "without").play_config
    for index in range(2):
        images, rgb = read_solo(dataset.episode_path(tmp_path / "with", index))
        assert images.shape == (5, 2, 16, 16, 3) and images.dtype == np.uint8
        assert rgb.shape == (5, 2, 3) and rgb.dtype == np.float32
        assert len(np.unique(rgb.reshape(10, 3), axis=0)) == 10  # each object has another colour at each step
        assert not any(map(is_unseen, rgb.reshape(10, 3)))
        with pytest.raises(InvalidInputError, match="collect with solo=true"):
            read_solo(dataset.episode_path(tmp_path / "without", index))
    with pytest.raises(InvalidInputError, match=r"other settings \(.*play_config"):
        run(config, tmp_path / "with")


def test_pictures_alone_and_colours_are_of_their_own_frame(tmp_path):
    """Where the cube alone is red, the frame has the recorded colour, up to the lamp's brightness."""
    looks = replace(LOOKS, light=0.1, table_texture=False)
    env = TabletopConfig(image_size=32, randomisation=looks)
    run(replace(CONFIG, env=env, num_episodes=2, episode_length=8, solo=True), tmp_path)
    compared = 0
    for index in range(2):
        frames = read_episode(dataset.episode_path(tmp_path, index)).image
        for frame, alone, rgb in zip(frames, *read_solo(dataset.episode_path(tmp_path, index)), strict=True):
            r, g, b = np.moveaxis(alone[0].astype(int), -1, 0)
            red = (r > 4 * g) & (r > 4 * b) & (r > 60)
            if red.sum() < 4:
                continue  # behind the hand
            compared += 1
            shown = frame[red].mean(0)
            assert shown @ rgb[0] / np.linalg.norm(shown) / np.linalg.norm(rgb[0]) > 0.99
    assert compared > 12


def test_the_first_picture_alone_is_that_of_the_episodes_own_seed(tmp_path):
    env = TabletopConfig(num_objects=2, image_size=16, supersample=1, shapes=("cup", "plate"))
    run(replace(CONFIG, env=env, num_episodes=1, solo=True), tmp_path)
    again = TabletopEnv("PickPlace", env)
    again.reset(seed=read_episode(dataset.episode_path(tmp_path, 0)).seed, options={"goal_image": False})
    np.testing.assert_array_equal(read_solo(dataset.episode_path(tmp_path, 0))[0][0], SoloView(again).render())
    again.close()


@pytest.mark.parametrize("env_id", ["latent_mpc/Reacher-v0", "somebodys:Own-v0"])
def test_only_a_tabletop_shows_its_objects_alone(env_id):
    with pytest.raises(InvalidInputError, match=f"solo needs a tabletop environment, '{env_id}' is none"):
        replace(CONFIG, env_id=env_id, solo=True)


def test_an_unknown_environment_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InvalidInputError, match=r"PickPlace-v0.*Push-v0"):
        run(replace(CONFIG, env_id="latent_mpc/Juggle-v0"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("changes", [{"num_episodes": 0}, {"episode_length": 0}])
def test_empty_collections_are_refused(changes):
    with pytest.raises(InvalidInputError, match="at least 1"):
        replace(CONFIG, **changes)


def test_a_full_disk_is_told_and_keeps_the_episodes(collected, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 3:  # the header and two episodes fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(dataset.os, "fsync", full)
        with pytest.raises(LatentMPCError, match=r"No space left on device.*kept.*same command"):
            run(CONFIG, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"dataset.yaml", "episode_000000.h5", "episode_000001.h5"}
    run(CONFIG, tmp_path)
    assert_same_episodes(tmp_path, collected[0], 4)


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_or_ctrl_c_loses_nothing_finished_and_leaves_no_process(collected, tmp_path, signal_number):
    script, out = tmp_path / "script.py", tmp_path / "play"
    script.write_text(SCRIPT)
    # A shell's background job ignores Ctrl-C, and its children inherit that: undo it, so that the test runs there too.
    process = subprocess.Popen(
        [sys.executable, str(script), str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 200
    while len(episode_paths(out)) < 3 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    workers = children(process.pid)
    if signal_number == signal.SIGINT:
        os.killpg(process.pid, signal_number)  # as a terminal does it: everyone gets it
    else:
        process.kill()
    message = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and workers
    until = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))
    if signal_number == signal.SIGINT:
        assert "the same command resumes" in message and message.count("Traceback") <= 1

    finished = episode_paths(out)
    assert 3 <= len(finished) < 2000
    for path in finished:
        assert len(read_episode(path).action) == 4
    last = int(finished[-1].stem[-6:])
    run(replace(CONFIG, num_episodes=max(4, last + 1)), out)
    assert len(episode_paths(out)) == max(4, last + 1)
    assert_same_episodes(out, collected[0], 4)


def test_statistics_of_a_track_made_by_hand():
    still = np.tile(np.array([0.02, 0.02, 0.02], np.float32), (5, 1, 1))
    carried = np.array(
        [[0.02, 0.02, 0.02], [0.02, 0.02, 0.06], [0.06, 0.02, 0.06], [0.06, 0.02, 0.02], [0.06, 0.02, 0.02]]
    )
    action = np.array([[1, 0], [-1, 0.5], [0, 0], [0, 0]], np.float32)
    tracks = [
        Track(still, np.zeros(5, bool), action),
        Track(carried[:, None].astype(np.float32), np.array([0, 1, 1, 0, 0], bool), action),
    ]
    s = play_statistics(tracks, control_dt_s=0.5, region_m=((0.0, 0.0), (0.08, 0.08)))
    assert (s.episodes, s.frames) == (2, 10) and s.hours == pytest.approx(8 * 0.5 / 3600)
    assert (s.episodes_grasped, s.steps_grasped) == (0.5, 0.2)
    assert (s.episodes_lifted, s.steps_lifted, s.episodes_moved) == (0.5, 0.2, 0.5)
    assert s.table_covered == 0.5  # two of the four 4 cm cells
    assert s.object_low_m == pytest.approx((0.02, 0.02, 0.02)) and s.object_high_m == pytest.approx((0.06, 0.02, 0.06))
    assert s.action_mean == pytest.approx((0, 0.125)) and s.action_saturated == (0.5, 0.0)

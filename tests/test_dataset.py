"""The play dataset: what is written comes back, clips stay in their episode, a bad file costs only itself."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model import dataset as module
from latent_mpc.world_model.dataset import (
    DatasetHeader,
    Episode,
    PlayDataset,
    episode_path,
    read_episode,
    read_header,
    read_solo,
    write_episode,
    write_header,
)

LENGTHS = (4, 7, 5)
HEADER = DatasetHeader("stub/Env-v0", {"size": [8, 6]}, {"noise": 0.1}, 3, (8, 6), 2, 3, 0.2)


def make_episode(seed: int, length: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        image=rng.integers(0, 256, (length + 1, 8, 6, 3), dtype=np.uint8),
        proprio=rng.normal(size=(length + 1, 3)).astype(np.float32),
        action=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        object_positions=rng.normal(size=(length + 1, 2, 3)).astype(np.float32),
        is_grasped=rng.random(length + 1) < 0.5,
        seed=seed,
    )


@pytest.fixture
def directory(tmp_path):
    write_header(tmp_path, HEADER)
    for index, length in enumerate(LENGTHS):
        write_episode(tmp_path, index, make_episode(index, length))
    return tmp_path


def test_an_episode_comes_back_bit_for_bit(directory):
    written, read = make_episode(1, 7), read_episode(episode_path(directory, 1))
    for name in ("image", "proprio", "action", "object_positions", "is_grasped"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype
    assert read.seed == 1


def test_play_without_truth_is_read_and_loaded_and_says_so_where_truth_is_asked_for(directory):
    blind = replace(make_episode(1, 7), object_positions=None, is_grasped=None)
    write_episode(directory, 1, blind)
    read = read_episode(episode_path(directory, 1))
    assert read.object_positions is None and read.is_grasped is None
    np.testing.assert_array_equal(read.image, blind.image)
    assert len(PlayDataset.load(directory, progress=False).action) == sum(LENGTHS) + 3
    with pytest.raises(InvalidInputError, match="nobody knows"):
        PlayDataset.load(directory, with_truth=True, progress=False)


def make_solo(seed: int, length: int) -> Episode:
    rng = np.random.default_rng(seed + 100)
    return replace(
        make_episode(seed, length),
        solo_image=rng.integers(0, 256, (length + 1, 2, 8, 6, 3), dtype=np.uint8),
        solo_rgb=rng.random((length + 1, 2, 3), np.float32),
    )


def test_pictures_of_each_object_alone_come_back_bit_for_bit(directory):
    written = make_solo(1, 7)
    write_episode(directory, 1, written)
    image, rgb = read_solo(episode_path(directory, 1))
    np.testing.assert_array_equal(image, written.solo_image)
    np.testing.assert_array_equal(rgb, written.solo_rgb)
    assert image.dtype == np.uint8 and rgb.dtype == np.float32
    read = read_episode(episode_path(directory, 1))
    for name in ("image", "proprio", "action", "object_positions", "is_grasped", "solo_image", "solo_rgb"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    with h5py.File(episode_path(directory, 1)) as file:
        assert sorted(file) == ["action", "image", "proprio", "solo", "truth"]
        assert file["solo/image"].chunks == (1, 2, 8, 6, 3) and file["solo/image"].compression == "lzf"
    data = PlayDataset.load(directory, with_truth=True, progress=False)  # goes on without them
    np.testing.assert_array_equal(data.image[data.episode_index == 1], written.image)


def test_an_episode_without_them_says_so(directory):
    with pytest.raises(InvalidInputError, match=r"episode_000001.h5 does not show the objects alone; .*solo=true"):
        read_solo(episode_path(directory, 1))
    os.truncate(episode_path(directory, 1), 500)
    with pytest.raises(InvalidInputError, match="no whole episode"):
        read_solo(episode_path(directory, 1))


@pytest.mark.parametrize("name", ["solo_image", "solo_rgb"])
def test_there_is_a_picture_alone_for_each_frame(name):
    episode = make_solo(0, 4)
    with pytest.raises(InvalidInputError, match="4 actions needs 5 frames"):
        replace(episode, **{name: getattr(episode, name)[1:]})


def test_the_file_layout_is_the_documented_one(directory):
    with h5py.File(episode_path(directory, 0)) as file:
        assert file["image"].chunks == (1, 8, 6, 3) and file["image"].compression == "lzf"
        assert sorted(file) == ["action", "image", "proprio", "truth"]
        assert dict(file.attrs) == {"seed": 0, "length": 4}


def test_header_comes_back(directory):
    assert read_header(directory) == HEADER


def test_load_lays_the_episodes_end_to_end(directory):
    data = PlayDataset.load(directory, with_truth=True, progress=False)
    frames = [length + 1 for length in LENGTHS]
    assert data.image.shape == (sum(frames), 8, 6, 3)
    np.testing.assert_array_equal(data.episode_index, np.repeat([0, 1, 2], frames))
    np.testing.assert_array_equal(data.step_index, np.concatenate([np.arange(n) for n in frames]))
    for index, length in enumerate(LENGTHS):
        rows, episode = np.flatnonzero(data.episode_index == index), make_episode(index, length)
        np.testing.assert_array_equal(data.image[rows], episode.image)
        np.testing.assert_array_equal(data.proprio[rows], episode.proprio)
        np.testing.assert_array_equal(data.action[rows[:-1]], episode.action)
        np.testing.assert_array_equal(data.action[rows[-1]], 0)
        np.testing.assert_array_equal(data.object_positions[rows], episode.object_positions)
        np.testing.assert_array_equal(data.is_grasped[rows], episode.is_grasped)


def test_truth_is_left_out_unless_asked_for(directory):
    data = PlayDataset.load(directory, progress=False)
    assert data.object_positions is None and data.is_grasped is None


def test_max_episodes_takes_the_first(directory):
    assert PlayDataset.load(directory, max_episodes=2, progress=False).episodes.tolist() == [0, 1]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 100])
def test_clip_starts_against_brute_force(directory, length):
    data = PlayDataset.load(directory, progress=False)
    ends = np.cumsum([n + 1 for n in LENGTHS])  # one past the last frame of each episode
    expected = [start for start in range(ends[-1]) if start + length < ends[np.searchsorted(ends, start, side="right")]]
    starts = data.clip_starts(length)
    assert starts.dtype == np.int64 and starts.tolist() == expected


def test_clip_starts_keeps_to_the_given_episodes(directory):
    data = PlayDataset.load(directory, progress=False)
    starts = data.clip_starts(3, np.array([0, 2]))
    assert starts.tolist() == [0, 1, 13, 14, 15]


def test_clips_of_no_action_are_refused(directory):
    with pytest.raises(InvalidInputError, match="at least 0"):
        PlayDataset.load(directory, progress=False).clip_starts(-1)


def test_split_is_a_partition_and_repeats(directory):
    for index in range(3, 20):
        write_episode(directory, index, make_episode(index, 4))
    data = PlayDataset.load(directory, progress=False)
    train, validation = data.split(0.2, seed=5)
    assert len(validation) == 4 and sorted([*train, *validation]) == list(range(20))
    again = data.split(0.2, seed=5)
    np.testing.assert_array_equal(validation, again[1])
    assert any(not np.array_equal(validation, data.split(0.2, seed=s)[1]) for s in range(6, 9))
    assert len(data.split(0.001, seed=0)[1]) == 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_split_refuses_fractions_outside_the_open_interval(directory, fraction):
    with pytest.raises(InvalidInputError, match="validation_fraction"):
        PlayDataset.load(directory, progress=False).split(fraction, seed=0)


def corrupt_last_frame(path):
    """Overwrite the compressed bytes of the last frame: the file still opens."""
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(file["image"].shape[0] - 1)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(range(100)) * (chunk.size // 100))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def make_foreign(path):
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros(3)


def make_scalar(path):
    with h5py.File(path, "w") as file:
        file["action"] = 3.0


def make_other_size(path):
    episode = make_episode(1, 7)
    write_episode(path.parent, 1, Episode(**{**vars(episode), "image": episode.image[:, :4]}))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "spoil",
    [
        truncate,
        make_foreign,
        make_scalar,
        make_other_size,
        corrupt_last_frame,
        lambda p: p.write_bytes(b""),
        lambda p: p.write_text("no HDF5"),
    ],
)
def test_a_bad_file_is_skipped_with_its_name_and_the_others_stay_whole(directory, spoil):
    spoil(episode_path(directory, 1))
    with pytest.warns(UserWarning, match=r"episode_000001.h5.*delete it and run `latent-mpc collect`"):
        data = PlayDataset.load(directory, progress=False)
    assert data.episodes.tolist() == [0, 2]
    np.testing.assert_array_equal(data.image[5:], make_episode(2, 5).image)
    np.testing.assert_array_equal(data.action[:4], make_episode(0, 4).action)
    np.testing.assert_array_equal(data.action[[4, -1]], 0)


@pytest.mark.parametrize("spoil", [truncate, make_foreign])
def test_reading_one_bad_episode_is_an_error(directory, spoil):
    spoil(episode_path(directory, 1))
    with pytest.raises(InvalidInputError, match=r"episode_000001.h5 .*delete it"):
        read_episode(episode_path(directory, 1))


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_dataset_without_one_good_episode_is_an_error(directory):
    for index in range(3):
        truncate(episode_path(directory, index))
    with pytest.raises(InvalidInputError, match="no readable episode"):
        PlayDataset.load(directory, progress=False)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no dataset.yaml"),
        ("a: [", "not YAML"),
        ("robot: panda", "not the header"),
        ("- 1", "not the header"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_missing_or_foreign_header_is_an_error(directory, text, message):
    path = directory / "dataset.yaml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        PlayDataset.load(directory, progress=False)


@pytest.mark.parametrize(
    "line, instead, message",
    [
        ("format_version: 1", "format_version: 9", "format version 9"),
        ("action_dim: 2", "action_dim: two", "positive whole numbers"),
        ("image_size:\n- 8\n- 6", "image_size: 8", "not the header"),
    ],
)
def test_a_header_with_a_wrong_value_is_an_error(directory, line, instead, message):
    path = directory / "dataset.yaml"
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, instead))
    with pytest.raises(InvalidInputError, match=message):
        read_header(directory)


def test_an_episode_with_too_few_frames_is_refused():
    episode = make_episode(0, 4)
    with pytest.raises(InvalidInputError, match="4 actions needs 5 frames"):
        Episode(**{**vars(episode), "image": episode.image[:-1]})


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(directory, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(p.name for p in directory.iterdir())
    monkeypatch.setattr(module.os, "fsync", fsync)
    for index in (1, 3):
        with pytest.raises(OSError, match="No space left"):
            write_episode(directory, index, make_episode(9, 6))
    assert sorted(p.name for p in directory.iterdir()) == before
    np.testing.assert_array_equal(read_episode(episode_path(directory, 1)).image, make_episode(1, 7).image)


@pytest.mark.skipif(not shutil.which("prlimit") and sys.platform != "linux", reason="needs resource limits")
def test_a_really_refused_write_leaves_nothing(directory):
    """The same against the kernel: a file-size limit makes write() itself fail half way."""
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1]);"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from latent_mpc.world_model.dataset import *;"
        "episode = read_episode(episode_path(sys.argv[2], 1));"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500));"
        "write_episode(sys.argv[2], 7, episode)"
    )
    done = subprocess.run([sys.executable, "-c", code, "", str(directory)], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert not list(directory.glob("*000007*"))

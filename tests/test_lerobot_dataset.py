"""What LeRobot would read is what the log says: each frame once, the joints at its time, a constant rate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_mpc import lerobot_dataset
from latent_mpc.frame_log import frame_dtype
from latent_mpc.lerobot_dataset import export
from latent_mpc.robots.log import read_run
from latent_mpc.types import InvalidInputError

from .synthetic_run import BEGAN_S, FRAME_S, NAMES, level, write_run
from .test_film import decoded

pq = pytest.importorskip("pyarrow.parquet")

FIRST = "chunk-000/file-000"
CAMERA = "observation.images.front"


def columns(root: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(root / "data" / f"{FIRST}.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def episodes(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(root / "meta/episodes" / f"{FIRST}.parquet").to_pylist()
    return rows


def info(root: Path, file: str = "info") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "meta" / f"{file}.json").read_text())
    return content


def film(root: Path) -> list[np.ndarray]:
    return decoded(root / "videos" / CAMERA / f"{FIRST}.mp4")


def test_rows_are_the_log_at_a_constant_rate(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    said = export([run], tmp_path / "set")
    assert "1 episodes, 40 rows at 20 a second" in said and "none repeats a frame" in said
    rows, ticks = columns(tmp_path / "set"), read_run(run).ticks
    count = 40  # torque from 0.50 s to 2.49 s
    assert np.array_equal(rows["index"], np.arange(count)) and np.array_equal(rows["frame_index"], np.arange(count))
    assert np.array_equal(rows["timestamp"].astype(np.float32), (np.arange(count) / 20).astype(np.float32))
    assert np.all(np.diff(rows["timestamp"]) > 0)
    assert not rows["episode_index"].any() and not rows["task_index"].any()
    at_s = BEGAN_S + 0.5 + np.arange(count) / 20
    nearest = np.abs(ticks["now_s"][None] - at_s[:, None]).argmin(1)
    for key, q_rad, gripper in (("observation.state", "q_rad", "gripper"), ("action", "sent_rad", "sent_gripper")):
        wanted = np.column_stack([np.rad2deg(ticks[q_rad][nearest]), 100 * ticks[gripper][nearest]])
        assert np.abs(rows[key] - wanted).max() < 1e-4
    pictures = film(tmp_path / "set")
    assert len(pictures) == count
    assert max(abs(p.mean() - level(10 + k)) for k, p in enumerate(pictures)) < 1.5


def test_info_says_what_the_files_hold(tmp_path: Path) -> None:
    export([write_run(tmp_path / "run")], tmp_path / "set")
    found, rows = info(tmp_path / "set"), columns(tmp_path / "set")
    assert found["codebase_version"] == "v3.0" and found["fps"] == 20 and found["robot_type"] == "fake"
    assert (found["total_episodes"], found["total_frames"], found["total_tasks"]) == (1, 40, 1)
    assert found["splits"] == {"train": "0:1"}
    place = {"chunk_index": 0, "file_index": 0}
    assert (tmp_path / "set" / found["data_path"].format(**place)).exists()
    assert (tmp_path / "set" / found["video_path"].format(video_key=CAMERA, **place)).exists()
    features = found["features"]
    assert set(features) == {*rows, CAMERA}
    for key, column in rows.items():
        assert features[key]["shape"] == list(column.shape[1:] or (1,))
    table = pq.read_schema(tmp_path / "set" / "data" / f"{FIRST}.parquet")
    assert table.field("timestamp").type == "float" and table.field("index").type == "int64"
    assert str(table.field("action").type).startswith("fixed_size_list<") and table.field("action").type.list_size == 3
    assert features["action"]["names"] == features["observation.state"]["names"]
    assert features["action"]["names"] == [*(f"{name}.pos" for name in NAMES), "gripper.pos"]
    assert features[CAMERA]["dtype"] == "video" and features[CAMERA]["shape"] == [32, 32, 3]
    tasks = pq.read_table(tmp_path / "set/meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": "match the goal image"}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_names_and_units_are_those_of_our_arms_as_lerobots(tmp_path: Path) -> None:
    from latent_mpc.robots.as_lerobot import AsLeRobot

    from .fake_driver import FakeDriver

    driver = FakeDriver(lambda: BEGAN_S)
    names = driver.spec.joint_names
    arm = AsLeRobot(driver)
    assert [f"{name}.pos" for name in (*names, "gripper")] == list(arm.observation_features)
    arm.connect()
    driver.q_rad, driver.gripper = np.array([0.1, -0.2, 0.3]), 0.75
    value = lerobot_dataset._values(driver.q_rad[None], np.array([0.75]))[0]
    assert np.allclose(value, list(arm.get_observation().values()), atol=1e-5)
    arm.disconnect()


def test_each_run_is_an_episode_and_the_indices_go_on(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", torque=slice(100, 200))]
    export(runs, tmp_path / "set")
    rows, found = columns(tmp_path / "set"), episodes(tmp_path / "set")
    assert np.array_equal(rows["index"], np.arange(60))
    assert rows["episode_index"].tolist() == [0] * 40 + [1] * 20
    assert rows["frame_index"].tolist() == [*range(40), *range(20)]
    assert [(e["dataset_from_index"], e["dataset_to_index"], e["length"]) for e in found] == [(0, 40, 40), (40, 60, 20)]
    spans = [(e[f"videos/{CAMERA}/from_timestamp"], e[f"videos/{CAMERA}/to_timestamp"]) for e in found]
    assert spans == [(0.0, 2.0), (2.0, 3.0)]
    assert all(e["tasks"] == ["match the goal image"] for e in found)
    pictures = film(tmp_path / "set")
    assert len(pictures) == 60 and abs(pictures[40].mean() - level(20)) < 1.5
    assert info(tmp_path / "set")["total_frames"] == 60


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    export([write_run(tmp_path / "a"), write_run(tmp_path / "b", torque=slice(100, 200))], tmp_path / "set")
    rows, stats, found = columns(tmp_path / "set"), info(tmp_path / "set", "stats"), episodes(tmp_path / "set")
    for key in ("observation.state", "action", "timestamp", "episode_index"):
        column = rows[key].reshape(60, -1)
        for name, wanted in (
            ("min", column.min(0)),
            ("max", column.max(0)),
            ("mean", column.mean(0)),
            ("std", column.std(0)),
            ("q50", np.median(column, axis=0)),
        ):
            assert np.allclose(stats[key][name], wanted, rtol=1e-5, atol=1e-5), (key, name)
        assert stats[key]["count"] == [60]
        assert np.allclose(found[1][f"stats/{key}/mean"], column[40:].mean(0), rtol=1e-5, atol=1e-5)
    levels = np.array([*(level(10 + k) for k in range(40)), *(level(20 + k) for k in range(20))]) / 255
    for name, value in (("min", levels.min()), ("max", levels.max()), ("mean", levels.mean()), ("std", levels.std())):
        assert np.shape(stats[CAMERA][name]) == (3, 1, 1)
        assert np.allclose(stats[CAMERA][name], value, atol=1e-9), name
    assert abs(np.ravel(stats[CAMERA]["q50"])[0] - np.median(levels)) < 3.1 / 255
    assert np.allclose(found[0][f"stats/{CAMERA}/mean"], levels[:40].mean(), atol=1e-9)


def test_each_row_is_a_frame_of_its_own_and_a_missing_one_ends_the_episode(tmp_path: Path) -> None:
    seen = [s for s in range(60) if s not in (20, 21, 35, 37)]
    said = export([write_run(tmp_path / "run", seen)], tmp_path / "set")
    assert "20 a second" in said  # the camera's rate, not that at which frames were kept
    found, rows = episodes(tmp_path / "set"), columns(tmp_path / "set")
    assert [e["length"] for e in found] == [10, 13, 12]  # 10..19, 22..34, 38..49; of 36 alone nothing is learnt
    shown = [*range(10, 20), *range(22, 35), *range(38, 50)]
    pictures = film(tmp_path / "set")
    assert max(abs(p.mean() - level(s)) for s, p in zip(shown, pictures, strict=True)) < 1.5
    ticks = read_run(tmp_path / "run").ticks
    at = np.array([np.abs(ticks["now_s"] - (BEGAN_S + FRAME_S * s)).argmin() for s in shown])
    assert np.abs(rows["observation.state"][:, :2] - np.rad2deg(ticks["q_rad"][at])).max() < 1e-4
    for e in found:
        times = rows["timestamp"][e["dataset_from_index"] : e["dataset_to_index"]]
        assert np.allclose(times, np.arange(e["length"]) / 20, atol=1e-6)


def test_a_camera_whose_clock_is_not_quite_its_rate_repeats_and_skips_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    records = np.fromfile(run / "frames.bin", frame_dtype(32, 32))
    jitter_s = np.random.default_rng(0).uniform(-0.008, 0.008, 60)
    records["captured_s"] = BEGAN_S + 1.02 * FRAME_S * np.arange(60) + jitter_s
    records.tofile(run / "frames.bin")
    export([run], tmp_path / "set")
    inside = np.flatnonzero((records["captured_s"] >= BEGAN_S + 0.5) & (records["captured_s"] <= BEGAN_S + 2.49))
    pictures = film(tmp_path / "set")
    assert max(abs(p.mean() - level(s)) for s, p in zip(inside, pictures, strict=True)) < 1.5
    rows = columns(tmp_path / "set")
    assert np.allclose(rows["timestamp"], np.arange(len(inside)) / 20, atol=1e-6)
    state = np.sin(records["captured_s"][inside])  # of the shoulder, at the frame's own time
    assert np.abs(np.deg2rad(rows["observation.state"][:, 0]) - state).max() < 0.006


def test_each_stretch_with_torque_is_an_episode(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    ticks = np.fromfile(run / "ticks.bin", read_run(run).ticks.dtype)
    ticks["torque"][100:150] = False
    ticks.tofile(run / "ticks.bin")
    export([run], tmp_path / "set")
    assert [e["length"] for e in episodes(tmp_path / "set")] == [10, 20]
    assert np.all(columns(tmp_path / "set")["action"][:, 2] == 25)  # what was sent, and nothing where nothing was


def test_logs_that_were_cut_off_are_read_as_far_as_both_go(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", range(30), cut=11)
    export([run], tmp_path / "set")
    rows = columns(tmp_path / "set")
    assert len(rows["index"]) == round((28 * FRAME_S - 0.5) * 20) + 1 == len(film(tmp_path / "set"))


def test_odd_images_lose_a_row_and_a_column(tmp_path: Path) -> None:
    export([write_run(tmp_path / "run", size=(33, 35))], tmp_path / "set")
    assert info(tmp_path / "set")["features"][CAMERA]["shape"] == [32, 34, 3]
    assert film(tmp_path / "set")[0].shape == (32, 34, 3)


@pytest.mark.parametrize(
    ("sequences", "torque", "message"),
    [
        ([], slice(50, 250), "holds no frames"),
        ([7], slice(50, 250), "too few frames"),
        (range(60), slice(0, 0), "no stretch with torque and frames"),
        (range(5), slice(50, 250), "no stretch with torque and frames"),
    ],
)
def test_runs_with_nothing_to_learn_are_refused(tmp_path: Path, sequences: Any, torque: slice, message: str) -> None:
    run = write_run(tmp_path / "run", sequences, torque=torque)
    with pytest.raises(InvalidInputError, match=message):
        export([run], tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_runs_of_different_arms_or_images_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(InvalidInputError, match="another arm"):
        export([run, write_run(tmp_path / "arm", names=("a", "b"))], tmp_path / "set")
    with pytest.raises(InvalidInputError, match="another size"):
        export([run, write_run(tmp_path / "size", size=(16, 16))], tmp_path / "set")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "set").mkdir()
    export([run], tmp_path / "set")  # an empty one will do
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    with pytest.raises(InvalidInputError, match="holds something already"):
        export([run], tmp_path / "set")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InvalidInputError, match="holds something already"):
        export([run], tmp_path / "file")


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lerobot_dataset, "_write_json", full)
    with pytest.raises(OSError, match="No space left"):
        export([run], tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'latent-mpc\[lerobot\]'"):
        export([tmp_path], tmp_path / "set")

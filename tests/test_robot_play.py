"""Recorded play says what was executed, resumes, and stops when the camera is no good; in real time, in simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latent_mpc import robot_play
from latent_mpc.drive import simulated_station
from latent_mpc.envs.tabletop import TabletopConfig, TabletopEnv
from latent_mpc.robot_play import RobotPlayConfig, actions_between, record
from latent_mpc.robots.robot import DriverError
from latent_mpc.robots.world import Faults
from latent_mpc.sight import Sight
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.dataset import PlayDataset, episode_paths

SCENE = 3
CONFIG = RobotPlayConfig(num_episodes=2, episode_length=8)


def executed(data: PlayDataset, env: TabletopConfig) -> tuple[np.ndarray, np.ndarray]:
    """What the environment's rule makes of each frame's proprioception and action: places (F, 3) and yaws (F,)."""
    place = data.proprio[:, :3] + env.step_m * data.action[:, :3]
    yaw = np.arctan2(data.proprio[:, 3], data.proprio[:, 4]) + env.step_yaw_rad * data.action[:, 3]
    return place, yaw


def test_actions_are_those_of_the_environment() -> None:
    env, rng = TabletopConfig(), np.random.default_rng(0)
    action = rng.uniform(-1, 1, (6, 5))
    action[:, 4] /= 2  # beyond one half the gripper goes no further
    place = np.cumsum([[0.5, 0.0, 0.2], *(env.step_m * action[:, :3])], axis=0)
    yaw = 3.0 + np.cumsum([0.0, *(env.step_yaw_rad * action[:, 3])])
    wrapped = np.arctan2(np.sin(yaw), np.cos(yaw))  # over the seam
    sights = [Sight(np.zeros((2, 2, 3), np.uint8), i, 0.2 * i, place[i], float(wrapped[i]), 0.08) for i in range(7)]
    found = actions_between(sights, list(np.clip(0.5 - action[:, 4], 0, 1)), CONFIG)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, action, atol=1e-5)


def test_two_episodes_are_recorded_interrupted_resumed_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "play", robot_play.write_episode

    def interrupted(*arguments: object) -> Path:
        monkeypatch.setattr(robot_play, "write_episode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        return write(*arguments)  # type: ignore[arg-type]

    with simulated_station("PickPlace", SCENE) as station:
        monkeypatch.setattr(robot_play, "write_episode", interrupted)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            record(station, CONFIG, name="mujoco", out=out, seed=5, progress=False)
        (first,) = episode_paths(out)
        kept = first.read_bytes()
        monkeypatch.setattr(robot_play, "write_episode", write)
        with pytest.raises(InvalidInputError, match="other settings"):
            record(station, replace(CONFIG, step_m=0.05), name="mujoco", out=out, seed=5, progress=False)
        said = record(station, CONFIG, name="mujoco", out=out, seed=5, progress=False)
        assert station.simulation is not None and not any(vars(station.simulation.truth().violations).values())
    assert "2 episodes" in said and first.read_bytes() == kept and (out / "preview.mp4").stat().st_size
    data = PlayDataset.load(out, progress=False)
    assert data.header.env_id == "robot/mujoco" and data.image.shape == (18, 64, 64, 3)
    assert len(data.clip_starts(8)) == 2
    with pytest.raises(InvalidInputError, match="nobody knows the objects' true positions"):
        PlayDataset.load(out, with_truth=True, progress=False)
    place, yaw = executed(data, TabletopConfig())
    inner = np.flatnonzero(data.step_index < 8)
    assert np.linalg.norm(place[inner] - data.proprio[inner + 1, :3], axis=1).max() < 1e-4
    turned = np.arctan2(data.proprio[inner + 1, 3], data.proprio[inner + 1, 4])
    assert np.abs(yaw[inner] - turned).max() < 1e-3
    assert np.abs(data.action).max() <= 1 and np.abs(data.action[:, :3]).mean() > 0.02  # it moves
    assert_images_show_the_arm(data)


def assert_images_show_the_arm(data: PlayDataset) -> None:
    """Rendered anew with the tool where the proprioception has it, each image is most like the recorded one.

    Only of frames that the tool has left by a visible way, before and after.
    """
    env = TabletopEnv("PickPlace")
    try:
        env.reset(seed=SCENE)
        compared = 0
        for f in range(1, 8):
            around = [np.linalg.norm(data.proprio[f, :3] - data.proprio[g, :3]) for g in (f - 1, f + 1)]
            if min(around) < 0.012:
                continue
            x, y, z, sine, cosine, _ = data.proprio[f].astype(float)
            env._arrange(env.layout.object_poses, np.array([x, y, z, np.arctan2(sine, cosine)]))
            apart = [np.abs(env._observe_image().astype(float) - data.image[g]).mean() for g in (f - 1, f, f + 1)]
            assert int(np.argmin(apart)) == 1, (f, apart)
            compared += 1
    finally:
        env.close()
    assert compared


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stalled", "black"])
def test_without_a_sound_camera_the_arm_comes_to_rest_and_it_is_told(tmp_path: Path, fault: str) -> None:
    with simulated_station("PickPlace", SCENE) as station:
        assert station.simulation is not None
        simulation = station.simulation
        write = robot_play.write_episode
        with pytest.MonkeyPatch.context() as patch:

            def spoilt(*arguments: object) -> Path:
                simulation.inject(Faults(frame=fault))
                return write(*arguments)  # type: ignore[arg-type]

            patch.setattr(robot_play, "write_episode", spoilt)
            with pytest.raises(DriverError, match="stalled" if fault == "stalled" else "lens covered"):
                record(station, CONFIG, name="mujoco", out=tmp_path / "play", progress=False)
        assert np.abs(simulation.truth().qvel[:7]).max() < 0.5  # braked, then limp
    assert len(episode_paths(tmp_path / "play")) == 1


@pytest.mark.parametrize("wrong", [{"num_episodes": 0}, {"episode_length": 0}, {"step_m": 0.0}, {"step_s": -1.0}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        RobotPlayConfig(**wrong)

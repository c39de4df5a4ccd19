"""`latent-mpc demo`: one episode towards one goal image, filmed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from latent_mpc.agent import Agent
from latent_mpc.agent_config import AgentConfig
from latent_mpc.envs import register_envs
from latent_mpc.envs.tabletop import TabletopConfig, TabletopEnv
from latent_mpc.loop import Step, run_episode
from latent_mpc.shipped import weights_folder
from latent_mpc.visualise import EpisodeRecord, save_episode
from latent_mpc.world_model.gallery import Gallery, load_gallery
from latent_mpc.world_model.model import load_world_model

SCENE_SIZE = 320  # pixels of the filmed pictures


@dataclass(frozen=True)
class DemoConfig:
    """Settings of `latent-mpc demo`: the task, its environment, and how the agent plans."""

    env_id: str = "latent_mpc/PickPlace-v0"
    env: TabletopConfig = field(default_factory=TabletopConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)


class Recorder:
    """Collects what the pictures are made of; a callback of `run_episode`."""

    def __init__(self, env: TabletopEnv, agent: Agent, gallery: Gallery, bar: tqdm) -> None:
        self._env, self._agent, self._gallery, self._bar = env, agent, gallery, bar
        self.frames: list[NDArray[np.uint8]] = []
        self.goal_energy: list[float] = []
        self.subgoal_energy: list[float] = []
        self.plan_frames: list[list[NDArray[np.uint8]]] = []

    def begin(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        self.goal_image = self._env.render_goal(self._env.config.camera, SCENE_SIZE, SCENE_SIZE)
        self._film()

    def step(self, step: Step) -> None:
        agent, trace = self._agent, self._agent.trace
        assert trace is not None
        state = agent.observe(step.observation)
        self.goal_energy.append(float(agent.goal_energy(state)))
        if trace.subgoal is not None and trace.coarse_states is not None:
            self.subgoal_energy.append(float(agent.subgoal_energy(state, torch.from_numpy(trace.subgoal))))
            coarse = torch.from_numpy(trace.coarse_states)
            self.plan_frames.append([self._gallery.nearest(s, agent.subgoal_energy) for s in coarse])
        else:  # planned to the goal itself
            self.subgoal_energy.append(self.goal_energy[-1])
            self.plan_frames.append([step.observation["goal_image"]])
        self._film()
        self._bar.update()

    def _film(self) -> None:
        self.frames.append(self._env.render_camera(self._env.config.camera, SCENE_SIZE, SCENE_SIZE))


def run_demo(config: DemoConfig, *, weights: str, out: Path, seed: int, device: str) -> str:
    """Run one episode and leave `episode.mp4`, `filmstrip.png` and `result.json` in `out`; returns the verdict.

    Raises:
        UnknownNameError: no such weights. InvalidInputError: they are damaged, or not of this camera and robot.
    """
    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    folder = weights_folder(weights)
    model, _ = load_world_model(folder)
    gallery = load_gallery(folder, model)
    agent = Agent(model, config.agent, device)
    register_envs()
    env = gymnasium.make(config.env_id, config=config.env)
    simulation = env.unwrapped
    assert isinstance(simulation, TabletopEnv)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    with tqdm(total=limit, desc="demo", unit="step") as bar:
        recorder = Recorder(simulation, agent, gallery, bar)
        episode = run_episode(env, agent, seed=seed, callbacks=[recorder])
    env.close()
    plans = recorder.plan_frames
    record = EpisodeRecord(
        frames=recorder.frames,
        goal_image=recorder.goal_image,
        goal_energy=np.array(recorder.goal_energy),
        success=episode.success,
        position_error_m=episode.position_error_m,
        act_times_s=np.array(episode.act_times_s),
        control_dt_s=config.env.control_dt_s,
        subgoal_frames=[plan[0] for plan in plans],
        subgoal_energy=np.array(recorder.subgoal_energy),
        plan_frames=plans,
    )
    save_episode(record, out)
    error_cm = 100 * episode.position_error_m
    mean_s, slowest_s = float(np.mean(episode.act_times_s)), max(episode.act_times_s)
    result = {
        "success": episode.success,
        "position_error_cm": round(error_cm, 2),
        "steps": episode.steps,
        "mean_act_s": round(mean_s, 4),
        "slowest_act_s": round(slowest_s, 4),
        "weights": weights,
        "env_id": config.env_id,
        "seed": seed,
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return (
        f"{'success' if episode.success else 'no success'} after {episode.steps} steps; position error "
        f"{error_cm:.1f} cm; {1000 * mean_s:.0f} ms an action (slowest {1000 * slowest_s:.0f} ms)\n"
        f"look at {out / 'episode.mp4'} and {out / 'filmstrip.png'}"
    )

"""`latent-mpc demo`: one pick-and-place from one goal image, filmed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from latent_mpc.agent import Agent, AgentConfig, weights_folder
from latent_mpc.envs import register_envs
from latent_mpc.envs.tabletop import TabletopConfig, TabletopEnv
from latent_mpc.visualise import EpisodeRecord, save_episode
from latent_mpc.world_model.gallery import load_gallery
from latent_mpc.world_model.model import load_world_model

SCENE_SIZE = 320  # pixels of the filmed pictures


@dataclass(frozen=True)
class DemoConfig:
    """Settings of `latent-mpc demo`: the task, its environment, and how the agent plans."""

    env_id: str = "latent_mpc/PickPlace-v0"
    env: TabletopConfig = field(default_factory=TabletopConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)


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
    camera = config.env.camera
    observation, info = env.reset(seed=seed)
    goal_view = simulation.render_goal(camera, SCENE_SIZE, SCENE_SIZE)
    agent.reset(observation["goal_image"], seed=seed)
    frames = [simulation.render_camera(camera, SCENE_SIZE, SCENE_SIZE)]
    goal_energy, subgoal_energy, act_times, subgoal_frames, plan_frames = [], [], [], [], []
    limit = env.spec.max_episode_steps if env.spec is not None else None
    with tqdm(total=limit, desc="demo", unit="step") as bar:
        done = False
        while not done:
            started = time.perf_counter()
            action = agent.act(observation)
            act_times.append(time.perf_counter() - started)
            trace = agent.trace
            assert trace is not None and trace.subgoal is not None and trace.coarse_states is not None
            state = agent.observe(observation)
            goal_energy.append(float(agent.goal_energy(state)))
            subgoal_energy.append(float(agent.subgoal_energy(state, torch.from_numpy(trace.subgoal))))
            plan_frames.append(
                [gallery.nearest(torch.from_numpy(s), agent.subgoal_energy) for s in trace.coarse_states]
            )
            subgoal_frames.append(plan_frames[-1][0])
            observation, _, terminated, truncated, info = env.step(action)
            frames.append(simulation.render_camera(camera, SCENE_SIZE, SCENE_SIZE))
            done = terminated or truncated
            bar.update()
    env.close()
    moved = np.linalg.norm(info["object_positions"] - info["goal_positions"], axis=1)
    error_m = float(moved[simulation.layout.target])
    record = EpisodeRecord(
        frames=frames,
        goal_image=goal_view,
        goal_energy=np.array(goal_energy),
        success=bool(info["is_success"]),
        position_error_m=error_m,
        act_times_s=np.array(act_times),
        control_dt_s=config.env.control_dt_s,
        subgoal_frames=subgoal_frames,
        subgoal_energy=np.array(subgoal_energy),
        plan_frames=plan_frames,
    )
    save_episode(record, out)
    result = {
        "success": record.success,
        "position_error_cm": round(100 * error_m, 2),
        "steps": len(act_times),
        "mean_act_s": round(float(np.mean(act_times)), 4),
        "slowest_act_s": round(float(np.max(act_times)), 4),
        "weights": weights,
        "env_id": config.env_id,
        "seed": seed,
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return (
        f"{'success' if record.success else 'no success'} after {result['steps']} steps; position error "
        f"{result['position_error_cm']:.1f} cm; {1000 * result['mean_act_s']:.0f} ms an action "
        f"(slowest {1000 * result['slowest_act_s']:.0f} ms)\nlook at {out / 'episode.mp4'} and {out / 'filmstrip.png'}"
    )

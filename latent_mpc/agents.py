"""The agents of an evaluation by their names, from those that know least to those that read the simulator.

no-op, random                        the floor
prior, inverse-dynamics              do what play did on its way to such a goal, and plan nothing
flat, flat-x10, hierarchy            plan on the world model
oracle-subgoals, simulator, expert   ask the simulator: no competitors, but the ceiling of the fine level, of planning,
                                     and of the task
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium

from latent_mpc.agent import Agent, load_agent
from latent_mpc.agent_config import PLANNERS, AgentConfig
from latent_mpc.baselines import ExpertAgent, InverseDynamicsAgent, NoOpAgent, OracleSubgoalsAgent, RandomAgent
from latent_mpc.envs.trial import pick_place_images
from latent_mpc.goal_sequence import GoalSequence
from latent_mpc.shipped import weights_folder
from latent_mpc.simulator_agent import SimulatorAgent
from latent_mpc.types import AgentLike, InvalidInputError
from latent_mpc.world_model.inverse_dynamics import load_inverse_dynamics
from latent_mpc.world_model.model import load_world_model

PLANNING = (*PLANNERS, "flat-x10")  # several goal images can be shown to these, one after the other
LEARNED = (*PLANNING, "inverse-dynamics", "oracle-subgoals")  # act on weights
SCRIPTED = ("oracle-subgoals", "expert")  # follow the scripted expert, which only moves objects
ORACLES = (*SCRIPTED, "simulator")  # read the simulator
AGENTS = tuple(dict.fromkeys((*LEARNED, "no-op", "random", *ORACLES)))
MORE_SAMPLES = 10  # of flat-x10, in each iteration


@dataclass(frozen=True)
class AgentSource:
    """What agents are made from.

    Attributes:
        weights: of the world model, a shipped name or a folder.
        baseline_weights: of "inverse-dynamics", the folder that `latent-mpc baseline` wrote.
        config: of the planning agents; its `planner` is set by their name.
        device: of all that act on weights.
    """

    weights: str
    baseline_weights: str | None = None
    config: AgentConfig = field(default_factory=AgentConfig)
    device: str = "cpu"


def make_agent(name: str, env: gymnasium.Env[Any, Any], source: AgentSource, goal_images: int = 1) -> AgentLike:
    """An agent by its name in `AGENTS`; with several goal images it is shown one after the other (goal_sequence.py)."""
    simulation: Any = env.unwrapped
    if name == "no-op":
        return NoOpAgent(env.action_space.shape[0])  # type: ignore[index]
    if name == "random":
        return RandomAgent(env.action_space.shape[0])  # type: ignore[index]
    if name == "expert":
        return ExpertAgent(simulation)
    if name == "simulator":
        return SimulatorAgent(simulation)
    if name == "inverse-dynamics":
        return inverse_dynamics_agent(source)
    if name == "oracle-subgoals":
        return OracleSubgoalsAgent(planning_agent(source), simulation)
    agent = planning_agent(replace(source, config=planning_config(name, source.config)))
    if goal_images > 1:
        return GoalSequence(agent, functools.partial(pick_place_images, simulation))
    return agent


def planning_config(name: str, config: AgentConfig) -> AgentConfig:
    """How the agent of a name in `PLANNING` plans."""
    if name != "flat-x10":
        return replace(config, planner=name)
    more = replace(config.flat, num_samples=MORE_SAMPLES * config.flat.num_samples)
    return replace(config, planner="flat", flat=more)


@functools.cache
def planning_agent(source: AgentSource) -> Agent:
    """Loaded once a process."""
    return load_agent(source.weights, config=source.config, device=source.device)


@functools.cache
def inverse_dynamics_agent(source: AgentSource) -> InverseDynamicsAgent:
    """Loaded once a process.

    Raises:
        InvalidInputError: there are no `baseline_weights`, or they are not of these weights.
    """
    if source.baseline_weights is None:
        raise InvalidInputError("inverse-dynamics needs baseline_weights: a folder that `latent-mpc baseline` wrote")
    folder = weights_folder(source.weights)
    model, _ = load_world_model(folder)
    network = load_inverse_dynamics(Path(source.baseline_weights), model, folder)
    return InverseDynamicsAgent(model, network, source.device)

"""latent-mpc: planning with a learned latent world model.

Importing it registers the environments `latent_mpc/Reach-v0`, `latent_mpc/PickPlace-v0` and so on (docs/tasks.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latent_mpc.envs import register_envs

if TYPE_CHECKING:
    from latent_mpc.agent import Agent
    from latent_mpc.agent_config import AgentConfig

register_envs()


def load_agent(weights: str | Path, *, config: AgentConfig | None = None, device: str = "cpu") -> Agent:
    """Load a shipped model (`"panda-tabletop"`) or a folder; see `latent_mpc.agent.load_agent`."""
    from latent_mpc import agent  # not at the top: `latent-mpc --help` does not wait for torch

    return agent.load_agent(weights, config=config, device=device)

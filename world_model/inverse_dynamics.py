"""Inverse dynamics towards a goal: what play did in a state from which it came to another one. A baseline.

    min_g ‖g(s_t, s_{t+k}) − a_t‖²,   k ~ U[1, k_max]

Hindsight makes every later state of an episode a goal. How far away it lies is not said, as at run time nobody knows.
The network acts by itself, so it is no world model: nothing is predicted, nothing is planned.
Source: goal-conditioned imitation of play, Lynch et al. (arXiv 1903.01973), without the latent plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.checkpoint import (
    Checkpoint,
    current_commit,
    load_checkpoint,
    load_module,
    module_tensors,
    save_checkpoint,
)
from latent_mpc.world_model.fit import FitConfig, fit
from latent_mpc.world_model.header import TENSORS_NAME
from latent_mpc.world_model.layers import ResidualMLP
from latent_mpc.world_model.model import WorldModel
from latent_mpc.world_model.train import Clips, all_states, episode_ends, episode_starts

NAME = "inverse_dynamics"  # of its part in a checkpoint


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """How the network is made and trained.

    Attributes:
        width, blocks: of the residual MLP.
        max_steps: k_max, control steps from a state to its goal; the episode's end where that comes first.
        fit: steps, batches of pairs of states, learning rate.
        num_threads: CPU threads.
    """

    width: int = 384
    blocks: int = 3
    max_steps: int = 30
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=6000, batch_size=256, learning_rate=1e-3))
    num_threads: int = 1

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.max_steps, self.num_threads) < 1:
            raise InvalidInputError(f"width, blocks, max_steps and num_threads must be at least 1, got {self}")


class InverseDynamics(nn.Module):
    """g(s, s_goal) -> action."""

    def __init__(self, state_dim: int, action_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.net = ResidualMLP(2 * state_dim, width, action_dim, blocks)

    def forward(self, state: Tensor, goal: Tensor) -> Tensor:
        """States (..., D), goals (..., D) as `WorldModel.observe_goal` sees them -> actions (..., A) in [-1, 1]."""
        return torch.tanh(self.net(torch.cat([state, goal], dim=-1)))


def train_inverse_dynamics(
    model: WorldModel,
    clips: Clips,
    config: InverseDynamicsConfig,
    *,
    seed: int,
    folder: Path,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> InverseDynamics:
    """Regress the actions of play on the frozen states of `model`; `folder` as in `fit`.

    Raises:
        InvalidInputError: no episode has two frames, or `folder` holds the state of other settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their initial weights from torch's own generator
        network = InverseDynamics(model.state_dim, model.config.action_dim, config.width, config.blocks)
    network.to(clips.z.device)
    states, goals = all_states(model, clips), goals_seen(model, clips)
    draw = hindsight_pairs(clips, config.max_steps, config.fit.batch_size)

    def losses(generator: torch.Generator) -> dict[str, Tensor]:
        now, later = draw(generator)
        return {"action": F.mse_loss(network(states[now], goals[later]), clips.action[now])}

    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        settings = {"seed": seed, NAME: asdict(config)}
        fit(network, losses, config.fit, seed=seed, folder=folder, settings=settings, progress=progress)
    finally:
        torch.set_num_threads(threads_before)
    return network.requires_grad_(False).eval()


def hindsight_pairs(clips: Clips, max_steps: int, count: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Draws frames (count,), and frames 1 to `max_steps` steps later in the same episode, its last one at most."""
    starts, ends = episode_starts(clips, 1), episode_ends(clips)
    end_of = ends[torch.searchsorted(ends, starts)]

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(starts), (count,), generator=generator)
        later = starts[index] + torch.randint(1, max_steps + 1, (count,), generator=generator)
        return starts[index], torch.minimum(later, end_of[index])

    return draw


@torch.no_grad()
def goals_seen(model: WorldModel, clips: Clips) -> Tensor:
    """Every frame as a goal image would show it, (F, D): proprioception is inferred from the image latent."""
    z = (clips.z - model.latent_mean) / model.latent_std
    return torch.cat([z, torch.cat([model.proprio_head(part) for part in clips.z.split(8192)])], dim=-1)


def save_inverse_dynamics(
    folder: Path, network: InverseDynamics, config: InverseDynamicsConfig, world_model: Path, seed: int
) -> None:
    """Write `model.safetensors` and `model.yaml`, which names the latents of `world_model`, a folder, as its input."""
    sections = {NAME: asdict(config), "world_model": fingerprint(world_model), "training": {"seed": seed}}
    save_checkpoint(folder, Checkpoint(module_tensors(network, NAME), sections, commit=current_commit()))


def load_inverse_dynamics(folder: Path, model: WorldModel, world_model: Path) -> InverseDynamics:
    """Read what `save_inverse_dynamics` wrote, frozen, on the CPU.

    Args:
        model, world_model: the world model whose states it shall act on, and its folder.
    Raises:
        InvalidInputError: files are missing, damaged, none of this, or made for the latents of another world model.
    """
    checkpoint = load_checkpoint(folder)
    if NAME not in checkpoint.config:
        raise InvalidInputError(f"{folder} holds no inverse dynamics; it has {sorted(checkpoint.config)}")
    if checkpoint.config["world_model"] != fingerprint(world_model):
        raise InvalidInputError(
            f"{folder} was trained on the latents of other weights than {world_model}; "
            f"run latent-mpc baseline --weights {world_model}"
        )
    sizes = checkpoint.config[NAME]
    network = InverseDynamics(model.state_dim, model.config.action_dim, sizes["width"], sizes["blocks"])
    load_module(network, checkpoint.tensors, NAME)
    return network.requires_grad_(False).eval()


def fingerprint(folder: Path) -> str:
    """SHA-256 of a checkpoint's tensors."""
    return hashlib.sha256((folder / TENSORS_NAME).read_bytes()).hexdigest()

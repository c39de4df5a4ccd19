"""The world model: a frozen encoder, a distance between scenes, and dynamics at two timescales.

    s = [z̃, p̃],  z = enc(image),  ~ standardised over play,        s_{t+1} = f(s_t, a_t),   s_{t+C} = F(s_t, m_t)

The state that is planned in has two parts that are predicted together and costed apart: the image's latent and the
robot's proprioception. A goal image comes without proprioception, so a head reads it
off the image. With an attentive encoder the state is that of one thing among many (attention.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.attention import AttentionConfig, AttentiveEncoder
from latent_mpc.world_model.checkpoint import (
    Checkpoint,
    config_from_dict,
    current_commit,
    load_checkpoint,
    load_module,
    module_tensors,
    save_checkpoint,
)
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.layers import mlp
from latent_mpc.world_model.locator import Locator
from latent_mpc.world_model.macro import MacroActionModel
from latent_mpc.world_model.predictor import LatentPredictor
from latent_mpc.world_model.scene_distance import SceneDistance

PLACE_M = 0.1  # unit of places for the networks that read them


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of everything after the encoder.

    Attributes:
        proprio_dim, action_dim: widths of the robot's proprioception and action.
        grasps: proprioception is a tool's x, y, z in metres first and its fingers' opening last, the last action closes
            them: then things are located by where they were held.
        pushes: proprioception is a tool's x, y, z in metres first, and things are located by where it pushed them. With
            neither, by the scene distance's embedding.
        embedding_dim: width of the embedding in which scenes are compared.
        head_width: hidden width of the proprioception head and of the scene distance.
        predictor_width, predictor_blocks: the one-step dynamics.
        macro_dim: width M of a macro-action, with the one entry that stands for the time to the goal;
            chunk_length: actions C in it; max_goal_steps: longest time to the goal, in control steps.
        macro_width, macro_blocks: the macro-action model.
    """

    proprio_dim: int = 6
    action_dim: int = 5
    grasps: bool = True
    pushes: bool = False
    embedding_dim: int = 8
    head_width: int = 256
    predictor_width: int = 256
    predictor_blocks: int = 3
    macro_dim: int = 9
    chunk_length: int = 5
    max_goal_steps: int = 30
    macro_width: int = 384
    macro_blocks: int = 3

    def __post_init__(self) -> None:
        if min(value for value in asdict(self).values() if not isinstance(value, bool)) < 1:
            raise InvalidInputError(f"every size must be at least 1, got {self}")
        if self.grasps and self.pushes:
            raise InvalidInputError("things are located by where they were held or where they were pushed, not both")
        if self.macro_dim < 2 or self.max_goal_steps <= self.chunk_length:
            raise InvalidInputError(
                f"macro_dim must be at least 2 and max_goal_steps exceed chunk_length, got {self.macro_dim}, "
                f"{self.max_goal_steps} and {self.chunk_length}"
            )


class WorldModel(nn.Module):
    """All parts under one name; `state_dim` is D = Z + P.

    With an `AttentionConfig` the encoder wants to be told what to look for: `attends`.
    """

    latent_mean: Tensor
    latent_std: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor
    scene_noise: Tensor

    encoder: KeypointEncoder | AttentiveEncoder

    def __init__(self, encoder_config: EncoderConfig | AttentionConfig, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.attends = isinstance(encoder_config, AttentionConfig)
        self.latent_dim = encoder_config.latent_dim
        self.state_dim = self.latent_dim + config.proprio_dim
        if isinstance(encoder_config, AttentionConfig):
            self.encoder = AttentiveEncoder(encoder_config)
        else:
            self.encoder = KeypointEncoder(encoder_config)
        self.proprio_head = mlp(self.latent_dim, config.head_width, config.proprio_dim, depth=2)
        self.scene_distance = SceneDistance(
            self.latent_dim, config.proprio_dim, config.embedding_dim, config.head_width
        )
        self.predictor = LatentPredictor(
            self.state_dim, config.action_dim, config.predictor_width, config.predictor_blocks
        )
        locates = config.grasps or config.pushes
        self.locator = Locator(self.latent_dim, config.head_width) if locates else None
        place_dim = 3 if locates else config.embedding_dim
        self.macro = MacroActionModel(
            self.state_dim,
            config.proprio_dim + place_dim * (2 if locates else 1),
            place_dim,
            config.action_dim,
            config.macro_dim,
            config.chunk_length,
            config.max_goal_steps,
            config.macro_width,
            config.macro_blocks,
        )
        self.register_buffer("latent_mean", torch.zeros(self.latent_dim))
        self.register_buffer("latent_std", torch.ones(self.latent_dim))
        self.register_buffer("proprio_mean", torch.zeros(config.proprio_dim))
        self.register_buffer("proprio_std", torch.ones(config.proprio_dim))
        # Scene distance between predicted and true states one chunk ahead: differences below it are noise.
        self.register_buffer("scene_noise", torch.zeros(()))

    def observe(self, images: Tensor, proprio: Tensor, hues: Tensor | None = None) -> Tensor:
        """uint8 images (B, H, W, 3) and proprioception (B, P) in its own units -> states (B, D).

        hues: what a model that attends is to look for, (B,), rad; no other takes them.
        """
        return self.state(self.encode(images, hues), proprio)

    def encode(self, images: Tensor, hues: Tensor | None = None) -> Tensor:
        """Image latents (B, Z), otherwise as `observe`."""
        return self.encoder(images) if hues is None else self.encoder(images, hues)

    def observe_goal(self, images: Tensor, hues: Tensor | None = None) -> Tensor:
        """Goal images uint8 (B, H, W, 3) -> states (B, D), the proprioception inferred from the image."""
        latent = (self.encode(images, hues) - self.latent_mean) / self.latent_std
        return torch.cat([latent, self.pose(latent)], dim=-1)

    def pose(self, latent: Tensor) -> Tensor:
        """Standardised proprioception (B, P) as it is read off standardised image latents (B, Z)."""
        return self.proprio_head(latent * self.latent_std + self.latent_mean)

    def state(self, z: Tensor, proprio: Tensor) -> Tensor:
        """Image latents (B, Z) and proprioception (B, P) -> states (B, D)."""
        parts = (z - self.latent_mean) / self.latent_std, (proprio - self.proprio_mean) / self.proprio_std
        return torch.cat(parts, dim=-1)

    def place(self, state: Tensor) -> Tensor:
        """Where the thing of states (..., D) is: where the tool would hold it or push it, (..., 3), metres.

        For a robot that does neither, the scene distance's `code`, (..., E).
        """
        if self.locator is None:
            return self.scene_distance.code(state)
        return self.locator(self.split(state)[0])

    def view(self, state: Tensor, goal_place: Tensor) -> tuple[Tensor, Tensor]:
        """What macro-actions are chosen by: o and g of macro.py.

        Args:
            state: (..., D). goal_place: where the thing shall be, as `place` says it.
        Returns:
            The arm, the thing's place and its place as seen from the tool, (..., O); how far it has to go (..., G).
        """
        place, arm = self.place(state), self.split(state)[1]
        if self.locator is None:
            return torch.cat([arm, place], dim=-1), goal_place - place
        tool = (arm * self.proprio_std + self.proprio_mean)[..., :3]
        seen = torch.cat([arm, place / PLACE_M, (place - tool) / PLACE_M], dim=-1)
        return seen, (goal_place - place) / PLACE_M

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """State (..., D) -> standardised image latent (..., Z) and proprioception (..., P)."""
        return state[..., : self.latent_dim], state[..., self.latent_dim :]


def save_world_model(folder: Path, model: WorldModel, metrics: dict[str, Any], training: dict[str, Any]) -> None:
    """Write `model.safetensors` and `model.yaml`; `training` records how it was made."""
    encoder = "attention" if model.attends else "encoder"
    config = {encoder: asdict(model.encoder.config), "model": asdict(model.config), "training": training}
    save_checkpoint(folder, Checkpoint(module_tensors(model, "world_model"), config, metrics, current_commit()))


def load_world_model(folder: Path) -> tuple[WorldModel, Checkpoint]:
    """Read what `save_world_model` wrote; the model comes frozen, on the CPU.

    Raises:
        InvalidInputError: files are missing, truncated, foreign, or do not fit their config.
    """
    checkpoint = load_checkpoint(folder)
    config = checkpoint.config
    if "model" not in config or not {"encoder", "attention"} & set(config):
        raise InvalidInputError(
            f"{folder} is no world model: its config has {sorted(config)}, not a model and an encoder or attention"
        )
    encoder_config: EncoderConfig | AttentionConfig
    if "attention" in config:
        encoder_config = config_from_dict(AttentionConfig, config["attention"])
    else:
        encoder_config = config_from_dict(EncoderConfig, config["encoder"])
    model = WorldModel(encoder_config, config_from_dict(ModelConfig, config["model"]))
    load_module(model, checkpoint.tensors, "world_model")
    return model.requires_grad_(False).eval(), checkpoint

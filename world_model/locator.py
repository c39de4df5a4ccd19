"""Where a thing is, told by the hand that once held it, or by the tool that once pushed it.

    min_w |w(z_t) − p_t'|,   t' = t while the hand holds the thing, else its next grasp there, or its last release

p is where the tool was, as the robot itself feels it. No position of a thing is ever given: what was grasped was where
the hand was, and lay there as long before as the scene has looked the same. A place in metres beside the tool's own is
what lets macro-actions be learnt from little play: "10 cm to the left" is the same anywhere.

Without a grasp, what moves is where the tool is, but for the half of its width: t' = t while the scene changes, else
the next change, or the last. It is pushed from all sides, which w, seeing one picture of it, averages out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latent_mpc.world_model.layers import mlp

HELD_OPENING_M = (0.012, 0.072)  # fingers told to close that stay this far apart hold something
CLOSING = 0.5  # gripper commands from here on close
LOW_M = 0.05  # what is released below this height of the tool stays about there
SAME = 0.1  # scene distance up to which nothing has been moved
PUSHED = 0.02  # from which on, over two steps, something is being moved


class Locator(nn.Module):
    """Image latents to the place where the hand would hold the thing."""

    mean: Tensor
    std: Tensor

    def __init__(self, latent_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(latent_dim, hidden, 3, depth=2)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    def forward(self, latent: Tensor) -> Tensor:
        """Standardised latents (..., Z) -> place of the tool when it holds the thing, (..., 3), metres."""
        return self.net(latent) * self.std + self.mean


def held_places(proprio: Tensor, action: Tensor, embedding: Tensor, ends: Tensor) -> Tensor:
    """Where the thing of each frame was held, as far as play tells.

    Args:
        proprio: (F, P), the tool's x, y, z in metres first, the fingers' opening last.
        action: (F, A), the gripper's command last; action i leads from frame i to i + 1.
        embedding: φ of the states, scaled as the scene distance is, (F, E).
        ends: last frame of each frame's episode, (F,); an episode's frames follow each other.
    Returns:
        (F, 3), metres; NaN where nothing tells.
    """
    tool, opening = proprio[:, :3], proprio[:, -1]
    low, high = HELD_OPENING_M
    gripping = torch.zeros(len(proprio), dtype=torch.bool, device=proprio.device)
    gripping[1:] = (action[:-1, -1] > CLOSING) & (ends[1:] == ends[:-1]) & (opening[1:] > low) & (opening[1:] < high)
    held = gripping.clone()
    held[1:] &= gripping[:-1]  # for two frames: the fingers have come to rest
    return _carry_over(held, tool, embedding, ends, tool[:, 2] < LOW_M)


def pushed_places(proprio: Tensor, embedding: Tensor, ends: Tensor) -> Tensor:
    """Where the thing of each frame was pushed, as far as play tells; otherwise as `held_places`.

    Args:
        proprio: (F, P), the tool's x, y, z in metres first.
    """
    jump = (embedding[2:] - embedding[:-2]).square().sum(-1)
    pushed = torch.zeros(len(proprio), dtype=torch.bool, device=proprio.device)
    pushed[1:-1] = (jump > PUSHED) & (ends[2:] == ends[:-2])
    return _carry_over(pushed, proprio[:, :3], embedding, ends, torch.ones_like(pushed))


def _carry_over(told: Tensor, tool: Tensor, embedding: Tensor, ends: Tensor, stays: Tensor) -> Tensor:
    """The tool's place where it is `told` (F,), carried to the frames before and after in which the scene is the same.

    To those after it only where the thing then `stays` (F,). Returns (F, 3), NaN where nothing tells.
    """
    frames = torch.arange(len(tool), device=tool.device)
    places = torch.full_like(tool, torch.nan)
    when = told.nonzero()[:, 0]
    if not len(when):
        return places
    after = torch.searchsorted(when, frames)
    for candidate in (when[(after - 1).clamp_min(0)], when[after.clamp_max(len(when) - 1)]):  # the later one wins
        there = (ends[candidate] == ends) & ((embedding - embedding[candidate]).square().sum(-1) < SAME)
        there &= (candidate > frames) | stays[candidate]
        places[there] = tool[candidate[there]]
    places[told] = tool[told]
    return places

"""The two building blocks of every head: a plain MLP and a residual one."""

from __future__ import annotations

from torch import Tensor, nn


def mlp(inputs: int, hidden: int, outputs: int, depth: int) -> nn.Sequential:
    """`depth` hidden layers of SiLU units between two linear maps, (B, inputs) -> (B, outputs)."""
    layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.SiLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(hidden, hidden), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


class ResidualMLP(nn.Module):
    """Pre-norm residual blocks of two layers; the output layer starts at zero.

    Source: residual blocks of He et al. (arXiv 1603.05027), with layer normalisation.
    """

    def __init__(self, inputs: int, width: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        last = nn.Linear(width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.leave = nn.Sequential(nn.LayerNorm(width), last)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h)

"""A cost captured as a CUDA graph: one launch an iteration instead of one a kernel.

The graph repeats the same kernels on the same memory. What the cost reads besides the actions, such as the state and
the goal, must be updated in place (`state.copy_(new)`) between plans, never replaced. A planner cannot see whether a
cost keeps to that, and one that does not would go on scoring the first state: so capturing is asked for, never assumed.
Nor do gradients pass through a graph: `gradient` and `polish` reach the cost itself while they descend.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from latent_mpc.types import CostFunction, Scores


class CapturedCost:
    """Wraps a cost; captures it once for each shape of actions, and calls it directly where that is impossible."""

    def __init__(self, cost: CostFunction) -> None:
        self.cost = cost
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor | Scores]] = {}
        self._direct = False

    def __call__(self, actions: Tensor) -> Tensor | Scores:
        """actions (B, S, H, A) -> cost (B, S), with margins where the cost gives them."""
        if self._direct or actions.requires_grad:
            return self.cost(actions)
        if actions.shape not in self._graphs:
            try:
                self._graphs[actions.shape] = self._capture(actions)
            except Exception as error:  # whatever the cost does that a graph cannot
                warnings.warn(f"the cost is not captured, and runs uncaptured: {error}", RuntimeWarning, stacklevel=2)
                self._direct = True
                return self.cost(actions)
        graph, given, found = self._graphs[actions.shape]
        given.copy_(actions)
        graph.replay()
        if isinstance(found, Scores):
            return Scores(found.cost.clone(), None if found.margin is None else found.margin.clone())
        return found.clone()

    def _capture(self, actions: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor | Scores]:
        if not actions.is_cuda:
            raise RuntimeError(f"CUDA graphs need a CUDA device, the actions are on {actions.device}")
        given = actions.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                found = self.cost(given)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = self.cost(given)
        return graph, given, found

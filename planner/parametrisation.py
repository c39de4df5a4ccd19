"""The space that an optimiser searches: knots x in the unit box stand for actions a in the user's box.

    a_t = clip(c + h · Σ_k W[t, k] x_k, low, high),   c = (low + high)/2,  h = (high - low)/2

W is the identity (every step free), piecewise constant, linear, or the natural cubic spline through the knots.
Fewer knots than steps are a prior for smooth plans: the search has K·A dimensions in place of H·A.
Shapes: B batch, S samples, H horizon, K knots, A action width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from latent_mpc.types import InvalidInputError, UnknownNameError

BASES = ("steps", "constant", "linear", "cubic")


@dataclass(frozen=True)
class ActionSpace:
    """Box, discrete dimensions and time basis of a plan.

    Attributes:
        horizon: H, control steps.
        action_dim: A.
        low, high: the box, one number or one for each action dimension.
        basis: one of `BASES`.
        num_knots: K; only for a basis other than "steps".
        sign_dims: action dimensions that take their low or their high bound only (a gripper).
    """

    horizon: int
    action_dim: int
    low: float | Sequence[float] = -1.0
    high: float | Sequence[float] = 1.0
    basis: str = "steps"
    num_knots: int | None = None
    sign_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.action_dim < 1:
            raise InvalidInputError(f"horizon and action_dim must be positive, got {self.horizon}, {self.action_dim}")
        if self.basis not in BASES:
            raise UnknownNameError("basis", self.basis, list(BASES))
        if (self.num_knots is None) != (self.basis == "steps"):
            raise InvalidInputError(
                f"basis {self.basis!r} with num_knots={self.num_knots}: give num_knots with every basis but 'steps'"
            )
        if self.num_knots is not None and not 2 <= self.num_knots <= self.horizon:
            if not (self.basis == "constant" and self.num_knots == 1):
                raise InvalidInputError(f"num_knots must lie in 2..horizon={self.horizon}, got {self.num_knots}")
        for name, bound in (("low", self.low), ("high", self.high)):
            if not isinstance(bound, (int, float)) and len(bound) != self.action_dim:
                raise InvalidInputError(f"{name} needs one number or {self.action_dim}, got {len(bound)}")
        if not bool((self._vector(self.low) < self._vector(self.high)).all()):
            raise InvalidInputError(f"low must be below high, got low={self.low}, high={self.high}")
        if any(not 0 <= d < self.action_dim for d in self.sign_dims):
            raise InvalidInputError(f"sign_dims {self.sign_dims} must lie in 0..{self.action_dim - 1}")

    def _vector(self, value: float | Sequence[float]) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32).expand(self.action_dim)

    @property
    def knots(self) -> int:
        """K, the number of free steps or knots."""
        return self.num_knots or self.horizon

    @property
    def limit(self) -> float:
        """The range of a knot, in half boxes: past 1 where a spline needs it to lie on the bound between knots."""
        return 1.0 if self.basis in ("steps", "constant") else 3.0

    @cached_property
    def box(self) -> tuple[Tensor, Tensor]:
        """(low, high), each (A,) float32."""
        return self._vector(self.low), self._vector(self.high)

    @cached_property
    def half(self) -> Tensor:
        """Half the width of the box, (A,)."""
        low, high = self.box
        return (high - low) / 2

    @cached_property
    def _is_unit_box(self) -> bool:
        low, high = self.box
        return bool((low == -1).all() and (high == 1).all())

    @cached_property
    def matrix(self) -> Tensor:
        """W, (H, K) float32."""
        h, k = self.horizon, self.knots
        if self.basis == "steps":
            return torch.eye(h)
        if self.basis == "constant":
            w = np.eye(k)[np.arange(h) * k // h]
        elif self.basis == "linear":
            at = np.linspace(0, k - 1, h)
            w = np.maximum(0.0, 1 - np.abs(at[:, None] - np.arange(k)))
        else:
            kind = "natural" if k > 2 else ((2, 0.0), (2, 0.0))
            w = CubicSpline(np.arange(k), np.eye(k), bc_type=kind)(np.linspace(0, k - 1, h))
        return torch.as_tensor(w, dtype=torch.float32)

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.pinv(self.matrix.double()).float()

    def decode(self, knots: Tensor) -> Tensor:
        """Knots (B, S, K, A) in units of half boxes -> actions (B, S, H, A) inside the box, bit for bit."""
        x = knots
        if self.basis != "steps":
            # A sum of products, not a matmul: the rounding must not depend on the size of the batch.
            w = self.matrix.to(knots.device)
            x = knots[..., :1, :] * w[:, :1]
            for k in range(1, self.knots):
                x = torch.addcmul(x, knots[..., k : k + 1, :], w[:, k : k + 1])
        low, high = (b.to(x.device) for b in self.box)
        if self.sign_dims:
            dims = list(self.sign_dims)
            continuous = x
            x = x.clone()
            x[..., dims] = torch.where(continuous[..., dims] < 0, -1.0, 1.0).to(x.dtype)
            if continuous.requires_grad:  # straight through
                x = continuous + (x - continuous).detach()
        if self._is_unit_box:
            return x.clamp(-1.0, 1.0)
        x = (low + high) / 2 + self.half.to(x.device) * x
        return torch.minimum(torch.maximum(x, low), high)

    def encode(self, actions: Tensor) -> Tensor:
        """Actions (..., H, A) -> the knots (..., K, A) that come nearest to them in the least-squares sense."""
        low, high = (b.to(actions.device) for b in self.box)
        x = (actions - (low + high) / 2) / ((high - low) / 2)
        if self.basis == "steps":
            return x
        inverse = self._inverse.to(x.device)  # (K, H)
        return sum(inverse[:, t : t + 1] * x[..., t : t + 1, :] for t in range(self.horizon))  # type: ignore[return-value]

    def check(self, actions: Tensor, name: str) -> Tensor:
        """Return `actions` (..., H, A), finite and clipped to the box.

        Raises:
            InvalidInputError: the trailing shape is not (H, A) or an entry is not finite.
        """
        if tuple(actions.shape[-2:]) != (self.horizon, self.action_dim):
            raise InvalidInputError(
                f"{name} must end in (horizon, action_dim) = {(self.horizon, self.action_dim)}, "
                f"got shape {tuple(actions.shape)}"
            )
        if not bool(actions.isfinite().all()):
            raise InvalidInputError(f"{name} holds NaN or inf; every action must be finite")
        low, high = (b.to(actions.device) for b in self.box)
        return torch.minimum(torch.maximum(actions.float(), low), high)


def knot_std(space: ActionSpace, init_std: float | Sequence[float] | None) -> Tensor:
    """The initial standard deviation in half boxes, (A,); `init_std` is in action units, None is half a half box."""
    if init_std is None:
        return torch.full((space.action_dim,), 0.5)
    std = torch.as_tensor(init_std, dtype=torch.float32).expand(space.action_dim)
    if not bool((std > 0).all()) or not math.isfinite(float(std.sum())):
        raise InvalidInputError(f"init_std must be positive and finite, got {init_std}")
    return std / space.half

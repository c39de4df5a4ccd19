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
from numbers import Integral

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
        if not all(isinstance(n, Integral) and n > 0 for n in (self.horizon, self.action_dim)):
            raise InvalidInputError(
                f"horizon and action_dim must be positive whole numbers, got {self.horizon}, {self.action_dim}"
            )
        if self.basis not in BASES:
            raise UnknownNameError("basis", self.basis, list(BASES))
        if (self.num_knots is None) != (self.basis == "steps"):
            raise InvalidInputError(
                f"basis {self.basis!r} with num_knots={self.num_knots}: give num_knots with every basis but 'steps'"
            )
        if self.num_knots is not None and not 2 <= self.num_knots <= self.horizon:
            if not (self.basis == "constant" and self.num_knots == 1):
                raise InvalidInputError(f"num_knots must lie in 2..horizon={self.horizon}, got {self.num_knots}")
        low, high = vector(self.low, self.action_dim, "low"), vector(self.high, self.action_dim, "high")
        if not bool((low < high).all()) or not bool((high - low).isfinite().all()):
            raise InvalidInputError(f"low must be below high, both finite, got low={self.low}, high={self.high}")
        if not isinstance(self.sign_dims, (tuple, list)) or any(not 0 <= d < self.action_dim for d in self.sign_dims):
            raise InvalidInputError(
                f"sign_dims must be a tuple of dimensions in 0..{self.action_dim - 1}, got {self.sign_dims!r}"
            )

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
        return vector(self.low, self.action_dim, "low"), vector(self.high, self.action_dim, "high")

    @cached_property
    def _is_sign(self) -> Tensor:
        """Which dimensions take a bound only, (A,) bool."""
        return torch.tensor([d in self.sign_dims for d in range(self.action_dim)])

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
            w = CubicSpline(np.arange(k), np.eye(k), bc_type="natural")(np.linspace(0, k - 1, h))
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
        if self._is_unit_box and not self.sign_dims:
            return x.clamp(-1.0, 1.0)
        low, high = (b.to(x.device) for b in self.box)
        actions = torch.minimum(torch.maximum((low + high) / 2 + self.half.to(x.device) * x, low), high)
        if not self.sign_dims:
            return actions
        discrete = torch.where(x < 0, low, high)
        if x.requires_grad:  # straight through: the value is the bound's, the gradient the identity's
            discrete = discrete + (x - x.detach()) * self.half.to(x.device)
        return torch.where(self._is_sign.to(x.device), discrete, actions)

    def encode(self, actions: Tensor) -> Tensor:
        """Actions (..., H, A) -> the knots (..., K, A) that come nearest to them in the least-squares sense."""
        low, high = (b.to(actions.device) for b in self.box)
        x = (actions - (low + high) / 2) / ((high - low) / 2)
        if self.basis == "steps":
            return x
        inverse = self._inverse.to(x.device)  # (K, H)
        return sum(inverse[:, t : t + 1] * x[..., t : t + 1, :] for t in range(self.horizon))  # type: ignore[return-value]

    def check(self, actions: Tensor, name: str) -> Tensor:
        """Return `actions` (..., H, A), clipped to the box; sign dimensions go to their nearer bound.

        Raises:
            InvalidInputError: the trailing shape is not (H, A), or an entry is complex or not finite.
        """
        if tuple(actions.shape[-2:]) != (self.horizon, self.action_dim):
            raise InvalidInputError(
                f"{name} must end in (horizon, action_dim) = {(self.horizon, self.action_dim)}, "
                f"got shape {tuple(actions.shape)}"
            )
        if actions.is_complex() or not bool(actions.isfinite().all()):
            raise InvalidInputError(f"{name} holds NaN, inf or complex numbers; every action must be real and finite")
        low, high = (b.to(actions.device) for b in self.box)
        clipped = torch.minimum(torch.maximum(actions.float(), low), high)
        nearer = torch.where(clipped - low < high - clipped, low, high)
        return torch.where(self._is_sign.to(actions.device), nearer, clipped)

    def holds(self, actions: Tensor) -> bool:
        """Whether all of `actions` (..., A) lie in the box."""
        low, high = (b.to(actions.device) for b in self.box)
        return bool(((actions >= low) & (actions <= high)).all())


def vector(value: float | Sequence[float] | Tensor, width: int, name: str) -> Tensor:
    """One number, or one for each action dimension, as (A,) float32.

    Raises:
        InvalidInputError: another number of them, or no numbers.
    """
    try:
        found = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{name} needs one number or {width}, got {value!r}") from error
    if found.ndim and tuple(found.shape) != (width,):
        raise InvalidInputError(f"{name} needs one number or {width}, got shape {tuple(found.shape)}")
    return found.expand(width)


def knot_std(space: ActionSpace, init_std: float | Sequence[float] | None) -> Tensor:
    """The initial standard deviation in half boxes, (A,); `init_std` is in action units, None is half a half box."""
    if init_std is None:
        return torch.full((space.action_dim,), 0.5)
    std = vector(init_std, space.action_dim, "init_std")
    if not bool((std > 0).all()) or not math.isfinite(float(std.sum())):
        raise InvalidInputError(f"init_std must be positive and finite, got {init_std}")
    return std / space.half

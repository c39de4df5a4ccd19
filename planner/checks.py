"""Checks that the configurations of the methods share. A NaN passes none of them."""

from __future__ import annotations

import math
from numbers import Integral

from latent_mpc.types import InvalidInputError


def check_budget(num_samples: int, num_iterations: int, least_samples: int = 2) -> None:
    """Raise InvalidInputError unless there are `least_samples` samples or more and at least one iteration."""
    if not isinstance(num_samples, Integral) or not isinstance(num_iterations, Integral):
        raise InvalidInputError(
            f"num_samples and num_iterations must be whole numbers, got {num_samples!r} and {num_iterations!r}"
        )
    if num_samples < least_samples or num_iterations < 1:
        raise InvalidInputError(
            f"need num_samples >= {least_samples} and num_iterations >= 1, got {num_samples} and {num_iterations}"
        )


def check_elites(num_elites: int, num_samples: int) -> None:
    """Raise InvalidInputError unless 1 <= num_elites < num_samples."""
    if not isinstance(num_elites, Integral) or not 1 <= num_elites < num_samples:
        raise InvalidInputError(f"num_elites must lie in 1..{num_samples - 1} (num_samples - 1), got {num_elites}")


def check_unit(**values: float) -> None:
    """Raise InvalidInputError unless each value lies in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InvalidInputError(f"{name} must lie in [0, 1), got {value}")


def check_positive(**values: float) -> None:
    """Raise InvalidInputError unless each value is above 0 and finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InvalidInputError(f"{name} must be positive and finite, got {value}")


def check_not_negative(**values: float) -> None:
    """Raise InvalidInputError unless each value is at least 0 and finite."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise InvalidInputError(f"{name} must be at least 0 and finite, got {value}")


def check_deadline(deadline_s: float | None) -> None:
    """Raise InvalidInputError unless the deadline is above 0, or None."""
    if deadline_s is not None and not deadline_s > 0:
        raise InvalidInputError(f"deadline_s must be positive, got {deadline_s}")

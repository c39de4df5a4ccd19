"""Checks that the configurations of the methods share."""

from __future__ import annotations

from latent_mpc.types import InvalidInputError


def check_budget(num_samples: int, num_iterations: int) -> None:
    """Raise InvalidInputError unless there are at least two samples and one iteration."""
    if num_samples < 2 or num_iterations < 1:
        raise InvalidInputError(
            f"need num_samples >= 2 and num_iterations >= 1, got {num_samples} and {num_iterations}"
        )


def check_elites(num_elites: int, num_samples: int) -> None:
    """Raise InvalidInputError unless 1 <= num_elites < num_samples."""
    if not 1 <= num_elites < num_samples:
        raise InvalidInputError(f"num_elites must lie in 1..{num_samples - 1} (num_samples - 1), got {num_elites}")


def check_unit(**values: float) -> None:
    """Raise InvalidInputError unless each value lies in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InvalidInputError(f"{name} must lie in [0, 1), got {value}")


def check_positive(**values: float) -> None:
    """Raise InvalidInputError unless each value is above 0."""
    for name, value in values.items():
        if not value > 0:
            raise InvalidInputError(f"{name} must be positive, got {value}")

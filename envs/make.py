"""Make an environment by its id: ours from their configuration, everybody else's as they are registered."""

from __future__ import annotations

from typing import Any

import gymnasium

from latent_mpc.envs import FOREIGN, MAX_EPISODE_STEPS, register_envs
from latent_mpc.envs.tabletop import TabletopConfig
from latent_mpc.types import InvalidInputError


def env_id_of(task: str) -> str:
    """The Gymnasium id of a task: of a name in this package, else the id itself, with or without its module."""
    return f"latent_mpc/{task}-v0" if task in (*MAX_EPISODE_STEPS, *FOREIGN) else task


def is_tabletop(env_id: str) -> bool:
    """Whether it is one of our own tabletop environments."""
    return env_id in map(env_id_of, MAX_EPISODE_STEPS)


def make_env(env_id: str, config: TabletopConfig, split: str | None = None) -> gymnasium.Env[Any, Any]:
    """An environment with goal images.

    Args:
        env_id: a Gymnasium id; with `module:` before it that module is imported first, which registers it.
        config: of the tabletop environments; others have none.
        split: likewise.
    Raises:
        InvalidInputError: there is no such environment, or it is not ours and is to be configured.
    """
    register_envs()
    ours = is_tabletop(env_id)
    settings: dict[str, Any] = {"config": config} | ({} if split is None else {"split": split}) if ours else {}
    try:
        env = gymnasium.make(env_id, disable_env_checker=True, **settings)
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as error:
        known = sorted(name for name in gymnasium.registry if name.startswith("latent_mpc/"))
        raise InvalidInputError(
            f"unknown environment {env_id!r} ({error}); available: {known}, or module:id of your own (docs/tasks.md)"
        ) from error
    if not ours and (config != TabletopConfig() or split is not None):
        env.close()
        raise InvalidInputError(
            f"env and split are for the tabletop environments; {env_id!r} is as it was registered (docs/tasks.md)"
        )
    return env

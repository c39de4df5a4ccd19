"""Gymnasium environments, scored against a goal image: a Franka Panda at a table, in MuJoCo, and two of others."""

if __name__ != "latent_mpc.envs":
    raise ImportError(f"import latent_mpc.envs, not {__name__}: the folder is mapped into the package latent_mpc")

# None: the environment's own limit, so many steps for each object that moves.
MAX_EPISODE_STEPS = {"Reach": 25, "Push": 45, "PickPlace": 45, "Rearrange": None, "Stack": 45, "ClearTable": None}

# Environments of other packages: what makes them, and control steps an episode.
FOREIGN = {"Reacher": ("make_reacher", 50), "FetchPush": ("make_fetch_push", 25)}


def register_envs() -> None:
    """Register `latent_mpc/Reach-v0` and so on, one for each name in `MAX_EPISODE_STEPS` and `FOREIGN`."""
    import gymnasium

    for name, steps in MAX_EPISODE_STEPS.items():
        env_id = f"latent_mpc/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="latent_mpc.envs.tabletop:TabletopEnv",
                kwargs={"task": name},
                max_episode_steps=steps,
            )
    for name, (maker, steps) in FOREIGN.items():
        env_id = f"latent_mpc/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=f"latent_mpc.envs.foreign:{maker}", max_episode_steps=steps)

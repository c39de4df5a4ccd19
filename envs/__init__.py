"""Gymnasium environments: a Franka Panda at a table, in MuJoCo, scored against a goal image."""

if __name__ != "latent_mpc.envs":
    raise ImportError(f"import latent_mpc.envs, not {__name__}: the folder is mapped into the package latent_mpc")

MAX_EPISODE_STEPS = {"Reach": 25, "Push": 45, "PickPlace": 45}


def register_envs() -> None:
    """Register `latent_mpc/Reach-v0`, `latent_mpc/Push-v0` and `latent_mpc/PickPlace-v0` with Gymnasium."""
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

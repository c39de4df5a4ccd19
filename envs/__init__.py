"""Gymnasium environments: a Franka Panda at a table, in MuJoCo, scored against a goal image."""

if __name__ != "latent_mpc.envs":
    raise ImportError(f"import latent_mpc.envs, not {__name__}: the folder is mapped into the package latent_mpc")

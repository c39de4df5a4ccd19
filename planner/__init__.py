"""Sampling-based planners: optimisers over action sequences, the goal energy, the hierarchy, receding horizon."""

if __name__ != "latent_mpc.planner":
    raise ImportError(f"import latent_mpc.planner, not {__name__}: the folder is mapped into the package latent_mpc")

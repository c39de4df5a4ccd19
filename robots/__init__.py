"""Drivers and the controller loop for real arms."""

if __name__ != "latent_mpc.robots":
    raise ImportError(f"import latent_mpc.robots, not {__name__}: the folder is mapped into the package latent_mpc")

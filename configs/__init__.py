"""YAML files with nothing but values."""

if __name__ != "latent_mpc.configs":
    raise ImportError(f"import latent_mpc.configs, not {__name__}: the folder is mapped into the package latent_mpc")

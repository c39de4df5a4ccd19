"""Shipped weights, one folder a model: safetensors, YAML and a model card."""

if __name__ != "latent_mpc.weights":
    raise ImportError(f"import latent_mpc.weights, not {__name__}: the folder is mapped into the package latent_mpc")

"""The learned world model: image encoder, action-conditioned predictor, macro-actions, and their training."""

if __name__ != "latent_mpc.world_model":
    raise ImportError(
        f"import latent_mpc.world_model, not {__name__}: the folder is mapped into the package latent_mpc"
    )

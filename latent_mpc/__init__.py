"""latent-mpc: planning with a learned latent world model."""

"""latent-mpc: planning with a learned latent world model.

Importing it registers the environments `latent_mpc/Reach-v0`, `latent_mpc/Push-v0` and `latent_mpc/PickPlace-v0`.
"""

from latent_mpc.envs import register_envs

register_envs()

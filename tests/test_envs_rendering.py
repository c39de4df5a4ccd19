"""Renderers leave each other alone."""

from __future__ import annotations

import numpy as np

from latent_mpc.envs.tabletop import TabletopConfig, TabletopEnv


def test_closing_a_renderer_leaves_anothers_pictures_as_they_are() -> None:
    """A table with a pattern needs what a renderer has uploaded; freed in another's context, it would lose that."""
    looks = TabletopConfig(image_size=32, supersample=1)
    first, second = (TabletopEnv("PickPlace", looks, split="unseen-textures") for _ in range(2))
    for env in (first, second):
        env.reset(seed=0)
    before = second._observe_image()
    first.close()
    np.testing.assert_array_equal(second._observe_image(), before)
    second.close()
    second.close()  # twice is no error

"""Where weights are, and what they were trained on; without torch, for who only hands a name on."""

from __future__ import annotations

from pathlib import Path

from latent_mpc import weights
from latent_mpc.types import InvalidInputError, UnknownNameError
from latent_mpc.world_model.header import read_header

SHIPPED = Path(str(weights.__file__)).parent


def weights_folder(name: str | Path) -> Path:
    """Folder of a shipped model's name, or of a path.

    Raises:
        UnknownNameError: neither a folder nor a shipped name.
    """
    for folder in (Path(name), SHIPPED / str(name)):
        if folder.is_dir() and str(name):
            return folder
    shipped = [p.name for p in SHIPPED.iterdir() if p.is_dir() and not p.name.startswith("_")]
    raise UnknownNameError("weights", str(name), shipped)


def image_size(name: str | Path) -> int:
    """Side of the images that weights were trained on, pixels.

    Raises:
        UnknownNameError: no such weights. InvalidInputError: their header is missing, foreign, or lacks the size.
    """
    folder = weights_folder(name)
    config = read_header(folder).config
    encoder = config.get("attention", config.get("encoder"))
    size = encoder.get("image_size") if isinstance(encoder, dict) else None
    if type(size) is not int or size < 1:
        raise InvalidInputError(f"{folder} does not say its encoder's image_size, but {size!r}")
    return size

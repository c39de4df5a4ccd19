"""The readable half of a checkpoint, `model.yaml`: configs and measures; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latent_mpc.types import InvalidInputError

FORMAT_VERSION = 1
TENSORS_NAME = "model.safetensors"
YAML_NAME = "model.yaml"


@dataclass(frozen=True)
class Header:
    """See `Checkpoint`."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    commit: str | None


def read_header(folder: Path) -> Header:
    """Read the header of a checkpoint folder.

    Raises:
        InvalidInputError: a file of the checkpoint is missing, or this one is foreign or of another format version.
    """
    missing = [name for name in (TENSORS_NAME, YAML_NAME) if not (folder / name).is_file()]
    if missing:
        raise InvalidInputError(
            f"{folder} lacks {missing}; a checkpoint is a folder with {TENSORS_NAME} and {YAML_NAME}"
        )
    try:
        header = yaml.safe_load((folder / YAML_NAME).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{folder / YAML_NAME} is not readable YAML: {error}") from error
    version = header.get("format_version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"{folder / YAML_NAME} has format_version {version!r}; this version of latent-mpc reads {FORMAT_VERSION}"
        )
    config, metrics = header.get("config") or {}, header.get("metrics") or {}
    if not (isinstance(config, dict) and isinstance(metrics, dict)):
        raise InvalidInputError(f"{folder / YAML_NAME} is not ours: config and metrics must be groups of keys")
    return Header(config, metrics, header.get("commit"))

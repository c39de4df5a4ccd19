"""Checkpoints: a folder with `model.safetensors` (named tensors) and `model.yaml` (configs and metadata).

Nothing is ever unpickled. Both files are written beside their place and then renamed into it, so that a kill or a
full disk leaves the old ones whole.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.header import FORMAT_VERSION, TENSORS_NAME, YAML_NAME, read_header

Config = TypeVar("Config")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        tensors: named tensors, on the CPU.
        config: configs as plain values, one section a part.
        metrics: what was measured on these weights.
        commit: git commit of the code that wrote it, None outside a repository.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None


def save_checkpoint(folder: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; tuples in its config become lists.

    Raises:
        OSError: the disk is full or read-only; what was there before is still there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {
        "format_version": FORMAT_VERSION,
        "commit": checkpoint.commit,
        "config": _plain(checkpoint.config),
        "metrics": _plain(checkpoint.metrics),
    }
    _write_all(
        {folder / TENSORS_NAME: save(tensors), folder / YAML_NAME: yaml.safe_dump(header, sort_keys=False).encode()}
    )


def load_checkpoint(folder: Path | str) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        InvalidInputError: a file is missing, truncated, foreign, or of another format version.
    """
    folder = Path(folder)
    header = read_header(folder)
    try:
        tensors = load_file(folder / TENSORS_NAME)
    except SafetensorError as error:
        size = (folder / TENSORS_NAME).stat().st_size
        raise InvalidInputError(
            f"{folder / TENSORS_NAME} ({size} bytes) is truncated or not a safetensors file: {error}"
        ) from error
    return Checkpoint(tensors, header.config, header.metrics, header.commit)


def module_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The parameters and buffers of a module as `prefix.name` -> tensor."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Copy `prefix.*` of `tensors` into a module.

    Raises:
        InvalidInputError: names are missing or left over, or shapes differ; the message lists which.
    """
    state = module.state_dict()
    given = {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(prefix + ".")}
    faults = [f"missing {prefix}.{name}" for name in state if name not in given]
    faults += [f"unexpected {prefix}.{name}" for name in given if name not in state]
    faults += [
        f"{prefix}.{name} has shape {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if faults:
        raise InvalidInputError(f"the weights do not fit the {type(module).__name__}: " + "; ".join(faults))
    module.load_state_dict(given)


def config_from_dict(kind: Callable[..., Config], values: Mapping[str, Any]) -> Config:
    """Build a config dataclass from plain values, lists becoming tuples.

    Raises:
        InvalidInputError: a key is unknown, and the message lists those that exist; or a value is of a wrong type.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{kind.__name__} must be a group of the keys {known}, got {values!r}")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InvalidInputError(f"{kind.__name__} has no keys {unknown}; it has {known}")
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    except TypeError as error:
        raise InvalidInputError(f"{kind.__name__} with {dict(values)}: {error}") from error


def current_commit() -> str | None:
    """Git commit of the running code, `-dirty` appended when tracked files differ; None outside a repository."""

    def git(*arguments: str) -> str:
        here = Path(__file__).resolve()
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).resolve().name)  # the repository must be ours
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.SubprocessError):
        return None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it exists whole or not at all; what lay there before stays when the write fails.

    Raises:
        OSError: the disk is full, say.
    """
    _write_all({path: content})


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """Write every file beside its place, and only when all are on the disk rename them into it."""
    written: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            written[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Values that YAML's safe dumper knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor) or hasattr(value, "tolist"):
        return value.tolist()
    return value

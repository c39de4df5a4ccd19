"""Checkpoints: what is written comes back; damaged, foreign and ill-fitting files are told; old files survive."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model import checkpoint as module
from latent_mpc.world_model.checkpoint import (
    Checkpoint,
    config_from_dict,
    current_commit,
    load_checkpoint,
    load_module,
    module_tensors,
    save_checkpoint,
)
from latent_mpc.world_model.encoder import EncoderConfig

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "a.turned": torch.arange(6.0).view(2, 3).T,
    "n": torch.tensor(3),
    "bytes": torch.arange(5, dtype=torch.uint8),
}
CONFIG = {"encoder": {"channels": (16, 32), "rate": 1e-5}, "note": None}
METRICS = {"rmse": np.float32(0.5), "axes": torch.tensor([1.0, 2.0])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "deep" / "model", Checkpoint(TENSORS, CONFIG, METRICS, "abc"))
    return tmp_path / "deep" / "model"


def test_round_trip(folder: Path) -> None:
    read = load_checkpoint(folder)
    assert read.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read.tensors[name].dtype == tensor.dtype and torch.equal(read.tensors[name], tensor)
    assert read.config == {"encoder": {"channels": [16, 32], "rate": 1e-5}, "note": None}
    assert read.metrics == {"rmse": 0.5, "axes": [1.0, 2.0]}
    assert read.commit == "abc"
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "model.yaml"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.yaml"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidInputError, match=rf"lacks \['{re.escape(name)}'\]"):
        load_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_tensors(share: float, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InvalidInputError, match="truncated or not a safetensors file"):
        load_checkpoint(folder)


def test_foreign_tensors_are_never_unpickled(folder: Path) -> None:
    ran = folder / "ran"

    class Malicious:
        def __reduce__(self):
            return (Path.touch, (ran,))

    torch.save(Malicious(), folder / "model.safetensors")
    with pytest.raises(InvalidInputError, match="not a safetensors file"):
        load_checkpoint(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not readable YAML"),
        ("", "format_version None"),
        ("just text", "format_version None"),
        ("format_version: 2\nconfig: {}\n", "format_version 2; this version of latent-mpc reads 1"),
        ("format_version: 1\nconfig: [1]\n", "config"),
        ("format_version: 1\nmetrics: text\n", "metrics"),
        ("!!python/object/apply:os.system ['true']", "not readable YAML"),
        (b"\xff\xfe\x00", "not readable YAML"),
    ],
)
def test_foreign_and_other_headers(text: str | bytes, message: str, folder: Path) -> None:
    (folder / "model.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidInputError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
@pytest.mark.parametrize("which", [0, 1])
def test_a_write_that_fails_leaves_both_old_files(
    which: int, error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = iter(range(2))

    def fsync(_: int) -> None:
        if next(calls) == which:
            raise error

    monkeypatch.setattr(module.os, "fsync", fsync)
    with pytest.raises(type(error)):
        save_checkpoint(folder, Checkpoint({"n": torch.tensor(4)}, {"other": 1}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_modules_come_back() -> None:
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    first(torch.randn(8, 3))
    load_module(second, module_tensors(first, "a.b") | {"a.bc.weight": torch.zeros(1)}, "a.b")
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)


def test_every_misfit_is_listed_and_nothing_is_loaded() -> None:
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    given = {"m.weight": torch.zeros(3, 2), "m.bias": torch.zeros(4), "m.scale": torch.zeros(1)}
    with pytest.raises(InvalidInputError, match=r"Linear: unexpected m.scale; m.bias has shape \(4,\), not \(3,\)"):
        load_module(layer, given, "m")
    with pytest.raises(InvalidInputError, match=r"missing x.weight; missing x.bias"):
        load_module(layer, given, "x")
    assert torch.equal(layer.weight, before)


def test_files_of_another_writer_are_told(folder: Path) -> None:
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(InvalidInputError, match=r"missing a.weight"):
        load_module(nn.Linear(3, 2), load_checkpoint(folder).tensors, "a")


def test_configs_from_plain_values() -> None:
    values = yaml.safe_load("{image_size: 32, channels: [4, 8]}")
    assert config_from_dict(EncoderConfig, values) == EncoderConfig(image_size=32, channels=(4, 8))
    with pytest.raises(InvalidInputError, match=r"has no keys \['width'\]; it has \['image_size', 'channels'"):
        config_from_dict(EncoderConfig, {"width": 3})


@pytest.mark.parametrize("values", [None, 3, [1], "text", {"image_size": "64"}, {"channels": 3}, {"hidden": None}])
def test_values_that_are_no_config_are_refused(values: object) -> None:
    with pytest.raises(InvalidInputError, match=r"EncoderConfig|image_size"):
        config_from_dict(EncoderConfig, values)  # type: ignore[arg-type]


def test_the_commit_is_of_our_repository_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = current_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
    (tmp_path / "checkpoint.py").touch()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "checkpoint.py"))  # as in site-packages
    assert current_commit() is None

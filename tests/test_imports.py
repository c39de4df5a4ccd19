"""The direction of imports: planner, world_model, envs and robots meet only in latent_mpc.types."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ["planner", "world_model", "envs", "robots"]
VALUES = ["configs", "weights"]  # packages that hold files, and no code of their own


def imported(source: str, package: str) -> Iterator[str]:
    """Absolute names of every module or member that `source`, a module of `package`, imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def ours(source: str, package: str) -> set[str]:
    """What `source` imports of this project, as the first two components: `latent_mpc.types`."""
    roots = {"latent_mpc", *PARTS, *VALUES}
    names = [name.split(".") for name in imported(source, package)]
    return {".".join(name[:2]) for name in names if name[0] in roots}


def violations(part: str, source: str) -> set[str]:
    return ours(source, f"latent_mpc.{part}") - {"latent_mpc.types", f"latent_mpc.{part}"}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_itself_and_the_types(part: str) -> None:
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    found = {file.name: bad for file in files if (bad := violations(part, file.read_text(encoding="utf-8")))}
    assert found == {}


def test_types_imports_nothing_of_ours() -> None:
    assert ours((ROOT / "latent_mpc/types.py").read_text(encoding="utf-8"), "latent_mpc") == set()


@pytest.mark.parametrize("package", VALUES)
def test_packages_of_files_hold_no_code(package: str) -> None:
    assert [file.name for file in (ROOT / package).rglob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("package", [*PARTS, *VALUES])
def test_mapped_folders_are_flat(package: str) -> None:
    nested = [f for f in (ROOT / package).rglob("*.py") if f.parent != ROOT / package]
    assert nested == [], "a nested package would be missing from the wheel: list it in pyproject.toml"


@pytest.mark.parametrize(
    "source",
    [
        "import latent_mpc.envs.scene",
        "from latent_mpc import envs",
        "from latent_mpc.agent import Agent",
        "from ..world_model import encoder",
        "from .. import agent",
        "import planner.cem",
        "def late():\n    from latent_mpc.robots import driver",
        "import importlib\nimportlib.import_module('latent_mpc.envs')",
    ],
)
def test_the_check_sees_every_way_to_import(source: str) -> None:
    assert violations("planner", source)


@pytest.mark.parametrize(
    "source",
    ["import torch", "from latent_mpc.types import Plan", "from .cem import CEM", "from latent_mpc.planner import cem"],
)
def test_the_check_lets_pass_what_may(source: str) -> None:
    assert not violations("planner", source)

"""What a user installs: a wheel built from the sdist, tried outside the repository, without network."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUP["package-dir"]  # package name -> folder


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def tracked(folder: str) -> list[str]:
    """Paths below the folder that belong to the package: what git knows or would add."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder, cwd=ROOT).split()
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def files() -> dict[str, list[str]]:
    """The files of each package, relative to its folder."""
    return {
        package: [name.removeprefix(f"{folder}/") for name in tracked(folder)] for package, folder in FOLDERS.items()
    }


@pytest.fixture(scope="module")
def site(files: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the repository with the wheel that the sdist builds, installed."""
    work = tmp_path_factory.mktemp("packaging")
    source = work / "source"  # a copy, so that the build leaves nothing in the repository
    names = [f"{FOLDERS[package]}/{name}" for package, each in files.items() for name in each]
    for name in [*names, "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", source, cwd=work)
    (wheel,) = (work / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target"]
    run(*pip, work / "site", wheel, cwd=work)
    return work / "site"


def test_the_packages_listed_are_the_folders_there_are() -> None:
    assert sorted(SETUP["packages"]) == sorted(FOLDERS)
    assert {name.rpartition(".")[2]: folder for name, folder in FOLDERS.items()} == {f: f for f in FOLDERS.values()}


def test_every_file_of_a_package_is_in_the_wheel(files: dict[str, list[str]], site: Path) -> None:
    expected = {f"{package.replace('.', '/')}/{name}" for package, each in files.items() for name in each}
    missing = {name for name in expected if not (site / name).is_file()}
    assert not missing, "declare these in [tool.setuptools.package-data]"
    assert {p.name for p in site.iterdir() if p.name != "bin" and p.suffix != ".dist-info"} == {"latent_mpc"}


def test_every_module_imports_from_the_wheel(files: dict[str, list[str]], site: Path, tmp_path: Path) -> None:
    modules = [
        f"{package}.{Path(name).stem}".removesuffix(".__init__")
        for package, each in files.items()
        for name in each
        if name.endswith(".py")
    ]
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in str(getattr(f, "__module__", ""))]
import importlib.util
for name in {modules!r}:
    try:
        print(importlib.import_module(name).__file__)
    except ModuleNotFoundError as error:  # of an extra that is not installed
        if error.name.startswith("latent_mpc"):
            raise
        print(importlib.util.find_spec(name).origin)
"""
    origins = run(sys.executable, "-c", code, cwd=tmp_path).split()
    assert len(origins) == len(modules) and all(origin.startswith(str(site)) for origin in origins)


@pytest.mark.parametrize("package", [name for name in FOLDERS if "." in name])
def test_a_mapped_folder_refuses_to_be_a_second_copy(package: str) -> None:
    name = package.rpartition(".")[2]
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and f"ImportError: import {package}, not {name}" in done.stderr


def test_the_wheel_registers_the_command_and_the_environments(site: Path) -> None:
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    text = entry_points.read_text(encoding="utf-8")
    assert "latent-mpc = latent_mpc.cli:main" in text and "__root__ = latent_mpc.envs:register_envs" in text


def test_type_checkers_find_every_mapped_folder() -> None:
    links = {p.name for p in (ROOT / "typings/latent_mpc").iterdir() if p.is_dir()}
    assert links == set(FOLDERS.values()) - {"latent_mpc"}

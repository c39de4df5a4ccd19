"""Configs: every value that YAML or an override can bring arrives typed, or is refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from latent_mpc.config import config_to_dict, find_config, load_config, save_config
from latent_mpc.types import InvalidInputError, UnknownNameError


@dataclass(frozen=True)
class Search:
    num_samples: int = 128
    num_elites: int = 16
    action_std: float = 0.5
    kind: Literal["cem", "mppi"] = "cem"
    corners: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def __post_init__(self) -> None:
        if self.num_elites > self.num_samples:
            raise ValueError(f"num_elites {self.num_elites} exceeds num_samples {self.num_samples}")


@dataclass(frozen=True)
class Job:
    steps: int
    search: Search = field(default_factory=lambda: Search(num_samples=64))
    box_m: tuple[float, float] = (0.1, 0.2)
    name: str | None = None
    data: Path | None = None
    fast: bool = False


def load(*overrides: str, path: Path | None = None, section: str | None = None) -> Job:
    return load_config(Job, path, ["steps=1", *overrides], section=section)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("steps: 10\nbox_m: [1, 2]\nsearch: {num_elites: 8, action_std: 1e-3}\n")
    job = load_config(Job, file, ["search.num_elites=4", "name=a b"])
    assert job == Job(10, Search(64, 4, 1e-3), (1.0, 2.0), "a b")
    assert [type(x) for x in job.box_m] == [float, float]


def test_a_nested_override_keeps_what_the_default_instance_holds() -> None:
    assert load("search.num_elites=2").search == Search(num_samples=64, num_elites=2)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.corners=[[1, 2], [3, 4]]", ((1.0, 2.0), (3.0, 4.0))),
        ("search.kind=mppi", "mppi"),
        ("search.action_std=2e-1", 0.2),
        ("search.action_std=inf", math.inf),
        ("data=/tmp/x.h5", Path("/tmp/x.h5")),
        ("data=null", None),
        ("fast=true", True),
        ("name=k=v", "k=v"),
    ],
)
def test_values_arrive_typed(override: str, expected: object) -> None:
    value: object = load(override)
    for name in override.split("=")[0].split("."):
        value = getattr(value, name)
    assert value == expected and type(value) is type(expected)
    hash(value)  # tuples all the way down: a frozen config holds no list


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=1", "unknown config key 'stepz'; available: steps, search.num_samples, .*box_m"),
        ("search.elites=1", r"unknown config key 'search.elites'; available: search.num_samples, search.num_elites"),
        ("search=3", "search must be a group of keys"),
        ("steps=1.5", "steps must be a whole number, got 1.5"),
        ("steps=true", "steps must be a whole number, got True"),
        ("steps.deeper=1", "steps must be a whole number"),
        ("search.action_std=big", "search.action_std must be a number, got 'big'"),
        ("search.action_std=.nan", "search.action_std must be a number, got nan"),
        ("search.kind=ilqr", r"search.kind must be one of \['cem', 'mppi'\], got 'ilqr'"),
        ("box_m=[1, 2, 3]", "box_m must be a list of 2"),
        ("box_m=[1, x]", r"box_m\[1\] must be a number, got 'x'"),
        ("fast=1", "fast must be true or false"),
        ("name=3", "name must be text, got 3"),
        ("search.num_elites=65", "config search: num_elites 65 exceeds num_samples 64"),
        ("steps", "override 'steps' must be key=value"),
        ("search..kind=cem", "must be key=value"),
        ("box_m=[1, 2", "not a YAML value"),
    ],
)
def test_what_cannot_be_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load(override)


def test_a_key_without_default_must_be_given() -> None:
    with pytest.raises(InvalidInputError, match="steps has no default"):
        load_config(Job, None, [])


def test_saved_configs_read_back_equal(tmp_path: Path) -> None:
    job = load("search.corners=[[0.5, 1e-9]]", "data=a/b.h5", "name='on'")
    save_config(job, tmp_path / "c.yaml")
    assert load_config(Job, tmp_path / "c.yaml", []) == job
    assert config_to_dict(job)["search"]["corners"] == [[0.5, 1e-9]]


def test_a_section_is_read_alone_when_the_file_has_it(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("train: {name: a}\ncollect: {anything: 1}\n")
    assert load(path=file, section="train").name == "a"
    with pytest.raises(InvalidInputError, match="unknown config key 'train'"):
        load(path=file, section="eval")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words", "a: [1\n", "\x00"])
def test_files_that_are_no_config_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InvalidInputError, match=r"bad.yaml"):
        load(path=tmp_path / "bad.yaml")


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load(path=tmp_path / "evil.yaml")


def test_unknown_names_list_the_shipped_configs() -> None:
    with pytest.raises(UnknownNameError, match=r"'panda_tabeltop'; available: \["):
        find_config("panda_tabeltop")

"""Read a frozen dataclass config from YAML and dotted overrides; refuse what the dataclass does not know.

config = dataclass defaults  <  YAML file  <  overrides such as `planner.num_samples=256`
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from latent_mpc.types import InvalidInputError, UnknownNameError

Config = TypeVar("Config")


def load_config(
    cls: type[Config], path: str | Path | None, overrides: list[str], *, section: str | None = None
) -> Config:
    """Make a `cls` from its defaults, a YAML file and overrides, the later ones winning.

    Args:
        cls: a dataclass of bool, int, float, str, Path, `Literal`, tuples, unions with None, further dataclasses.
        path: a YAML file, or the name of one in `latent_mpc.configs`; None for the defaults.
        overrides: `key=value`, with dots into nested dataclasses; the value is read as YAML.
        section: when the file has a key of this name, only what stands beneath it is read, so that one file
            can hold the recipe of several commands.

    Raises:
        UnknownNameError: `path` is neither a file nor a named config.
        InvalidInputError: a key does not exist, a value has the wrong type or is refused by the dataclass, a
            required one is missing, or the file is not YAML.
    """
    values = {} if path is None else _read(find_config(path), section)
    for override in overrides:
        _set(values, override, cls)
    return _build(cls, values, "", None)


def find_config(name: str | Path) -> Path:
    """The file `name`, or the one shipped under that name in `latent_mpc.configs`.

    Raises:
        UnknownNameError: there is neither; the message lists the shipped ones.
    """
    if Path(name).is_file():
        return Path(name)
    folder = Path(str(importlib.resources.files("latent_mpc.configs")))
    shipped = {file.stem: file for file in folder.glob("*.yaml")}
    if str(name) not in shipped:
        raise UnknownNameError("config file or name", str(name), list(shipped))
    return shipped[str(name)]


def config_to_dict(config: Any) -> dict[str, Any]:
    """Nested dictionaries, lists and plain values that YAML and JSON can hold."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def save_config(config: Any, path: str | Path) -> None:
    """Write `config` as YAML that `load_config` reads back to an equal one."""
    Path(path).write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _read(file: Path, section: str | None) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InvalidInputError(f"{file} cannot be read as YAML: {error}") from error
    if isinstance(content, dict) and section in content:
        content = content[section] or {}
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file} must hold 'key: value' lines, not {_show(content)}")
    return content


def _set(values: dict[str, Any], override: str, cls: type) -> None:
    """Write one `a.b=value` into nested dictionaries."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InvalidInputError(f"override {override!r} must be key=value; keys: {', '.join(_keys(cls))}")
    *outer, last = key.split(".")
    for name in outer:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(f"override {override!r}: {text!r} is not a YAML value") from error


def _build(kind: Any, value: Any, key: str, default: Any) -> Any:
    """Convert what YAML gave to the type `kind`; a nested dataclass starts from `default`, if that is one."""
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, key, default)
    if origin in (Union, types.UnionType):
        return _build_union(args, value, key, default)
    if origin is tuple:
        return _build_tuple(args, value, key)
    if origin is Literal:
        return value if value in args else _refuse(key, f"one of {list(args)}", value)
    if kind is bool:
        return value if isinstance(value, bool) else _refuse(key, "true or false", value)
    if kind is int:
        return value if type(value) is int else _refuse(key, "a whole number", value)
    if kind is float:
        return _build_float(value, key)
    if kind in (str, Path):
        return kind(value) if isinstance(value, str) else _refuse(key, "text", value)
    raise TypeError(f"{key}: a config cannot hold {kind}")


def _build_dataclass(cls: Any, value: Any, key: str, default: Any) -> Any:
    prefix = f"{key}." if key else ""
    if not isinstance(value, dict):
        _refuse(key, f"a group of keys ({', '.join(_keys(cls, prefix))})", value)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = [name for name in value if name not in fields]
    if unknown:
        exist = ", ".join(_keys(cls, prefix))
        raise InvalidInputError(f"unknown config key '{prefix}{unknown[0]}'; available: {exist}")
    base = {name: getattr(default, name, _default(field)) for name, field in fields.items()}
    hints = get_type_hints(cls)
    base |= {name: _build(hints[name], item, f"{prefix}{name}", base[name]) for name, item in value.items()}
    missing = [name for name, item in base.items() if item is dataclasses.MISSING]
    if missing:
        raise InvalidInputError(f"config key {prefix}{missing[0]} has no default: give it a value")
    try:
        return cls(**base)
    except ValueError as error:  # refused by its __post_init__
        raise InvalidInputError(f"config {key or cls.__name__}: {error}") from error


def _build_union(kinds: tuple[Any, ...], value: Any, key: str, default: Any) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others:
        try:
            return _build(kind, value, key, default)
        except InvalidInputError:
            continue
    return _build(last, value, key, default)


def _build_tuple(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    variadic = kinds[-1] is Ellipsis
    if not isinstance(value, list) or not (variadic or len(value) == len(kinds)):
        _refuse(key, "a list" if variadic else f"a list of {len(kinds)}", value)
    each = kinds[:1] * len(value) if variadic else kinds
    return tuple(_build(k, v, f"{key}[{i}]", None) for i, (k, v) in enumerate(zip(each, value, strict=True)))


def _build_float(value: Any, key: str) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):  # YAML reads 1e-3 as text
        with contextlib.suppress(ValueError):
            number = float(value)
            if not math.isnan(number):
                return number
    _refuse(key, "a number", value)


def _default(field: dataclasses.Field[Any]) -> Any:
    """The field's default, or MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _keys(cls: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a dataclass, in the order of its fields."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _keys(kind, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _refuse(key: str, wanted: str, value: Any) -> NoReturn:
    raise InvalidInputError(f"config key {key or '(top)'} must be {wanted}, got {_show(value)}")


def _show(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"

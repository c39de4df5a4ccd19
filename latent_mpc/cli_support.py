"""What the commands share: options, reading the config, and telling a person what went wrong."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}

Config = TypeVar("Config")
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings by dotted key, stronger than --config. An unknown key is an error that lists them all.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="Settings from a YAML file, or a shipped name such as panda_tabletop. "
        "A key named after the command is read alone, so one file can serve several.",
    ),
]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print all settings as YAML and stop.")]
Data = Annotated[Path, typer.Option(metavar="DIR", help="Folder of play made by `collect`.")]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Same seed, same result.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")]
Weights = Annotated[str, typer.Option(metavar="WEIGHTS", help="Shipped name, or the folder that `train` wrote.")]


def settle(cls: type[Config], section: str, config: str | None, overrides: list[str] | None, show: bool) -> Config:
    """The command's config; with `show`, print it and leave."""
    from latent_mpc.config import config_to_dict, load_config

    settings = load_config(cls, config, overrides or [], section=section)
    if show:
        import yaml

        typer.echo(yaml.safe_dump(config_to_dict(settings), sort_keys=False), nl=False)
        raise typer.Exit
    return settings


def resolve_device(name: str) -> str:
    """`name` as a torch device that exists here; auto takes a GPU if there is one.

    Raises:
        InvalidInputError: torch cannot use it; the message lists what it can.
    """
    import torch

    from latent_mpc.types import InvalidInputError

    here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return here[1] if len(here) > 1 else "cpu"
    if name not in here and not (name == "cuda" and "cuda:0" in here):
        raise InvalidInputError(f"no device {name!r} here; available: {['auto', *here]}")
    return name


@contextmanager
def reported(out: Path | None) -> Iterator[None]:
    """Turn what a user can mend, Ctrl-C and a full disk into one message and an exit code (2, 130, 1).

    `out` is where the command writes: the message says what is kept there. A KeyboardInterrupt may bring its own
    account as its argument.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        _leave(130, f"interrupted; {str(error) or _kept(out)}")
    except Exception as error:
        from latent_mpc.types import LatentMPCError

        if is_disk_full(error):
            at = getattr(error, "filename", None) or out
            _leave(1, f"the disk is full, writing {at}; {_kept(out)}; free some space and run the same command again")
        if not isinstance(error, LatentMPCError):
            raise
        _leave(2, str(error))


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or what it was raised from, is a full disk; HDF5 and safetensors tell it as text only."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        if full or "No space left on device" in str(error):
            return True
        error = error.__cause__
    return False


def _kept(out: Path | None) -> str:
    if out is None or not out.exists():
        return "nothing was written"
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    return f"kept in {out}: {len(files)} files, {megabytes:.1f} MB"


def _leave(code: int, message: str) -> NoReturn:
    typer.echo(f"latent-mpc: {message}", err=True)
    raise typer.Exit(code)

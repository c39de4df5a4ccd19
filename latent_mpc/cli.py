"""The command line: `latent-mpc collect | pretrain | train | eval | demo | info | bench`.

Each command reads its config, calls one function of the top, and prints what that returns. The functions are
imported inside the commands, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Compare planners, measured.")
app.add_typer(bench, name="bench")

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
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Same seed, same result.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print all settings as YAML and stop.")]
Data = Annotated[Path, typer.Option(metavar="DIR", help="Folder of play made by `collect`.")]
Weights = Annotated[str, typer.Option(metavar="WEIGHTS", help="Shipped name, or the folder that `train` wrote.")]


@app.callback(invoke_without_command=True)
def about(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Zero-shot pick-and-place from one goal image: plan with a learned latent world model.

    From nothing to a video: `collect` play, `pretrain` the encoder, `train` the predictors, `eval`, `demo`.
    The shipped weights skip the first three.

    \b
    Example:
        latent-mpc demo
    """
    if show_version:
        typer.echo(f"latent-mpc {version('latent-mpc')}")


@app.command()
def collect(
    overrides: Overrides = None,
    config: ConfigFile = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the episodes, statistics and preview.mp4.")
    ] = Path("data/play"),
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Parallel processes; 0 for one a core.")] = 0,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="Simulation runs on the CPU: auto or cpu.")] = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Record task-agnostic play in simulation.

    With `weights=runs/model` that model's agent practises first: it pursues goal images, whatever comes of it.
    The same command again goes on where it stopped; a kill costs at most the episodes under way.

    \b
    Example:
        latent-mpc collect --config panda_tabletop --out data/play --workers 2
    """
    with reported(out):
        from latent_mpc.collect import CollectConfig
        from latent_mpc.collect import collect as run
        from latent_mpc.types import InvalidInputError

        if device not in ("auto", "cpu"):
            raise InvalidInputError(f"collect simulates on the CPU: --device must be auto or cpu, got {device!r}")
        settings = settle(CollectConfig, "collect", config, overrides, show_config)
        typer.echo(run(settings, out=out, seed=seed, workers=workers))


@app.command()
def pretrain(
    overrides: Overrides = None,
    config: ConfigFile = None,
    data: Data = Path("data/play"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the encoder and its checkpoints.")] = Path(
        "runs/encoder"
    ),
    seed: Seed = 0,
    device: Device = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Train the image encoder on play.

    Self-supervised: positions and grasps are never read. The same command again goes on where it stopped.

    \b
    Example:
        latent-mpc pretrain --config panda_tabletop --data data/play --out runs/encoder
    """
    with reported(out):
        from latent_mpc.training import PretrainConfig
        from latent_mpc.training import pretrain as run

        settings = settle(PretrainConfig, "pretrain", config, overrides, show_config)
        typer.echo(run(settings, data=data, out=out, seed=seed, device=resolve_device(device)))


@app.command()
def train(
    overrides: Overrides = None,
    config: ConfigFile = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder made by `collect`; may be given again for practice.  [data/play]"),
    ] = None,
    encoder: Annotated[Path, typer.Option(metavar="DIR", help="Folder that `pretrain` wrote.")] = Path("runs/encoder"),
    init: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS", help="Go on from these weights, their encoder and their idea of a goal unchanged."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the weights, their card and checkpoints.")
    ] = Path("runs/model"),
    seed: Seed = 0,
    device: Device = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Train the predictors on the frozen encoder.

    The one-step predictor, then the macro-actions of the coarse level. With --init and practice beside the play, both
    are refined. The same command again goes on where it stopped.

    \b
    Example:
        latent-mpc train --config panda_tabletop --encoder runs/encoder --out runs/model
    """
    with reported(out):
        from latent_mpc.training import TrainConfig
        from latent_mpc.training import train as run

        settings = settle(TrainConfig, "train", config, overrides, show_config)
        folders = data or [Path("data/play")]
        device = resolve_device(device)
        typer.echo(run(settings, data=folders, encoder=encoder, init=init, out=out, seed=seed, device=device))


@app.command("eval")
def evaluate(
    overrides: Overrides = None,
    config: ConfigFile = None,
    weights: Weights = "panda-tabletop",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the table (Markdown, JSON) and each episode's result.")
    ] = Path("results"),
    seed: Seed = 0,
    device: Device = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Measure success against the baselines.

    Success rates with Wilson intervals, errors and times, as one table. Finished episodes are not run again.

    \b
    Example:
        latent-mpc eval --weights runs/model --out results episodes=20
    """
    with reported(out):
        from latent_mpc.evaluation import EvalConfig
        from latent_mpc.evaluation import evaluate as run

        settings = settle(EvalConfig, "eval", config, overrides, show_config)
        typer.echo(run(settings, weights=weights, out=out, seed=seed, device=resolve_device(device)))


@app.command()
def demo(
    overrides: Overrides = None,
    config: ConfigFile = None,
    weights: Weights = "panda-tabletop",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for episode.mp4, filmstrip.png and result.json.")
    ] = Path("runs/demo"),
    seed: Seed = 0,
    device: Device = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Pick and place from one goal image, filmed.

    Leaves the video, a filmstrip and the result; prints success, position error and time an action.

    \b
    Example:
        latent-mpc demo --seed 3 --out runs/demo
    """
    with reported(out):
        from latent_mpc.demo import DemoConfig, run_demo

        settings = settle(DemoConfig, "demo", config, overrides, show_config)
        typer.echo(run_demo(settings, weights=weights, out=out, seed=seed, device=resolve_device(device)))


@app.command()
def info(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="Shipped name, or the folder that `train` wrote.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Measure anew on this play; else what the card holds.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Also write the measures to this JSON file.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Show what a world model has learnt.

    Where it sees the object, and for how many steps its predictions hold, against persistence and a random
    encoder.

    \b
    Example:
        latent-mpc info panda-tabletop --data data/play
    """
    with reported(out):
        from latent_mpc.info import InfoConfig, describe

        settings = settle(InfoConfig, "info", config, overrides, show_config)
        typer.echo(describe(settings, weights=weights, data=data, out=out, seed=seed, device=resolve_device(device)))


@bench.command()
def planners(
    overrides: Overrides = None,
    config: ConfigFile = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the table (Markdown, JSON) and the plots.")
    ] = Path("results/planners"),
    seed: Seed = 0,
    device: Device = "cpu",
    show_config: ShowConfig = False,
) -> None:
    """Compare planners at equal numbers of evaluations.

    The same problems and paired seeds for all, with bootstrap intervals.

    \b
    Example:
        latent-mpc bench planners --out results/planners seeds=24
    """
    with reported(out):
        from latent_mpc.bench import PlannerBenchConfig, run_planner_bench

        settings = settle(PlannerBenchConfig, "bench", config, overrides, show_config)
        typer.echo(run_planner_bench(settings, out=out, seed=seed, device=resolve_device(device)))


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


def main() -> None:
    """Entry point of the console script."""
    app()

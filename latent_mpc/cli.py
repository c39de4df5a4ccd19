"""The command line: `latent-mpc collect | pretrain | train | eval | failures | demo | info | bench | drive | …`.

Each command reads its config, calls one function of the top, and prints what that returns. The functions are
imported inside the commands, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from latent_mpc.cli_failures import failures
from latent_mpc.cli_learn import attend, baseline, collect, pretrain, train
from latent_mpc.cli_robot import drive, goal, replay, robot
from latent_mpc.cli_support import (
    ConfigFile,
    Device,
    Overrides,
    Seed,
    ShowConfig,
    Weights,
    reported,
    resolve_device,
    settle,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Measure planners, and the driving of an arm.")
app.add_typer(bench, name="bench")
for command in collect, pretrain, train, attend, baseline:
    app.command()(command)
app.add_typer(goal, name="goal")
app.add_typer(robot, name="robot")


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


@bench.command("drive")
def bench_drive(
    overrides: Overrides = None,
    config: ConfigFile = None,
    seed: Seed = 0,
    show_config: ShowConfig = False,
) -> None:
    """Measure the loop that drives an arm, in real time.

    Success through all processes beside the plain environment, plans a second, and the reaction to a change of the
    image. Leave the machine alone meanwhile.

    \b
    Example:
        latent-mpc bench drive episodes=50 flashes=40
    """
    with reported(None):
        from latent_mpc.bench_drive import DriveBenchConfig, run_drive_bench

        settings = settle(DriveBenchConfig, "bench_drive", config, overrides, show_config)
        typer.echo(run_drive_bench(settings, seed=seed))


app.command()(failures)
app.command()(drive)
app.command()(replay)


def main() -> None:
    """Entry point of the console script."""
    app()

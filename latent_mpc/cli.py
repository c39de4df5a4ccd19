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
from latent_mpc.cli_robot import drive, goal, replay, robot
from latent_mpc.cli_support import Device, Seed, Weights, reported, resolve_device, settle

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Measure planners, and the driving of an arm.")
app.add_typer(bench, name="bench")
app.command()(failures)
app.command()(drive)
app.command()(replay)
app.add_typer(goal, name="goal")
app.add_typer(robot, name="robot")

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


@app.command()
def attend(
    overrides: Overrides = None,
    config: ConfigFile = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="Folder made by `collect` with solo=true; may be given again.  [data/objects]"
        ),
    ] = None,
    weights: Weights = "panda-tabletop",
    init: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on from the eye of these weights, which attend already.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the weights and checkpoints.")] = Path(
        "runs/attentive"
    ),
    seed: Seed = 0,
    device: Device = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Teach a model of one thing to attend to one among many.

    A new encoder learns to see each thing of a cluttered scene, in any looks, as the model's own encoder sees it alone.
    The rest of the model stays as it is. The same command again goes on where it stopped.

    \b
    Example:
        latent-mpc attend --config panda_objects --data data/objects --weights panda-tabletop --out runs/attentive
    """
    with reported(out):
        from latent_mpc.training import AttendConfig
        from latent_mpc.training import attend as run

        settings = settle(AttendConfig, "attend", config, overrides, show_config)
        folders = data or [Path("data/objects")]
        typer.echo(
            run(
                settings,
                data=folders,
                weights=weights,
                out=out,
                seed=seed,
                device=resolve_device(device),
                init=init,
            )
        )


@app.command()
def baseline(
    overrides: Overrides = None,
    config: ConfigFile = None,
    data: Data = Path("data/play"),
    weights: Weights = "panda-tabletop",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the weights and checkpoints.")] = Path(
        "runs/inverse-dynamics"
    ),
    seed: Seed = 0,
    device: Device = "auto",
    show_config: ShowConfig = False,
) -> None:
    """Train inverse dynamics on play, for `eval` to compare with.

    A network that acts as play did on its way to what the goal image shows, and plans nothing. It sees what the world
    model sees, which stays as it is. The same command again goes on where it stopped.

    \b
    Example:
        latent-mpc baseline --data data/play --weights panda-tabletop --out runs/inverse-dynamics
    """
    with reported(out):
        from latent_mpc.training import BaselineConfig
        from latent_mpc.training import baseline as run

        settings = settle(BaselineConfig, "baseline", config, overrides, show_config)
        typer.echo(run(settings, data=data, weights=weights, out=out, seed=seed, device=resolve_device(device)))


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


def main() -> None:
    """Entry point of the console script."""
    app()

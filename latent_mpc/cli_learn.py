"""The commands from nothing to weights: `latent-mpc collect | pretrain | train | attend | baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_mpc.cli_support import (
    ConfigFile,
    Data,
    Device,
    Overrides,
    Seed,
    ShowConfig,
    Weights,
    reported,
    resolve_device,
    settle,
)


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

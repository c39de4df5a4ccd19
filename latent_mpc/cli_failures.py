"""The command that says how episodes fail: `latent-mpc failures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_mpc.cli_support import reported


def failures(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an evaluation that `eval` finished.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for table.md, failures.json and a strip of each common kind.")
    ] = Path("results/failures"),
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose failures; the evaluation's first agent when not given.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Parallel processes; 0 for one a core.")] = 1,
) -> None:
    """Sort an evaluation's failures by what really happened.

    The episodes that failed are run again and watched with the simulator's truth; each thing that was not placed gets
    the first kind whose rule fits (failure_kinds.py). Prints how often each kind occurs in each task.

    \b
    Example:
        latent-mpc failures results/objects --out docs/failures
    """
    with reported(out):
        from latent_mpc.failures import find_failures

        typer.echo(find_failures(results, out=out, agent=agent, workers=workers))

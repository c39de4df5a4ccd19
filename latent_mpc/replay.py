"""Look at a run of an arm afterwards: `latent-mpc replay RUN`.

ticks.bin, events.jsonl  →  what happened, as text;  joints, lateness and phases as a picture
frames.bin               →  what the camera saw, as a video at real speed
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latent_mpc.film import film_run
from latent_mpc.frame_log import read_frames
from latent_mpc.robots.channels import Phase
from latent_mpc.robots.log import Run, read_run
from latent_mpc.types import InvalidInputError

SHOWN_EVENTS = 40


def replay(folder: Path, out: Path) -> str:
    """Write `run.png`, and `replay.mp4` if frames were kept, into `out` and return the run in words.

    Raises:
        InvalidInputError: there is no run in `folder`, it ended before its first tick, or its frames are damaged.
        OSError: the disk refused.
    """
    run = read_run(folder)
    if not len(run.ticks):
        raise InvalidInputError(f"{folder} holds no ticks: the run ended before the controller began")
    out.mkdir(parents=True, exist_ok=True)
    picture = out / "run.png"
    _draw(run, picture)
    frames = read_frames(folder)
    video = "none, no frames were kept" if frames is None else film_run(run, frames, out / "replay.mp4")
    return "\n".join([*_describe(run), f"Picture: {picture}", f"Video: {video}"])


def _describe(run: Run) -> list[str]:
    ticks, began_s = run.ticks, run.started_monotonic_s
    late_ms = 1e3 * ticks["late_s"]
    tracking = np.abs(ticks["q_rad"] - ticks["sent_rad"])[ticks["torque"]]
    lines = [
        f"{len(ticks)} ticks in {ticks['now_s'][-1] - ticks['now_s'][0]:.1f} s; late by {np.median(late_ms):.1f} ms, "
        f"99 % {np.quantile(late_ms, 0.99):.1f}, worst {late_ms.max():.1f}; "
        f"{len(np.unique(ticks['plan'][ticks['plan'] >= 0]))} plans followed",
    ]
    if len(tracking):
        worst = int(tracking.max(0).argmax())
        lines.append(f"farthest from its setpoint: {run.joint_names[worst]}, {tracking.max():.3f} rad")
    events = [f"{event['now_s'] - began_s:8.2f} s  {event['kind']}: {event['text']}" for event in run.events]
    if len(events) > SHOWN_EVENTS:
        middle = f"          … {len(events) - SHOWN_EVENTS} more in events.jsonl …"
        events = [*events[: SHOWN_EVENTS // 2], middle, *events[-SHOWN_EVENTS // 2 :]]
    return [*lines, *events]


def _draw(run: Run, path: Path) -> None:
    """Joints as measured and as sent, how late the ticks were, and the phases, over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ticks = run.ticks
    time_s = ticks["now_s"] - ticks["now_s"][0]
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    joints, lateness, phases = figure.subplots(3, 1, sharex=True, height_ratios=(4, 1, 1))
    for i, name in enumerate(run.joint_names):
        joints.plot(time_s, ticks["q_rad"][:, i], color=f"C{i}", label=name)
        joints.plot(time_s, np.where(ticks["torque"], ticks["sent_rad"][:, i], np.nan), color=f"C{i}", ls=":", lw=1)
    joints.set_ylabel("rad; dotted: sent")
    joints.legend(fontsize=7, ncols=4, loc="upper right")
    lateness.plot(time_s, 1e3 * ticks["late_s"], lw=0.6)
    lateness.set_ylabel("ticks late, ms")
    phases.step(time_s, ticks["phase"], where="post")
    phases.set_yticks([int(phase) for phase in Phase], [phase.name for phase in Phase], fontsize=7)
    phases.set_xlabel("s")
    for axis in (joints, lateness, phases):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)

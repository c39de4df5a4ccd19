"""The texts, pictures and tables of a live page, as HTML. Whatever comes from a device or a planner is escaped."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_mpc.robots.channels import Phase, Status

SILENT_S = 1.0  # after which the page says that nothing new comes
COLORS = {
    Phase.ARMED: "#2563eb",
    Phase.RUNNING: "#15803d",
    Phase.HOLD: "#b45309",
    Phase.STOPPED: "#b91c1c",
    Phase.FAULT: "#b91c1c",
}
GREY, RED = "#64748b", "#b91c1c"
MARGIN = "margin:0 .75em"  # that viser leaves beside its own elements


def state(status: Status, view: NDArray[np.void] | None, now_s: float) -> str:
    """The phase and why, what was refused, and who is silent."""
    alarms = []
    if now_s > status.alive_until_s:
        alarms.append(f"the controller has been silent for {now_s - float(status.tick['now_s']):.1f} s")
    if view is None:
        alarms.append("waiting for the planner's first frame")
    else:
        if (silent_s := now_s - float(view["at_s"])) > SILENT_S:
            alarms.append(f"nothing new from the planner for {silent_s:.1f} s")
        if complaint := bytes(view["complaint"]).decode(errors="replace"):
            alarms.append(f"planner: {complaint}")
    torque = "torque on" if status.torque else "torque off"
    notes = [f"last refusal: {status.refusal}"] if status.refusal else []
    return banner(status.phase.name, COLORS.get(status.phase, GREY), status.reason, alarms, notes, torque)


def banner(phase: str, color: str, reason: str, alarms: list[str], notes: list[str], torque: str) -> str:
    aside = f"{torque}<br>{time.strftime('%H:%M:%S')}"
    texts = [*((RED, text) for text in alarms), *((GREY, text) for text in notes)]
    lines = "".join(f'<div style="color:{ink};margin-top:.3em">{html.escape(text)}</div>' for ink, text in texts)
    badge = f"background:{color};color:white;font-weight:700;font-size:1.3em;padding:.15em .6em;border-radius:.4em"
    return (
        f'<div style="{MARGIN}"><div style="display:flex;align-items:center;gap:.8em">'
        f'<span style="{badge}">{html.escape(phase)}</span><span style="flex:1">{html.escape(reason)}</span>'
        f'<span style="color:{GREY};font-size:.8em;text-align:right;white-space:nowrap">{aside}</span></div>'
        f"{lines}</div>"
    )


def small(text: str) -> str:
    return f'<div style="{MARGIN};color:{GREY};font-size:.85em">{html.escape(text)}</div>'


def pictures(images: Mapping[str, NDArray[np.uint8]]) -> str:
    """Images side by side, each pixel a square."""
    figures = []
    for name, image in images.items():
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1)
        source = base64.b64encode(buffer.getvalue()).decode()
        figures.append(
            f'<figure style="flex:1;margin:0"><img style="width:100%;image-rendering:pixelated;display:block" '
            f'src="data:image/png;base64,{source}" alt="{name}"/><figcaption style="color:{GREY};font-size:.85em">'
            f"{name}</figcaption></figure>"
        )
    return f'<div style="{MARGIN};display:flex;gap:.6em">{"".join(figures)}</div>'


def numbers(status: Status, view: NDArray[np.void] | None, plans_a_second: float) -> str:
    """A table of times."""
    median, most, worst = (1e3 * s for s in status.period_error_s)
    rows = {"period error": f"p50 {median:.2f}, p99 {most:.2f}, max {worst:.1f} ms"}
    rows["missed periods"] = str(status.overruns)
    if view is not None:
        rows["plans"] = f"{plans_a_second:.1f} /s · {int(view['plans'])} in all"
        rows["frame to plan"] = f"{1e3 * float(view['think_s']):.0f} ms"
        rows["age of the frame"] = f"{1e3 * float(view['age_s']):.0f} ms"
        rows["energy · surprise"] = f"{float(view['energy']):.3f} · {float(view['surprise']):.3f}"
    cells = "".join(
        f'<tr><td style="color:{GREY};white-space:nowrap">{name}</td>'
        f'<td style="text-align:right;white-space:nowrap">{value}</td></tr>'
        for name, value in rows.items()
    )
    style = "width:100%;font-size:.85em;font-variant-numeric:tabular-nums"
    return f'<div style="{MARGIN}"><table style="{style}">{cells}</table></div>'

"""The live page of a drive: what the arm sees, wants and does, with STOP and HOLD; by viser, for this machine alone.

    status, view ─► thread "page", 8 Hz ─► viser ─► browser ─► a click ─► a thread of viser's ─► supervisor

A click needs neither the planner, which has a process of its own, nor the thread that draws; so STOP works while both
hang. It does need this process, the browser and its connection: it is no emergency stop.

Whoever can open the page can move the arm. It therefore listens on the loopback address alone, takes no connection that
another site's page makes in the same browser, and never lets viser publish it; other users of the machine can open it.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_mpc.robots.channels import Phase, Status
from latent_mpc.types import InvalidInputError
from latent_mpc.web_scene import ArmScene

if TYPE_CHECKING:
    from latent_mpc.drive import Drive

EXTRA = "page"  # of pyproject.toml
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ORIGIN = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
PERIOD_S = 0.125
SILENT_S = 1.0  # after which the page says that nothing new comes
RATE_S = 3.0  # that plans are counted over
PAST_S = 60.0  # of the energy that is drawn
ARM_S = 10.0
COLORS = {
    Phase.ARMED: "#2563eb",
    Phase.RUNNING: "#15803d",
    Phase.HOLD: "#b45309",
    Phase.STOPPED: "#b91c1c",
    Phase.FAULT: "#b91c1c",
}
GREY, RED = "#64748b", "#b91c1c"

log = logging.getLogger(__name__)


class Page:
    """A live page, while the context is entered; enter the drive first, and leave it last.

    Attributes:
        url: of the page.
    """

    def __init__(self, drive: Drive, port: int = 8080, host: str = "127.0.0.1") -> None:
        """
        Args:
            port: 0 for any that is free.
            host: a loopback address.
        Raises:
            InvalidInputError: viser is not installed, or the host is no loopback address.
        """
        if host not in LOOPBACK:
            raise InvalidInputError(
                f"the page can move the arm, so its host must be one of {LOOPBACK}, got {host!r}; to see it from "
                f"another machine: ssh -L {port}:127.0.0.1:{port} <this machine>"
            )
        try:
            import viser  # noqa: F401
        except ImportError as error:
            raise InvalidInputError(f"the live page needs viser: pip install 'latent-mpc[{EXTRA}]'") from error
        self.url = ""
        self._drive, self._port, self._host = drive, port, host
        self._server: Any = None
        self._over = threading.Event()
        self._asking = threading.Lock()  # one ARM or RESET at a time: they wait, and viser has 32 threads
        self._plans: deque[tuple[float, int]] = deque()
        self._energies: deque[tuple[float, float]] = deque()
        self._shown_frame, self._shown_plan = -1, -1

    def __enter__(self) -> Page:
        """Start to serve.

        Raises:
            InvalidInputError: the port is taken.
        """
        with _quiet(), _own_origins():
            self._server = _serve(self._host, self._port)
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._server.get_port()}"
        self._thread = threading.Thread(target=self._keep_showing, name="page", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with _quiet():
            self._server.stop()

    def _build(self) -> None:
        gui, scene = self._server.gui, self._server.scene
        gui.configure_theme(
            control_layout="fixed", control_width="large", show_logo=False, show_share_button=False, dark_mode=False
        )
        gui.set_panel_label(f"latent-mpc · {self._drive.spec.name}")
        supervisor, dry = self._drive.supervisor, self._drive.config.dry_run
        self._state = gui.add_html("")
        for name, color, order in (("STOP", (200, 30, 30), supervisor.stop), ("HOLD", (190, 100, 10), supervisor.hold)):
            gui.add_button(name, color=color).on_click(partial(self._order, name, order))
        waiting = {
            "ARM": partial(supervisor.arm, timeout_s=ARM_S),
            "RESUME": partial(supervisor.arm, timeout_s=ARM_S),
            "RESET": supervisor.reset,
        }
        group = gui.add_button_group("dry run" if dry else "", tuple(waiting), disabled=dry)
        if not dry:
            group.on_click(lambda event: self._ask(event.target.value, waiting))
        self._said = gui.add_html("")
        self._images = gui.add_html("")
        axis = {"grid": {"show": True}, "size": 34}
        plot = partial(gui.add_uplot, height=120, axes=({"size": 26}, axis), legend={"show": False})
        line = {"label": "energy", "stroke": "#2563eb", "width": 2}
        zero, flat = np.array([0.0, 1.0]), {"x": {"time": False}}
        self._ahead = plot(
            (zero, zero * 0),
            ({"label": "step"}, {**line, "stroke": "#ea580c", "points": {"show": True}}),
            title="predicted energy, by steps ahead",
            scales=flat,
        )
        self._past = plot((zero, zero * 0), ({"label": "s"}, line), title="energy, last minute", scales=flat)
        self._numbers = gui.add_html("")
        self._scene = ArmScene(scene, self._drive.spec, self._drive.station.workspace)
        reach = np.array(self._drive.station.workspace.high_m)
        self._server.initial_camera.position = (2.2 * reach[0], -2.2 * reach[0], 1.6 * reach[0] + reach[2])
        self._server.initial_camera.look_at = (0.45 * reach[0], 0.0, 0.7 * reach[2])

    def _order(self, name: str, order: Callable[[], None], _: object = None) -> None:
        """From a thread of viser's: do, and say what came of it."""
        try:
            order()
            outcome = "sent" if name in ("STOP", "HOLD") else "done"
        except Exception as error:  # the click of a button must not die unseen
            outcome = f"failed: {error}"
        self._said.content = _small(f"{time.strftime('%H:%M:%S')} {name} {outcome}")

    def _ask(self, name: str, orders: Mapping[str, Callable[[], None]]) -> None:
        if not self._asking.acquire(blocking=False):
            return
        try:
            self._said.content = _small(f"{name} …")
            self._order(name, orders[name])
        finally:
            self._asking.release()

    def _keep_showing(self) -> None:
        """The thread: what fails once is shown, and tried again."""
        while not self._over.wait(PERIOD_S):
            if not self._server.get_clients():
                continue
            try:
                self._show(self._drive.supervisor.status(), self._drive.view(), time.monotonic())
            except Exception as error:
                log.debug("the page could not be brought up to date", exc_info=True)
                with contextlib.suppress(Exception):
                    self._state.content = _state("?", GREY, f"{type(error).__name__}: {error}", [])

    def _show(self, status: Status, view: NDArray[np.void] | None, now_s: float) -> None:
        """Everything, at `now_s`."""
        with self._server.atomic():
            self._scene.show_arm(status.tick["q_rad"], float(status.tick["gripper"]))
            self._state.content = _state_of(status, view, now_s)
            if view is not None:
                self._show_view(view, now_s)
            self._numbers.content = _numbers(status, view, self._plans_a_second(view, now_s))

    def _show_view(self, view: NDArray[np.void], now_s: float) -> None:
        """What the planner sees and thinks, where that is new."""
        if view["frame"] != self._shown_frame:
            self._shown_frame = int(view["frame"])
            self._images.content = _pictures({"camera": view["image"], "goal": view["goal"]})
        if view["plan"] == self._shown_plan or not view["steps"]:
            return
        self._shown_plan = int(view["plan"])
        self._scene.show_path(view["position_m"][: view["count"]])
        ahead = np.concatenate([[view["energy"]], view["predicted"][: view["steps"]]])
        if np.isfinite(ahead).all():
            self._ahead.data = (np.arange(len(ahead), dtype=float), ahead)
            self._energies.append((now_s, float(view["energy"])))
            _forget(self._energies, now_s - PAST_S)
            past = np.array(self._energies)
            self._past.data = (past[:, 0] - now_s, past[:, 1])

    def _plans_a_second(self, view: NDArray[np.void] | None, now_s: float) -> float:
        self._plans.append((now_s, 0 if view is None else int(view["plans"])))
        _forget(self._plans, now_s - RATE_S)
        (then_s, before), (_, count) = self._plans[0], self._plans[-1]
        return (count - before) / max(now_s - then_s, PERIOD_S)


def _serve(host: str, port: int) -> Any:
    """A viser server that cannot be published. Raises InvalidInputError if the port is taken."""
    import viser

    server = viser.ViserServer(host, port, verbose=False)
    server.request_share_url = _refuse  # type: ignore[method-assign]  # a client may ask for it, button or not
    if port and server.get_port() != port:  # viser goes on to the next one; a bookmark would show another arm's page
        server.stop()
        raise InvalidInputError(f"port {port} is taken, maybe by another drive's page; take another, or 0 for any")
    return server


def _refuse(*_: object, **__: object) -> None:
    """In place of viser's tunnel to the internet."""


@contextlib.contextmanager
def _own_origins() -> Iterator[None]:
    """Servers that start meanwhile refuse pages of other sites; viser has no option for it."""
    from websockets.asyncio import server

    serve = server.serve
    server.serve = partial(serve, origins=[ORIGIN])  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        server.serve = serve  # type: ignore[misc]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without viser's banners on the terminal."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def _forget(past: deque[tuple[float, Any]], before_s: float) -> None:
    while past[0][0] < before_s:
        past.popleft()


def _state_of(status: Status, view: NDArray[np.void] | None, now_s: float) -> str:
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
    if status.refusal:
        alarms.append(f"last refusal: {status.refusal}")
    torque = "torque on" if status.torque else "torque off"
    return _state(status.phase.name, COLORS.get(status.phase, GREY), status.reason, alarms, torque)


def _state(phase: str, color: str, reason: str, alarms: list[str], torque: str = "") -> str:
    aside = f"{torque}<br>{time.strftime('%H:%M:%S')}"
    lines = "".join(f'<div style="color:{RED};margin-top:.3em">{html.escape(text)}</div>' for text in alarms)
    return (
        f'<div style="display:flex;align-items:center;gap:.8em"><span style="background:{color};color:white;'
        f'font-weight:700;font-size:1.3em;padding:.15em .6em;border-radius:.4em">{html.escape(phase)}</span>'
        f'<span style="flex:1">{html.escape(reason)}</span>'
        f'<span style="color:{GREY};font-size:.8em;text-align:right;white-space:nowrap">{aside}</span></div>{lines}'
    )


def _small(text: str) -> str:
    return f'<div style="color:{GREY};font-size:.85em">{html.escape(text)}</div>'


def _pictures(images: Mapping[str, NDArray[np.uint8]]) -> str:
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
    return f'<div style="display:flex;gap:.6em">{"".join(figures)}</div>'


def _numbers(status: Status, view: NDArray[np.void] | None, plans_a_second: float) -> str:
    """A table of times."""
    median, most, worst = (1e3 * s for s in status.period_error_s)
    rows = {"period error p50 · p99 · max": f"{median:.2f} · {most:.2f} · {worst:.1f} ms"}
    rows["missed periods"] = str(status.overruns)
    if view is not None:
        rows["plans"] = f"{plans_a_second:.1f} /s · {int(view['plans'])} in all"
        rows["frame to plan"] = f"{1e3 * float(view['think_s']):.0f} ms"
        rows["age of the frame"] = f"{1e3 * float(view['age_s']):.0f} ms"
        rows["energy · surprise"] = f"{float(view['energy']):.3f} · {float(view['surprise']):.3f}"
    cells = "".join(
        f'<tr><td style="color:{GREY};padding-right:1em">{name}</td><td style="text-align:right">{value}</td></tr>'
        for name, value in rows.items()
    )
    return f'<table style="width:100%;font-variant-numeric:tabular-nums">{cells}</table>'

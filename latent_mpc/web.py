"""The live page of a drive: what the arm sees, wants and does, with STOP and HOLD.

    status, view ─► thread "page", 8 Hz ─► viser ─► browser ─► a click ─► a thread of viser's ─► supervisor

A click needs neither the planner, which has a process of its own, nor the thread that draws; so STOP works while both
hang. It does need this process, the connection, and a browser with WebGL: it is no emergency stop.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from numpy.typing import NDArray

from latent_mpc.robots.channels import Status
from latent_mpc.web_panel import GREY, banner, numbers, pictures, small, state
from latent_mpc.web_scene import ArmScene
from latent_mpc.web_server import LocalServer

if TYPE_CHECKING:
    from latent_mpc.drive import Drive

PERIOD_S = 0.125
RATE_S = 3.0  # that plans are counted over
PAST_S = 60.0  # of the energy that is drawn
ARM_S = 10.0
IMAGES = {"camera": "image", "subgoal": "subgoal", "goal": "goal"}  # of the view
SPACE = "\N{NO-BREAK SPACE}"  # keeps the line of an empty text


class Page:
    """A live page, while the context is entered.

    Make it before the drive is entered, for importing viser takes seconds that the heartbeat need not share; enter it
    after the drive, and leave it before.
    """

    def __init__(self, drive: Drive, port: int = 8080, host: str = "127.0.0.1") -> None:
        """
        Args:
            port: 0 for any that is free.
            host: a loopback address.
        Raises:
            InvalidInputError: viser is missing or too old, or the host is no loopback address.
        """
        self._drive, self._server = drive, LocalServer(port, host)
        self._thread = threading.Thread(target=self._keep_showing, name="page", daemon=True)
        self._over = threading.Event()
        self._asking = threading.Lock()  # one ARM or RESET at a time: they wait, and viser has 32 threads
        self._plans: deque[tuple[float, int]] = deque()
        self._energies: deque[tuple[float, float]] = deque()
        self._shown_frame, self._shown_plan = -1, -1

    def __enter__(self) -> Page:
        """Start to serve. Raises InvalidInputError if the port is taken."""
        self._server.__enter__()
        try:
            self._build()
            self._thread.start()
        except BaseException:
            self._server.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(1.0)  # it may hang; it is a daemon
        self._server.__exit__()

    @property
    def url(self) -> str:
        """Of the page, once entered."""
        return self._server.url

    def _build(self) -> None:
        """The elements, from top to bottom; what changes its height stands below the buttons, lest they move away."""
        gui, spec, workspace = self._server.viser.gui, self._drive.spec, self._drive.station.workspace
        supervisor, dry = self._drive.supervisor, self._drive.config.dry_run
        gui.set_panel_label(f"latent-mpc · {spec.name}{' · dry run, nothing is sent' if dry else ''}")
        gui.add_button("STOP", color=(200, 30, 30)).on_click(lambda _: self._order("STOP", "sent", supervisor.stop))
        gui.add_button("HOLD", color=(190, 100, 10)).on_click(lambda _: self._order("HOLD", "sent", supervisor.hold))
        arm = partial(supervisor.arm, timeout_s=ARM_S)
        waiting: dict[str, Callable[[], None]] = {"ARM": arm, "RESUME": arm, "RESET": supervisor.reset}
        if not dry:
            group = gui.add_button_group("", tuple(waiting))
            group.on_click(lambda event: self._ask(event.target.value, waiting))
        self._said = gui.add_html(small(SPACE))
        self._state = gui.add_html("")
        self._images = gui.add_html("")
        self._ahead = _plot(gui, "predicted energy, by steps ahead", "#ea580c")
        self._past = _plot(gui, "energy, last minute", "#2563eb")
        self._numbers = gui.add_html("")
        self._scene = ArmScene(self._server.viser.scene, spec, workspace)
        reach_m, top_m = workspace.high_m[0], workspace.high_m[2]
        camera = self._server.viser.initial_camera
        camera.position = (2.0 * reach_m, -1.6 * reach_m, 0.9 * reach_m + top_m)
        camera.look_at = (0.45 * reach_m, 0.0, 0.7 * top_m)

    def _order(self, name: str, outcome: str, order: Callable[[], None]) -> None:
        """From a thread of viser's: do, and say what came of it."""
        try:
            order()
        except Exception as error:  # a click must not die unseen
            outcome = f"failed: {error}"
        self._said.content = small(f"{time.strftime('%H:%M:%S')} {name} {outcome}")

    def _ask(self, name: str, orders: Mapping[str, Callable[[], None]]) -> None:
        """An order that waits for its effect; one at a time, others are dropped."""
        if not self._asking.acquire(blocking=False):
            return
        try:
            self._said.content = small(f"{name} …")
            self._order(name, "done", orders[name])
        finally:
            self._asking.release()

    def _keep_showing(self) -> None:
        """The thread: what fails is shown, and tried again."""
        while not self._over.wait(PERIOD_S):
            try:
                if self._server.viser.get_clients():
                    self._show(self._drive.supervisor.status(), self._drive.view(), time.monotonic())
            except Exception as error:
                with contextlib.suppress(Exception):
                    self._state.content = banner("?", GREY, f"{type(error).__name__}: {error}", [], [], "")

    def _show(self, status: Status, view: NDArray[np.void] | None, now_s: float) -> None:
        """Everything, at `now_s`."""
        with self._server.viser.atomic():
            self._scene.show_arm(status.tick["q_rad"], float(status.tick["gripper"]))
            self._state.content = state(status, view, now_s)
            if view is not None:
                self._show_view(view, now_s)
            self._numbers.content = numbers(status, view, self._plans_a_second(view, now_s))

    def _show_view(self, view: NDArray[np.void], now_s: float) -> None:
        """What the planner sees and thinks, where that is new."""
        if view["frame"] != self._shown_frame:
            self._shown_frame = int(view["frame"])
            names = ("camera", "subgoal", "goal") if view["pictured"] else ("camera", "goal")
            self._images.content = pictures({name: view[IMAGES[name]] for name in names})
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
        """Of the last RATE_S; it falls while the planner hangs."""
        self._plans.append((now_s, 0 if view is None else int(view["plans"])))
        _forget(self._plans, now_s - RATE_S)
        (then_s, before), (_, count) = self._plans[0], self._plans[-1]
        return (count - before) / max(now_s - then_s, PERIOD_S)


def preview(
    read: Callable[[], NDArray[np.uint8] | None], port: int = 8080, tell: Callable[[str], None] = typer.echo
) -> NDArray[np.uint8]:
    """Show a camera's images on a page until the button CAPTURE is pressed, and return the one that was shown then.

    Args:
        read: () -> the newest image, uint8 (H, W, 3), or None.
        port: 0 for any that is free. tell: is called with the page's address.
    Raises:
        InvalidInputError: viser is missing or too old, or the port is taken.
    """
    with LocalServer(port, "127.0.0.1") as server:
        pressed = threading.Event()
        server.viser.gui.set_panel_label("latent-mpc · goal image")
        server.viser.gui.add_button("CAPTURE").on_click(lambda _: pressed.set())
        shown, element = None, server.viser.gui.add_html(small("waiting for the camera"))
        tell(f"{server.url}: press CAPTURE, or Ctrl-C here")
        while not (pressed.wait(PERIOD_S) and shown is not None):
            if (image := read()) is not None:
                shown, element.content = image, pictures({"camera": image})
        return shown


def _plot(gui: Any, title: str, color: str) -> Any:
    """A curve, still flat."""
    zero = np.zeros(1)
    curve = {"label": "energy", "stroke": color, "width": 2}
    axes, scales = ({"size": 26}, {"size": 34}), {"x": {"time": False}}
    style = {"axes": axes, "scales": scales, "legend": {"show": False}}
    return gui.add_uplot((zero, zero), ({"label": "x"}, curve), title=title, height=105, **style)


def _forget(past: deque[tuple[float, Any]], before_s: float) -> None:
    while past[0][0] < before_s:
        past.popleft()

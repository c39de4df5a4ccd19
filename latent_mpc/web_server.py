"""Serving a page by viser to this machine alone.

Whoever can open a page can move the arm. It therefore listens on the loopback address alone, takes no connection that
another site's page makes in the same browser, and is never published by viser; other users of the machine can open it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from latent_mpc.types import InvalidInputError

EXTRA = "page"  # of pyproject.toml
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ORIGIN = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")


class LocalServer:
    """A viser server, while the context is entered.

    Attributes:
        viser: the `ViserServer`, once entered.
    """

    viser: Any

    def __init__(self, port: int, host: str) -> None:
        """Import viser, which takes seconds.

        Args:
            port: 0 for any that is free.
            host: a loopback address.
        Raises:
            InvalidInputError: viser is missing or too old, or the host is no loopback address.
        """
        if host not in LOOPBACK:
            raise InvalidInputError(
                f"the page can move the arm, so its host must be one of {LOOPBACK}, got {host!r}; to see it from "
                f"another machine: ssh -L {port}:127.0.0.1:{port} <this machine>"
            )
        self._module, self._port, self._host = _import_viser(), port, host

    def __enter__(self) -> LocalServer:
        """Start to serve. Raises InvalidInputError if the port is taken."""
        with _quiet(), _own_origins():
            self.viser = self._module.ViserServer(self._host, self._port, verbose=False)
        self.viser.request_share_url = _refuse  # a client may ask for it, button or not
        if self._port and self.viser.get_port() != self._port:  # viser went on to the next one
            self.__exit__()
            raise InvalidInputError(f"port {self._port} is taken, maybe by another arm's page; take another, or 0")
        self.viser.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        self.viser.gui.main_panel.dock_right()
        return self

    def __exit__(self, *_: object) -> None:
        with _quiet():
            self.viser.stop()

    @property
    def url(self) -> str:
        """Of the page."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.viser.get_port()}"


def _import_viser() -> Any:
    """The module. Raises InvalidInputError if it is missing or too old."""
    advice = f"pip install 'latent-mpc[{EXTRA}]'"
    try:
        import viser
    except ImportError as error:
        raise InvalidInputError(f"the live page needs viser: {advice}") from error
    if not hasattr(viser.GuiApi, "main_panel"):
        raise InvalidInputError(f"the live page needs viser 1.1 or newer, not {viser.__version__}: {advice}")
    return viser


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

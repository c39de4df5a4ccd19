"""Serving a page by viser to one person on this machine.

Whoever can open a page can move the arm. It therefore listens on the loopback address alone, and nothing is answered
before the path has shown the token, which is drawn anew for each server and told on its terminal only: no other user
and no other program gets in. It takes no connection that another site's page makes in the same browser, is never
published by viser, and what is announced to be larger than a click or a camera's pose is not waited for.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

from latent_mpc.types import InvalidInputError

EXTRA = "page"  # of pyproject.toml
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ORIGIN = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
MAX_BYTES = 1 << 16  # of a message to the page
QUEUED = 4  # messages of a connection


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
        self._token = secrets.token_urlsafe(9)

    def __enter__(self) -> LocalServer:
        """Start to serve. Raises InvalidInputError if the port is taken."""
        with _quiet(), _guarded(self._token):
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
        """Of the page, with its token."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.viser.get_port()}/{self._token}/"


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
def _guarded(token: str) -> Iterator[None]:
    """Servers that start meanwhile are guarded as the module says; viser has no options for it."""
    from websockets.asyncio import server

    serve, log = server.serve, logging.getLogger(__name__)
    log.setLevel(logging.CRITICAL)  # what strangers send is not worth a traceback

    def guarded(*arguments: Any, process_request: Any, **options: Any) -> Any:
        options |= {"origins": [ORIGIN], "max_size": MAX_BYTES, "max_queue": QUEUED, "logger": log}
        return serve(*arguments, process_request=partial(_admit, token, process_request), **options)

    server.serve = guarded  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        server.serve = serve  # type: ignore[misc]


def _admit(token: str, answer: Callable[[Any, Any], Any], connection: Any, request: Any) -> Any:
    """Answer a request for /token/…, as one for /…; refuse every other."""
    shown, _, path = request.path.removeprefix("/").partition("/")
    if not secrets.compare_digest(shown.encode(errors="replace"), token.encode()):
        return connection.respond(HTTPStatus.FORBIDDEN, "the page's address is on the terminal that started it\n")
    request.path = f"/{path}"
    return answer(connection, request)


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

"""A headless Chromium, driven by the DevTools protocol over pipes: JSON messages that end with a zero byte.

Whatever ends the test's process closes the pipes, and with them the browser.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a graphics card
PATIENCE_S = 20.0


def chromium() -> str | None:
    """Path of an installed Chromium; None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page of a browser of its own, open while the context is entered.

    Attributes:
        url: as last asked for.
    """

    def __init__(self, url: str, *, width: int = 1280, height: int = 900, flags: tuple[str, ...] = SOFTWARE_GL) -> None:
        self.url, self._size, self._flags = url, (width, height), flags
        self._count, self._session, self._heard = 0, "", b""

    def __enter__(self) -> Tab:
        program = chromium()
        assert program is not None, "no Chromium"
        self._folder = tempfile.mkdtemp()
        arguments = ["--headless=new", "--no-sandbox", "--no-first-run", "--disable-dev-shm-usage", "--mute-audio"]
        arguments += ["--remote-debugging-pipe", f"--user-data-dir={self._folder}", *self._flags]
        arguments += [f"--window-size={self._size[0]},{self._size[1]}", "about:blank"]
        low = [*os.pipe(), *os.pipe()]
        hears, self._send, self._receive, says = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in low)
        for fd in low:
            os.close(fd)
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{hears} 4>&{says}']  # where Chromium looks for its pipes
        if os.geteuid() == 0 and shutil.which("setpriv"):  # as root it would raise its own priority above all others
            shell += ["setpriv", "--bounding-set=-sys_nice"]
        self._process = subprocess.Popen(
            [*shell, program, *arguments], stderr=subprocess.DEVNULL, pass_fds=(hears, says), start_new_session=True
        )
        os.close(hears), os.close(says)
        try:
            targets = self.call("Target.getTargets")["targetInfos"]
            page = next(target["targetId"] for target in targets if target["type"] == "page")
            self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            self.goto(self.url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._send), os.close(self._receive)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        os.write(
            self._send, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        deadline_s = time.monotonic() + PATIENCE_S
        while (answer := self._hear(method, deadline_s)).get("id") != self._count:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def goto(self, url: str) -> None:
        """Open another page."""
        self.url = url
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self) -> str:
        """All that can be read."""
        return self.evaluate("document.body ? document.body.innerText : ''")

    def wait_for(self, text: str, patience_s: float = PATIENCE_S) -> float:
        """Until `text` can be read; returns the seconds that it took."""
        began_s = time.monotonic()
        self._wait(lambda: text in self.text(), f"{text!r} did not appear", patience_s)
        return time.monotonic() - began_s

    def wait(self, expression: str, patience_s: float = PATIENCE_S) -> None:
        """Until a JavaScript expression is true."""
        self._wait(lambda: self.evaluate(expression), f"{expression} was not true", patience_s)

    def click(self, label: str) -> float:
        """Press the mouse on the middle of the button called `label`; returns when, on the monotonic clock."""
        place = (
            f"(() => {{ const b = [...document.querySelectorAll('button')].find(b => b.innerText.trim() === {label!r});"
            "if (!b) return null; b.scrollIntoViewIfNeeded(); const r = b.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        self._wait(lambda: self.evaluate(place) is not None, f"there is no button {label!r}")
        x, y = self.evaluate(place)
        pressed_s = time.monotonic()
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        return pressed_s

    def screenshot(self, path: Path) -> None:
        """A PNG of what is to be seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _hear(self, method: str, deadline_s: float) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self._heard:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, deadline_s - time.monotonic()))
            assert ready, f"no answer to {method} within {PATIENCE_S} s"
            more = os.read(self._receive, 1 << 20)
            assert more, "Chromium ended"
            self._heard += more
        message, self._heard = self._heard.split(b"\0", 1)
        return json.loads(message)

    def _wait(self, done: Callable[[], bool], complaint: str, patience_s: float = PATIENCE_S) -> None:
        deadline_s = time.monotonic() + patience_s
        while not done():
            assert time.monotonic() < deadline_s, f"{complaint} within {patience_s} s"
            time.sleep(0.05)

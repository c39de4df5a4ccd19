"""Tests of latent_mpc.web, web_server and web_panel, in a headless Chromium: STOP works, whatever else hangs."""

from __future__ import annotations

import base64
import contextlib
import io
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latent_mpc.navigator_link import view_dtype
from latent_mpc.robots.channels import Phase, Status, tick_dtype
from latent_mpc.robots.panda import panda
from latent_mpc.robots.robot import DriverError
from latent_mpc.types import InvalidInputError, WorkspaceSpec
from latent_mpc.web import RATE_S, Page, preview
from latent_mpc.web_panel import SILENT_S, pictures, state

sys.path.insert(0, str(Path(__file__).parent))
import hostile
from chromium import Tab, chromium

PANDA = panda(Path(__file__).parents[1] / "envs/panda.xml")
WORKSPACE = WorkspaceSpec((0.28, -0.30, 0.008), (0.72, 0.30, 0.32))
SIZE = 16
CLICK_S = 1.0  # from the mouse to the supervisor
UPDATES_HZ, UPDATE_S = 10.0, 0.03  # at most, of this process's time: 30 % of a core while a browser watches


class FakeSupervisor:
    """Answers as a supervisor; remembers the orders, and when."""

    def __init__(self) -> None:
        self.phase, self.reason, self.refusal = Phase.RUNNING, "follows plan 7", ""
        self.orders: list[tuple[str, float]] = []
        self.fault: Exception | None = None
        self.asked = 0  # for its status, how often
        self.armed = threading.Event()  # `arm` waits for it
        self.refuses: Exception | None = None  # to arm

    def status(self) -> Status:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        tick = np.zeros((), tick_dtype(7))
        tick["now_s"], tick["q_rad"] = time.monotonic(), PANDA.home_rad
        tick["gripper"] = 1.0
        until_s = time.monotonic() + 0.1
        times_s = (0.0002, 0.0013, 0.0121)
        return Status(self.phase, self.reason, self.refusal, True, tick, np.zeros((0, 2)), until_s, times_s, 2, 7)

    def stop(self) -> None:
        self._note("stop", Phase.STOPPED)

    def hold(self) -> None:
        self._note("hold", Phase.HOLD)

    def reset(self, timeout_s: float = 5.0) -> None:
        self._note("reset", Phase.CALIBRATED)

    def arm(self, timeout_s: float = 10.0) -> None:
        self._note("arm", self.phase)
        if self.refuses is not None:
            raise self.refuses
        armed = self.armed
        if armed.wait(timeout_s) and armed is self.armed:
            self.phase = Phase.ARMED

    def _note(self, name: str, phase: Phase) -> None:
        self.orders.append((name, time.monotonic()))
        self.phase = phase

    def seconds_until(self, name: str, since_s: float) -> float:
        """After `since_s`, until the order came; fails when it takes ten seconds."""
        deadline_s = time.monotonic() + 10.0
        while time.monotonic() < deadline_s:
            if times_s := [at_s for order, at_s in self.orders if order == name and at_s >= since_s]:
                return times_s[0] - since_s
            time.sleep(0.005)
        pytest.fail(f"{name} never came; there came {self.orders}")


class FakeDrive:
    """A drive whose planner plans five times a second, until it is `frozen`, or hangs whoever asks for its view."""

    def __init__(self, *, dry_run: bool = False) -> None:
        self.supervisor, self.spec = FakeSupervisor(), PANDA
        self.station, self.config = SimpleNamespace(workspace=WORKSPACE), SimpleNamespace(dry_run=dry_run)
        self.frozen = False
        self.answers = threading.Event()
        self.answers.set()
        self._view = view_of(1)

    def view(self) -> NDArray[np.void]:
        self.answers.wait()
        if not self.frozen:
            self._view = view_of(int(5 * time.monotonic()))
        return self._view


def view_of(plan: int, complaint: str = "") -> NDArray[np.void]:
    record = np.zeros(1, view_dtype(SIZE))
    colors = np.random.default_rng(plan).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    record["image"], record["goal"], record["subgoal"] = colors
    record["pictured"] = True
    record["frame"] = record["plan"] = record["plans"] = plan
    record["count"], record["steps"] = 3, 4
    record["position_m"][0, :3] = [[0.4, 0, 0.3], [0.5, 0.1, 0.2], [0.6, 0.1, 0.1]]
    record["energy"], record["predicted"][0, :4] = 0.5, [0.4, 0.3, 0.2, 0.1]
    record["think_s"], record["age_s"], record["at_s"] = 0.164, 0.043, time.monotonic()
    record["complaint"] = complaint.encode()
    return record[0]


@pytest.fixture(scope="module")
def viser() -> Any:
    return pytest.importorskip("viser", minversion="1.1", reason="needs the extra 'page'")


@pytest.fixture(scope="module")
def opened(viser: Any) -> Iterator[tuple[FakeDrive, Page, Tab]]:
    """A drive, its page, and a browser that watches."""
    if chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    drive = FakeDrive()
    with Page(drive, port=0) as page, Tab(page.url, width=640, height=480) as tab:
        tab.wait_for("RUNNING")
        yield drive, page, tab


@pytest.fixture
def watched(opened: tuple[FakeDrive, Page, Tab]) -> Iterator[tuple[FakeDrive, Tab]]:
    """The same, running again."""
    drive, page, tab = opened
    drive.supervisor.__init__()
    drive.frozen = False
    if tab.url != page.url:
        tab.goto(page.url)
    tab.wait_for("RUNNING")
    yield drive, tab
    drive.supervisor.armed.set()
    drive.answers.set()


def test_the_page_tells_the_phase_the_times_and_the_images(watched: tuple[FakeDrive, Tab]) -> None:
    drive, tab = watched
    time.sleep(RATE_S)
    text = tab.text()
    for part in (
        "follows plan 7",
        "p50 0.20, p99 1.30, max 12.1 ms",
        "164 ms",
        "43 ms",
        "camera",
        "subgoal",
        "goal",
        "torque on",
        "0.500",
    ):
        assert part in text
    rate = re.search(r"plans\s+([\d.]+) /s", text)
    assert rate is not None
    assert float(rate[1]) == pytest.approx(5.0, abs=1.5)
    drive.supervisor.refusal = "plan 8: <b>waypoint 3</b> is outside"
    tab.wait_for("last refusal: plan 8: <b>waypoint 3</b> is outside")


@pytest.mark.parametrize("hang", ["the view never changes", "the page's own thread hangs", "ARM is being waited for"])
@pytest.mark.parametrize(("button", "phase"), [("STOP", "STOPPED"), ("HOLD", "HOLD")])
def test_stop_and_hold_come_at_once_though(watched: tuple[FakeDrive, Tab], button: str, phase: str, hang: str) -> None:
    drive, tab = watched
    if hang == "the view never changes":
        drive.frozen = True
        tab.wait_for("nothing new from the planner for")
    elif hang == "the page's own thread hangs":
        drive.answers.clear()
    else:
        began_s = time.monotonic()
        arm = "[...document.querySelectorAll('button')].find(button => button.innerText.trim() === 'ARM')"
        tab.evaluate(f"for (let i = 0; i < 40; i++) {arm}.click()")  # more than viser has threads
        drive.supervisor.seconds_until("arm", began_s)
    clicked_s = tab.click(button)
    assert drive.supervisor.seconds_until(button.lower(), clicked_s) < CLICK_S
    tab.wait_for(f"{button} sent")
    if drive.answers.is_set():
        tab.wait_for(phase)
    assert [order for order, _ in drive.supervisor.orders].count("arm") <= 1


def test_arm_resume_and_reset_ask_the_supervisor_and_say_what_came_of_it(watched: tuple[FakeDrive, Tab]) -> None:
    drive, tab = watched
    drive.supervisor.armed.set()
    for button, order, phase in (("RESET", "reset", "CALIBRATED"), ("ARM", "arm", "ARMED"), ("RESUME", "arm", "ARMED")):
        clicked_s = tab.click(button)
        drive.supervisor.seconds_until(order, clicked_s)
        tab.wait_for(f"{button} done")
        tab.wait_for(phase)
    drive.supervisor.refuses = DriverError("cannot arm: elbow is <hot>")
    tab.click("ARM")
    tab.wait_for("ARM failed: cannot arm: elbow is <hot>")


def test_an_update_that_fails_is_shown_and_tried_again(watched: tuple[FakeDrive, Tab]) -> None:
    drive, tab = watched
    drive.supervisor.fault = RuntimeError("the controller has no status")
    tab.wait_for("RuntimeError: the controller has no status")
    drive.supervisor.fault = None
    tab.wait_for("RUNNING")


def test_the_page_leaves_the_core_to_others(watched: tuple[FakeDrive, Tab]) -> None:
    supervisor = watched[0].supervisor
    began, began_s, asked = time.process_time(), time.monotonic(), supervisor.asked
    time.sleep(3.0)
    updates = supervisor.asked - asked
    assert 0 < updates / (time.monotonic() - began_s) < UPDATES_HZ
    assert (time.process_time() - began) / updates < UPDATE_S


def test_other_sites_pages_and_tunnels_are_refused(opened: tuple[FakeDrive, Page, Tab], viser: Any) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    _, page, _ = opened
    address, protocol = wire(page), [f"viser-v{viser.__version__}"]
    for origin in ("http://evil.example", "http://127.0.0.1.evil.example", "http://evil.example:8080", "null", None):
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, origin=origin, subprotocols=protocol)
    with connect(address, origin="http://localhost:9", subprotocols=protocol):
        pass
    page._server.viser.request_share_url()
    assert page._server.viser._share_tunnel is None
    assert page._server.viser.get_host() == "127.0.0.1"


@pytest.fixture(scope="module")
def served(viser: Any) -> Iterator[tuple[FakeDrive, Page]]:
    """A drive and its page, which nobody watches."""
    drive = FakeDrive()
    with Page(drive, port=0) as page:
        yield drive, page


@pytest.mark.parametrize("path", ["", "/", "/index.html", "/wrong/", "/%2e%2e/", "/\xe9/", "?{token}", "/{token}x/"])
def test_without_the_token_nothing_is_answered(served: tuple[FakeDrive, Page], viser: Any, path: str) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = urlsplit(served[1].url)
    token = url.path.strip("/")
    assert len(token) >= 12
    with socket.create_connection((url.hostname, url.port), 5) as stranger:
        target = path.format(token=token).encode("latin-1") or b"/"
        stranger.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = stranger.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 403") and token.encode() not in answer
    if path.isascii():
        address, own = f"ws://{url.netloc}{path.format(token=token)}", "http://127.0.0.1:8080"
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, origin=own, subprotocols=[f"viser-v{viser.__version__}"])


def test_each_page_has_a_token_of_its_own(viser: Any) -> None:
    assert Page(FakeDrive())._server._token != Page(FakeDrive())._server._token


@pytest.mark.parametrize("who", ["a stranger", "somebody with the token"])
@pytest.mark.parametrize(
    "what", ["a pickle", "garbage", "1 GB announced", "1 MB sent", "half a message", "deep nesting"]
)
def test_stop_comes_at_once_and_memory_stays_though_there_comes(
    served: tuple[FakeDrive, Page], viser: Any, tmp_path: Path, who: str, what: str
) -> None:
    from websockets.exceptions import ConnectionClosed

    drive, page = served
    url = urlsplit(page.url)
    with contextlib.ExitStack() as stack, hostile.unharmed(tmp_path) as pickled:
        messages = {
            "a pickle": pickled,
            "garbage": hostile.GARBAGE,
            "1 MB sent": bytes(1 << 20),
            "deep nesting": b"\x91" * 60_000,  # of msgpack: a list in a list in a list
        }
        for _ in range(10):
            with contextlib.suppress(ConnectionClosed, OSError):
                if who == "a stranger":
                    stranger = stack.enter_context(socket.create_connection((url.hostname, url.port), 5))
                    head = b"POST / HTTP/1.1\r\nContent-Length: 1073741824\r\n"
                    stranger.sendall(messages.get(what, head + (b"" if what == "half a message" else b"\r\n")))
                else:
                    friend = stack.enter_context(opened_wire(page))
                    if what in messages:
                        friend.send(messages[what])
                    else:
                        size = hostile.GIB if what == "1 GB announced" else 1000
                        friend.socket.sendall(hostile.frame_header(size, masked=True) + bytes(500))
        if who != "a stranger" and what in ("1 GB announced", "1 MB sent"):
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    friend.recv(timeout=10.0)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009, "too big"
        assert press(drive, page, "STOP") < CLICK_S


def wire(page: Page) -> str:
    """Where the page's own script connects to."""
    return page.url.replace("http", "ws").rstrip("/")


def opened_wire(page: Page) -> Any:
    """A connection as the page's own script makes it."""
    import viser
    from websockets.sync.client import connect

    protocol = [f"viser-v{viser.__version__}"]
    return connect(wire(page), origin="http://127.0.0.1", subprotocols=protocol, max_size=None, close_timeout=0.1)


def press(drive: FakeDrive, page: Page, label: str) -> float:
    """Press a button as the page's own script does; returns the seconds until the order came."""
    import msgspec

    server = page._server.viser
    uuid = next(u for u, h in server.gui._gui_input_handle_from_uuid.items() if getattr(h, "label", "") == label)
    camera = {"wxyz": (1, 0, 0, 0), "position": (1, 1, 1), "look_at": (0, 0, 0), "up_direction": (0, 0, 1)}
    camera |= {"fov": 1.0, "near": 0.1, "far": 10.0, "image_height": 9, "image_width": 9}
    with opened_wire(page) as connection:
        before = set(server.get_clients())
        connection.send(msgspec.msgpack.encode({"type": "ViewerCameraMessage", **camera}))
        while not set(server.get_clients()) - before:
            time.sleep(0.005)
        since_s = time.monotonic()
        connection.send(msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": uuid, "updates": {"value": True}}))
        return drive.supervisor.seconds_until(label.lower(), since_s)


def test_a_port_that_is_taken_is_an_error(opened: tuple[FakeDrive, Page, Tab]) -> None:
    drive, page, _ = opened
    port = urlsplit(page.url).port
    with pytest.raises(InvalidInputError, match=f"port {port} is taken"), Page(drive, port=port):
        pass


def test_in_a_dry_run_nobody_can_arm(viser: Any) -> None:
    drive = FakeDrive(dry_run=True)
    with Page(drive, port=0) as page:
        labels = [
            getattr(handle, "label", "") for handle in page._server.viser.gui._gui_input_handle_from_uuid.values()
        ]
    assert labels == ["STOP", "HOLD"]


def test_preview_returns_the_image_that_is_shown_when_capture_is_pressed(
    opened: tuple[FakeDrive, Page, Tab],
) -> None:
    _, _, tab = opened
    first, second = (np.full((8, 8, 3), value, np.uint8) for value in (50, 200))
    newest: list[NDArray[np.uint8] | None] = [None]
    said: queue.Queue[str] = queue.Queue()
    captured: queue.Queue[NDArray[np.uint8]] = queue.Queue()
    show = threading.Thread(target=lambda: captured.put(preview(lambda: newest[0], port=0, tell=said.put)), daemon=True)
    show.start()
    tab.goto(said.get(timeout=30.0).split()[0].rstrip(":"))
    tab.wait_for("waiting for the camera")
    for image in (first, second):
        newest[0] = image
        source = re.findall('base64,([^"]+)', pictures({"camera": image}))[0]
        tab.wait(f"[...document.images].some(image => image.src.endsWith({source!r}))")
    assert captured.empty()
    tab.click("CAPTURE")
    np.testing.assert_array_equal(captured.get(timeout=10.0), second)
    show.join()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.7", "example.org"])
def test_only_the_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(InvalidInputError, match="ssh -L 8080"):
        Page(FakeDrive(), host=host)


def test_without_viser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'latent-mpc\[page\]'"):
        Page(FakeDrive())


def test_an_old_viser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", SimpleNamespace(GuiApi=object, __version__="0.2.23"))
    with pytest.raises(InvalidInputError, match=r"viser 1\.1 or newer, not 0\.2\.23"):
        Page(FakeDrive())


def test_importing_the_module_imports_neither_viser_nor_torch() -> None:
    code = "import sys, latent_mpc.web; print([m for m in ('viser', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_state_says_who_is_silent_and_what_the_planner_complains_of() -> None:
    status, now_s = FakeSupervisor().status(), time.monotonic()
    view = view_of(3, "the camera's frame is <312> ms old")
    assert "silent" not in state(status, view, now_s)
    assert "frame is &lt;312&gt; ms old" in state(status, view, now_s)
    assert "waiting for the planner" in state(status, None, now_s)
    assert "nothing new from the planner for 1.5 s" in state(status, view, float(view["at_s"]) + 1.5 * SILENT_S)
    assert "the controller has been silent for 2.0 s" in state(status, view, float(status.tick["now_s"]) + 2.0)


def test_pictures_are_the_images_bit_for_bit() -> None:
    images = dict(zip(("camera", "goal"), view_of(5)[["image", "goal"]], strict=True))
    text = pictures(images)
    sources = re.findall(r"data:image/png;base64,([^\"]+)", text)
    for source, image in zip(sources, images.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))), image)
    assert "image-rendering:pixelated" in text

"""A camera on the loopback: motion JPEG over HTTP, `multipart/x-mixed-replace`, one part a frame.

Each frame is a plain colour picture with a white bar whose place tells the frame's number, so that a reader's frames
can be told apart. `mode` is what it does next: live, black, stall (socket open, nothing comes) or gone (refuses).
`between` is sent once, as it is, between two frames.
"""

from __future__ import annotations

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

WIDTH, HEIGHT, BARS = 64, 48, 16
RED = (200, 40, 20)


def picture(number: int) -> np.ndarray:
    """Frame `number`, uint8 (HEIGHT, WIDTH, 3) RGB: red, with a white bar at column number mod BARS of BARS."""
    image = np.full((HEIGHT, WIDTH, 3), RED, np.uint8)
    left = (number % BARS) * WIDTH // BARS
    image[:, left : left + WIDTH // BARS] = 255
    return image


def number_of(image: np.ndarray) -> int:
    """The number of a frame modulo BARS, read off its picture."""
    green = image[..., 1].reshape(HEIGHT, BARS, -1).mean((0, 2))
    return int(green.argmax())


class FakeMJPEG:
    """The server, in threads; a context manager. `sent` is the number of the last frame sent, -1 before the first."""

    def __init__(self, fps: float = 30.0) -> None:
        self.mode, self.sent, self.between = "live", -1, b""
        self._period_s, self._stop = 1 / fps, threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # closing waits for them: no thread is left behind
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/stream.mjpg"

    def __enter__(self) -> FakeMJPEG:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        if self.mode == "gone":
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        due = time.monotonic()
        try:
            while not self._stop.is_set() and self.mode != "gone":
                if self.between:
                    data, self.between = self.between, b""
                    request.wfile.write(data)
                if self.mode != "stall":
                    image = picture(self.sent + 1) if self.mode == "live" else np.zeros((HEIGHT, WIDTH, 3), np.uint8)
                    jpeg = io.BytesIO()
                    Image.fromarray(image).save(jpeg, "JPEG", quality=95, subsampling=0)
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {jpeg.tell()}\r\n\r\n".encode()
                    request.wfile.write(head + jpeg.getvalue() + b"\r\n")
                    self.sent += 1
                due += self._period_s
                self._stop.wait(max(due - time.monotonic(), 0))
        except OSError:  # the reader hung up
            pass

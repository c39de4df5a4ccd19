"""A Robotiq gripper at the wrist of a UR, by the text protocol that its URCap serves on the controller: port 63352.

    SET POS n -> ack      GET POS -> POS n      GET STA -> STA 3 once it is activated      n = 255 (1 - opening)

A thread of its own asks, so that no tick of the arm waits for an answer. Nothing here activates the gripper, for that
moves its fingers, and nothing lets go of what it holds: without torque on the arm it goes on holding.
"""

from __future__ import annotations

import socket
import threading

from latent_mpc.robots.robot import DriverError

PORT = 63352
ACTIVE, CLOSED = 3, 255  # of STA, of POS
PERIOD_S = 0.02
LINE = 64  # bytes of an answer


class Robotiq:
    """See the module. One connection; whoever moves it last wins."""

    def __init__(self, host: str, timeout_s: float = 1.0) -> None:
        self._host, self._timeout_s = host, timeout_s
        self._wanted: int | None = None  # POS to set, until it is set
        self._position = 0
        self._complaint = ""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Open the connection and check that the gripper is activated; nothing moves. Raises DriverError."""
        try:
            self._socket = socket.create_connection((self._host, PORT), self._timeout_s)
        except OSError as error:
            raise DriverError(f"{self} does not answer: {error}; is its URCap installed?") from error
        self._answers = self._socket.makefile("rb")
        self._wanted, self._complaint = None, ""
        self._closing.clear()
        try:
            if (state := self._get("STA")) != ACTIVE:
                raise DriverError(f"{self} is not activated, STA {state}; activate it at the pendant")
            self._position = self._get("POS")
        except (OSError, ValueError) as error:
            self._release()
            raise DriverError(f"{self} answers nonsense: {error}") from error
        except DriverError:
            self._release()
            raise
        self._thread = threading.Thread(target=self._work, name="robotiq", daemon=True)
        self._thread.start()

    @property
    def opening(self) -> float:
        """As last read, 0 to 1. Raises DriverError once the gripper has failed."""
        if self._complaint:
            raise DriverError(self._complaint)
        return 1 - self._position / CLOSED

    def move(self, opening: float) -> None:
        """Go there, from 0 (closed) to 1 (open); returns at once."""
        self._wanted = round(CLOSED * (1 - min(max(opening, 0.0), 1.0)))

    def close(self) -> None:
        """Release the connection; the fingers stay as they are. Never raises, may be called twice."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2 * self._timeout_s)
            self._thread = None
            self._release()

    def __str__(self) -> str:
        return f"Robotiq gripper at {self._host}:{PORT}"

    def _work(self) -> None:
        sent: int | None = None
        try:
            while not self._closing.wait(PERIOD_S):
                if (wanted := self._wanted) is not None and wanted != sent:
                    if (answer := self._ask(f"SET POS {wanted}")) != "ack":
                        raise ValueError(f"SET POS answered by {answer!r}")
                    sent = wanted
                self._position = self._get("POS")
        except (OSError, ValueError) as error:
            self._complaint = f"{self} failed: {error}"

    def _get(self, name: str) -> int:
        """A variable, 0 to 255. Raises ValueError, OSError."""
        answer = self._ask(f"GET {name}")
        key, _, value = answer.partition(" ")
        if key != name or not value.isdecimal() or int(value) > CLOSED:
            raise ValueError(f"GET {name} answered by {answer!r}")
        return int(value)

    def _ask(self, command: str) -> str:
        self._socket.sendall(f"{command}\n".encode())
        if not (line := self._answers.readline(LINE)).endswith(b"\n"):
            raise ValueError(f"{command} answered by {line!r}")
        return line.decode(errors="replace").strip()

    def _release(self) -> None:
        self._answers.close()
        self._socket.close()

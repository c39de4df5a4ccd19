"""Does anybody speak RTDE at a UR controller's port 30004? Asked by a plain socket, before ur_rtde connects.

    version request  00 05 'V' 00 02  ->  00 04 'V' 01  granted

ur_rtde waits for ever on an answer that does not come, and holds every thread of Python meanwhile; of bytes that are no
RTDE it may even die. So nobody hands it a port that has not answered rightly just before.
"""

from __future__ import annotations

import socket
import struct
import time

PORT = 30004
REQUEST, GRANTED = struct.pack(">HBH", 5, ord("V"), 2), struct.pack(">HBB", 4, ord("V"), 1)


def speaks_rtde(host: str, timeout_s: float) -> bool:
    """Whether it grants version 2 within `timeout_s`. Raises OSError if there is no connection."""
    end, heard = time.monotonic() + timeout_s, b""
    with socket.create_connection((host, PORT), timeout_s) as connection:
        connection.sendall(REQUEST)
        while len(heard) < len(GRANTED):
            connection.settimeout(max(end - time.monotonic(), 1e-3))
            try:
                more = connection.recv(len(GRANTED) - len(heard))
            except TimeoutError:
                return False
            if not more:
                return False
            heard += more
    return heard == GRANTED

"""The dashboard server of a UR controller: one command a line, one answer a line, port 29999.

It is a path of its own: it answers while a program runs or hangs, and to any process. On the e-Series it moves power
and programs only while the arm is in remote control.
"""

from __future__ import annotations

import socket
import time

PORT = 29999
MAX_LINE = 4096  # bytes of an answer
POWERING = {"POWER_OFF": "power on", "IDLE": "brake release"}  # by the mode in which the arm is
GRANTED = ("Powering on", "Brake releasing", "Powering off")


def ask(host: str, *commands: str, timeout_s: float) -> list[str]:
    """The answers to some commands, each within `timeout_s`. Raises OSError, or TimeoutError, which is one."""
    with socket.create_connection((host, PORT), timeout_s) as connection:
        _line(connection, timeout_s)  # a greeting
        answers = []
        for command in commands:
            connection.sendall(f"{command}\n".encode())
            answers.append(_line(connection, timeout_s))
    return answers


def _line(connection: socket.socket, timeout_s: float) -> str:
    """The next line, whatever it is made of; as there is one answer a command, nothing comes after it."""
    end, heard = time.monotonic() + timeout_s, b""
    while not heard.endswith(b"\n"):
        connection.settimeout(max(end - time.monotonic(), 1e-3))
        if not (more := connection.recv(MAX_LINE)):
            raise ConnectionError("the dashboard server hung up")
        heard += more
        if len(heard) > MAX_LINE:
            raise ConnectionError(f"the dashboard server says more than {MAX_LINE} bytes in one line")
    return heard.decode(errors="replace").strip()


def model(host: str, timeout_s: float) -> str:
    """As a spec is called, "ur5e" or "ur10"; empty when the controller does not say."""
    name, software = ask(host, "get robot model", "PolyscopeVersion", timeout_s=timeout_s)
    generation = "" if software.startswith(("URSoftware 3", "URSoftware 1")) else "e"
    return name.lower().removesuffix("e") + generation if name.startswith("UR") else ""


def power_on(host: str, timeout_s: float, power_timeout_s: float) -> str:
    """Wait until the brakes are released, asking for what is needed; returns what is in the way, empty when done."""
    end, asked = time.monotonic() + power_timeout_s, ""
    while (mode := ask(host, "robotmode", timeout_s=timeout_s)[0].removeprefix("Robotmode: ")) != "RUNNING":
        if time.monotonic() > end:
            return f"stays in mode {mode}; power it on at the pendant"
        command = POWERING.get(mode, "")
        if command and command != asked:
            answer, asked = ask(host, command, timeout_s=timeout_s)[0], command
            if not answer.startswith(GRANTED):
                return f"refused to {command}: {answer}"
        time.sleep(0.1)
    return ""


def power_off(host: str, timeout_s: float) -> str:
    """Ask for power off, at which the brakes engage; returns what is in the way, empty when granted."""
    answer = ask(host, "power off", timeout_s=timeout_s)[0]
    return "" if answer.startswith(GRANTED) else f"did not power off: {answer}"


def end_program(host: str, timeout_s: float) -> str:
    """Stop whatever program runs; returns what is in the way, empty when none runs any more."""
    answer = ask(host, "stop", "running", timeout_s=timeout_s)[1]
    return "" if answer == "Program running: false" else f"still runs its program: {answer}"

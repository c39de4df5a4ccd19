"""A Universal Robots controller on a loopback address: dashboard 29999, script 30003, RTDE version 2 on 30004, and the
text protocol of a Robotiq gripper on 63352.

    servoj:  q' = clip((q_target - q) / lookahead, ±v_max),  |q''| <= a_max        stop:  |q''| = rate until q' = 0

It is a process of its own. The uploaded control script is not interpreted: the fake acts as ur_rtde 1.6.5's script
does, which reads a command from input register 0 and its arguments from the input double registers, and answers
in output register 0 with 1 (ready) or 2 (done). Faults are asked for on standard input, a JSON line each.
"""

from __future__ import annotations

import json
import math
import selectors
import socket
import struct
import subprocess
import sys
import time
from typing import Any

DT_S = 0.002
MAX_VELOCITY, MAX_ACCELERATION = 3.2, 40.0  # rad/s, rad/s²
GRIPPER_SPEED = 510.0  # of POS, a second
ROBOTIQ = 63352
PLAYING, STOPPED = 2, 1  # RTDE's runtime_state
POWER_OFF, IDLE, RUNNING = 3, 5, 7  # RTDE's robot_mode
NORMAL, PROTECTIVE_STOP = 1, 3  # RTDE's safety_mode
SERVO_J, SERVO_STOP, STOP_J, SET_WATCHDOG, STOP_SCRIPT = 11, 16, 34, 35, 255
REALTIME = (6, 9, 10, SERVO_J, 24, 25, 26, 27, 38)
FORMATS = {"DOUBLE": "d", "INT32": "i", "UINT32": "I", "UINT64": "Q", "VECTOR6D": "6d"}
TYPES = {
    **dict.fromkeys(("robot_mode", "safety_mode"), "INT32"),
    **dict.fromkeys(("robot_status_bits", "safety_status_bits", "runtime_state"), "UINT32"),
    **dict.fromkeys(("timestamp", "speed_scaling"), "DOUBLE"),
    **dict.fromkeys(("actual_digital_input_bits", "actual_digital_output_bits"), "UINT64"),
}


def rtde_type(name: str) -> str:
    if "register" in name:
        return "INT32" if "int_register" in name else "DOUBLE"
    return TYPES.get(name, "VECTOR6D")


class Arm:
    """Six joints, the program that moves them, and what the tests ask afterwards."""

    def __init__(self, q: list[float]) -> None:
        self.q, self.qd, self.target = list(q), [0.0] * 6, list(q)
        self.lookahead_s, self.rate = 0.1, MAX_ACCELERATION
        self.mode, self.safety, self.runtime, self.servoing = RUNNING, NORMAL, STOPPED, False
        self.registers: dict[str, float] = {}
        self.done, self.executing, self.updated_s, self.watchdog_s = 0, False, 0.0, math.inf
        self.gripper, self.gripper_goal, self.gripper_state = 0.0, 0, 3  # POS, and STA of an activated one
        self.writes, self.violations, self.max_jump, self.watchdog_stops, self.programs = 0, [], 0.0, 0, 0

    def argument(self, index: int) -> float:
        return self.registers.get(f"input_double_register_{index}", 0.0)

    def start_program(self, name: str) -> None:
        self.halt(MAX_ACCELERATION / 2)
        if name == "rtde_control" and self.mode == RUNNING and self.safety == NORMAL:
            self.runtime, self.done, self.executing, self.watchdog_s = PLAYING, 1, False, math.inf
            self.programs += 1

    def halt(self, rate: float) -> None:
        """Stop the program; the arm brakes at `rate` and is held."""
        self.runtime, self.servoing, self.rate, self.watchdog_s = STOPPED, False, rate, math.inf

    def protective_stop(self) -> None:
        self.safety = PROTECTIVE_STOP
        self.halt(MAX_ACCELERATION)

    def command(self) -> None:
        """One pass of the control script's main loop."""
        command = int(self.registers.get("input_int_register_0", 0))
        if command == 0:
            self.executing, self.done = False, 1
        elif command in REALTIME or not self.executing:
            self.obey(command)
            self.done = 1 if command in REALTIME else 2
            self.executing = command not in REALTIME

    def obey(self, command: int) -> None:
        if command == SERVO_J:
            self.target, self.lookahead_s = [self.argument(i) for i in range(6)], max(0.03, self.argument(9))
            self.servoing = True
        elif command == SERVO_STOP or command == STOP_J:
            self.servoing, self.rate = False, max(0.1, self.argument(0))
        elif command == SET_WATCHDOG:
            self.watchdog_s = 1 / self.argument(0)
        elif command == STOP_SCRIPT:
            self.halt(MAX_ACCELERATION / 2)

    def received(self, values: dict[str, float]) -> None:
        """A data package; the invariants of what may ever be sent are checked here."""
        self.registers.update(values)
        self.updated_s = time.monotonic()
        if values.get("input_int_register_0") == SERVO_J:
            q = [self.argument(i) for i in range(6)]
            self.writes += 1
            if not all(map(math.isfinite, q)) or max(map(abs, q)) > 2 * math.pi:
                self.violations.append(f"setpoint {q}")
            if self.servoing:
                self.max_jump = max(self.max_jump, *(abs(a - b) for a, b in zip(q, self.target, strict=True)))

    def step(self) -> None:
        if self.runtime == PLAYING:
            if time.monotonic() - self.updated_s > self.watchdog_s:
                self.watchdog_stops += 1
                self.halt(MAX_ACCELERATION / 2)
            else:
                self.command()
        step = GRIPPER_SPEED * DT_S
        self.gripper += min(max(self.gripper_goal - self.gripper, -step), step)
        for i in range(6):
            wish, limit = 0.0, self.rate
            if self.servoing:
                limit = MAX_ACCELERATION
                wish = min(max((self.target[i] - self.q[i]) / self.lookahead_s, -MAX_VELOCITY), MAX_VELOCITY)
            self.qd[i] += min(max(wish - self.qd[i], -limit * DT_S), limit * DT_S)
            self.q[i] += self.qd[i] * DT_S

    def robotiq(self, line: str) -> str:
        if line.startswith("SET POS "):
            self.gripper_goal = int(line.removeprefix("SET POS "))
            return "ack"
        return {"GET POS": f"POS {round(self.gripper)}", "GET STA": f"STA {self.gripper_state}"}.get(line, "?")

    def output(self, name: str) -> tuple[float, ...]:
        """The value of an RTDE output variable."""
        playing = self.runtime == PLAYING
        status = (self.mode != POWER_OFF) + 2 * playing
        safety = 1 if self.safety == NORMAL else 4  # bit 0 normal, bit 2 protective stop
        known: dict[str, tuple[float, ...]] = {
            "timestamp": (time.monotonic(),),
            "actual_q": tuple(self.q),
            "actual_qd": tuple(self.qd),
            "joint_temperatures": (31.0,) * 6,
            "actual_current_as_torque": (1.5,) * 6,
            "robot_mode": (self.mode,),
            "safety_mode": (self.safety,),
            "robot_status_bits": (status,),
            "safety_status_bits": (safety,),
            "runtime_state": (self.runtime,),
            "output_int_register_0": (self.done if playing else 0,),
        }
        return known.get(name, (0,) * (6 if rtde_type(name) == "VECTOR6D" else 1))

    def dashboard(self, line: str, remote: bool) -> str:
        moves = line in ("stop", "power on", "power off", "brake release")
        if moves and not remote:
            return "Command is not allowed due to safety reasons. The robot is in local control."
        if line == "stop":
            self.halt(MAX_ACCELERATION / 2)
        elif line == "power off":
            self.mode = POWER_OFF
            self.halt(MAX_ACCELERATION)
        elif line == "power on" and self.mode == POWER_OFF:
            self.mode = IDLE
        elif line == "brake release":
            self.mode = RUNNING
        answers = {
            "PolyscopeVersion": "URSoftware 5.12.0.1101319 (Mar 22 2022)",
            "get serial number": "20225500001",
            "get robot model": "UR5",
            "is in remote control": str(remote).lower(),
            "robotmode": f"Robotmode: {({3: 'POWER_OFF', 5: 'IDLE', 7: 'RUNNING'})[self.mode]}",
            "safetystatus": f"Safetystatus: {'NORMAL' if self.safety == NORMAL else 'PROTECTIVE_STOP'}",
            "stop": "Stopped",
            "running": f"Program running: {str(self.runtime == PLAYING).lower()}",
            "power on": "Powering on",
            "power off": "Powering off",
            "brake release": "Brake releasing",
        }
        return answers.get(line, "OK")


class Peer:
    """One connection."""

    def __init__(self, sock: socket.socket, port: int) -> None:
        self.sock, self.port, self.buffer = sock, port, b""
        self.inputs: list[list[str]] = []
        self.outputs: list[str] = []
        self.streaming, self.every, self.count = False, 1, 0


class Server:
    """All sockets and the arm in one thread, a tick each 2 ms."""

    def __init__(self, host: str, q: list[float]) -> None:
        self.arm, self.frozen, self.remote = Arm(q), False, True
        self.selector, self.peers = selectors.DefaultSelector(), set[Peer]()
        for port in (29999, 30003, 30004, ROBOTIQ):
            self.selector.register(socket.create_server((host, port), backlog=16), selectors.EVENT_READ, port)
        self.selector.register(sys.stdin.buffer.raw, selectors.EVENT_READ, "ask")  # type: ignore[attr-defined]

    def run(self) -> None:
        due = time.monotonic()
        while True:
            for key, _ in self.selector.select(max(0.0, due - time.monotonic())):
                if isinstance(key.data, Peer):
                    self.receive(key.data)
                elif key.data == "ask":
                    line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
                    if not line:
                        return
                    sys.stdout.write(json.dumps(self.answer(json.loads(line))) + "\n")
                    sys.stdout.flush()
                else:
                    self.accept(key.fileobj, key.data)  # type: ignore[arg-type]
            while (now := time.monotonic()) >= due:
                self.arm.step()
                due += DT_S
                if now - due > 0.5:  # stopped for a while, as a hung controller: not to be made up for
                    due = now
            self.stream()

    def answer(self, ask: dict[str, Any]) -> dict[str, Any]:
        arm, do = self.arm, ask["do"]
        if do == "freeze":
            self.frozen = ask["on"]
        elif do == "protective_stop":
            arm.protective_stop()
        elif do == "unlock":
            arm.safety = NORMAL
        elif do == "remote":
            self.remote = ask["on"]
        elif do == "gripper_state":
            arm.gripper_state = ask["value"]
        elif do == "drop":
            for peer in list(self.peers):
                self.close(peer)
        names = "q qd target mode safety runtime servoing writes violations max_jump watchdog_stops programs gripper"
        return {name: getattr(arm, name) for name in names.split()}

    def accept(self, listener: socket.socket, port: int) -> None:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        peer = Peer(sock, port)
        self.peers.add(peer)
        self.selector.register(sock, selectors.EVENT_READ, peer)
        if port == 29999:
            self.send(peer, b"Connected: Universal Robots Dashboard Server\n")

    def close(self, peer: Peer) -> None:
        if peer in self.peers:
            self.peers.remove(peer)
            self.selector.unregister(peer.sock)
            peer.sock.close()

    def send(self, peer: Peer, data: bytes) -> None:
        try:
            peer.sock.sendall(data)
        except BlockingIOError:
            pass  # a slow reader misses a package
        except OSError:
            self.close(peer)

    def receive(self, peer: Peer) -> None:
        try:
            data = peer.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            return self.close(peer)
        peer.buffer += data
        if peer.port in (29999, ROBOTIQ):
            while b"\n" in peer.buffer:
                line, peer.buffer = peer.buffer.split(b"\n", 1)
                asked = line.decode().strip()
                answer = self.arm.robotiq(asked) if peer.port == ROBOTIQ else self.arm.dashboard(asked, self.remote)
                self.send(peer, answer.encode() + b"\n")
        elif peer.port == 30003:
            while b"\nend\n" in peer.buffer:
                program, peer.buffer = peer.buffer.split(b"\nend\n", 1)
                if self.remote:
                    self.arm.start_program(program.split(b"def ", 1)[-1].split(b"(", 1)[0].decode())
        else:
            while len(peer.buffer) >= 3 and len(peer.buffer) >= (size := struct.unpack(">H", peer.buffer[:2])[0]):
                kind, payload, peer.buffer = chr(peer.buffer[2]), peer.buffer[3:size], peer.buffer[size:]
                self.rtde(peer, kind, payload)

    def rtde(self, peer: Peer, kind: str, payload: bytes) -> None:
        def reply(body: bytes) -> None:
            self.send(peer, struct.pack(">HB", 3 + len(body), ord(kind)) + body)

        if kind == "V":
            reply(b"\1" if payload == b"\0\2" else b"\0")
        elif kind == "v":
            reply(struct.pack(">4I", 5, 12, 0, 1))
        elif kind == "O":
            peer.outputs = [name for name in payload[8:].decode().split(",") if name]
            peer.every = max(1, round(1 / struct.unpack(">d", payload[:8])[0] / DT_S))
            reply(b"\1" + ",".join(map(rtde_type, peer.outputs)).encode())
        elif kind == "I":
            peer.inputs.append([name for name in payload.decode().split(",") if name])
            reply(bytes([len(peer.inputs)]) + ",".join(map(rtde_type, peer.inputs[-1])).encode())
        elif kind in "SP":
            peer.streaming = kind == "S"
            reply(b"\1")
        elif kind == "U":
            names = peer.inputs[payload[0] - 1]
            values = struct.unpack(">" + "".join(FORMATS[rtde_type(name)] for name in names), payload[1:])
            self.arm.received(dict(zip(names, values, strict=True)))

    def stream(self) -> None:
        for peer in [p for p in self.peers if p.streaming and not self.frozen]:
            peer.count += 1
            if peer.count % peer.every == 0:
                layout = ">" + "".join(FORMATS[rtde_type(name)] for name in peer.outputs)
                values = [value for name in peer.outputs for value in self.arm.output(name)]
                body = b"\1" + struct.pack(layout, *values)
                self.send(peer, struct.pack(">HB", 3 + len(body), ord("U")) + body)


class FakeUR:
    """The controller's process, seen from a test: `with FakeUR() as ur: URDriver(ur.host)`.

    Its ports are fixed in ur_rtde, so that every fake has a loopback address of its own.
    """

    def __init__(self, host: str = "127.0.0.5", q: tuple[float, ...] = (0.0, -1.5, 1.5, -1.5, -1.5, 0.0)) -> None:
        self.host, self._q = host, q

    def __enter__(self) -> FakeUR:
        command = [sys.executable, __file__, self.host, json.dumps(self._q)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("status")
        return self

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Freeze, protective_stop, unlock, remote, gripper_state, drop, or nothing; returns the arm's truth."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    Server(sys.argv[1], json.loads(sys.argv[2])).run()

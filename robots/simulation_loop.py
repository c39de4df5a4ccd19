"""The simulated robot between its slots: physics in real time, states and camera frames out, setpoints in.

physics step k is due at t_0 + k Δt; whatever is overdue is made up for at once, so that no delay adds up
frame i shows the world at capture time c_i and can be read from max(c_i + L_i, that of frame i − 1), L_i random
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from latent_mpc.robots.simulation_link import Slots
from latent_mpc.robots.world import FRAME_FAULTS, Faults, World

FLASH = 100  # levels by which a flash makes the image brighter


class Loop:
    """The world between its slots, on a clock that is handed in: `tick` does whatever is due."""

    def __init__(self, world: World, slots: Slots, now: float) -> None:
        self.world, self._slots = world, slots
        self._origin, self._steps, self._dt = now, 0, float(world.model.opt.timestep)
        self._arming, self._command, self._heard_s, self._silent = 0, 0, now, True
        self._controls, self._placing, self._fault = 0, 0, ""
        self._silences, self._late_s, self._flash_s = 0, 0.0, math.nan
        camera = world.config.camera
        self._frames, self._frame_s = 0, math.inf if camera is None else now
        self._rng = np.random.default_rng(camera.seed if camera else 0)
        self._queue: deque[tuple[float, np.ndarray]] = deque()
        self._image: np.ndarray | None = None
        self._publish(now)

    def tick(self, now: float) -> float:
        """Obey, catch up with the clock, send; when to be called again, on the same clock."""
        self._obey(now)
        if (overdue := now - self._due_s) >= 0:
            self._late_s = max(self._late_s, overdue)
            while self._due_s <= now:
                self.world.step()
                self._steps += 1
            self._publish(now)
        return min(self._due_s, self._film(now))

    @property
    def _due_s(self) -> float:
        return self._origin + (self._steps + 1) * self._dt

    # ---- in ----

    def _obey(self, now: float) -> None:
        world, slots = self.world, self._slots
        if (control := slots.control.read()) and control[1] != self._controls:
            self._controls = control[1]
            self._change(control[0])
        cut, cut_s = read[0].item() if (read := slots.cut.read()) else (0, 0.0)
        if cut >= self._arming and world.powered:
            world.power(False)
        if now - self._heard_s > world.config.watchdog_s and not self._silent and world.powered:
            self._silent = True
            self._silences += 1
        if (read := slots.command.read()) is None or int(read[0]["sequence"]) == self._command:
            return
        command = read[0]
        self._command, self._heard_s, self._silent = int(command["sequence"]), now, False
        arming = int(command["arming"])
        if arming > max(self._arming, cut):
            if not world.faults.protective_stop:
                self._arming, self._fault = arming, ""
                world.power(True)
                world.sequence = self._command
        elif arming != self._arming or not world.powered:
            world.check.counts.unarmed += bool(command["sent_s"] >= cut_s)
        elif command["stop"]:
            world.brake()
            world.sequence = self._command
        elif not self._fault:
            world.move(self._command, command["q_rad"], float(command["gripper"]), float(command["motion_s"]))

    def _change(self, control: np.ndarray) -> None:
        joint = int(control["blocked"])
        faults = Faults(
            frozen=bool(control["frozen"]),
            nan=bool(control["nan"]),
            blocked=self.world.spec.joint_names[joint] if joint >= 0 else "",
            protective_stop=bool(control["protective_stop"]),
            frame=FRAME_FAULTS[int(control["frame"])],
            flash=bool(control["flash"]),
        )
        if faults.protective_stop and not self._fault:
            self._fault = "protective stop: clear it, then arm again"
            self.world.brake()
        elif not faults.protective_stop and self._fault:
            self._fault = ""
            self.world.power(False)
        if not faults.flash:
            self._flash_s = math.nan
        self.world.break_down(faults)
        if int(control["placing"]) != self._placing:
            self._placing = int(control["placing"])
            self.world.place(control["qpos"])

    # ---- out ----

    def _publish(self, now: float) -> None:
        world, data = self.world, self.world.data
        truth = np.zeros((), self._slots.truth.dtype)
        truth["time_s"], truth["sent_s"], truth["late_s"], truth["flash_s"] = (
            data.time,
            now,
            self._late_s,
            self._flash_s,
        )
        truth["qpos"], truth["qvel"], truth["placing"], truth["silences"] = (
            data.qpos,
            data.qvel,
            self._placing,
            self._silences,
        )
        for name, count in vars(world.check.counts).items():
            truth[name] = count
        self._slots.truth.write(truth)
        if world.faults.frozen:
            return
        state = np.zeros((), self._slots.state.dtype)
        state["sequence"], state["time_s"], state["sent_s"] = self._steps + 1, data.time, now
        state["q_rad"], state["qd_rad_s"], state["torque_nm"] = world.q_rad, world.qd_rad_s, world.torque_nm
        if world.faults.nan:
            state["q_rad"] = math.nan
        state["gripper"], state["fault"] = world.gripper, self._fault.encode()
        state["armed"] = world.powered and not self._fault
        state["arming"], state["command"] = self._arming, self._command
        self._slots.state.write(state)

    def _film(self, now: float) -> float:
        """Take the frame that is due, deliver those whose latency is over; when there is more to do."""
        if (camera := self.world.config.camera) is None:
            return math.inf
        if now >= self._frame_s:
            latency = self._rng.uniform(*camera.latency_s)
            earliest = self._queue[-1][0] if self._queue else 0.0
            self._queue.append((max(now + latency, earliest), self._capture(now)))
            self._frame_s += math.ceil((now - self._frame_s) * camera.frame_hz + 1e-9) / camera.frame_hz
        while self._queue and self._queue[0][0] <= now:
            record = self._queue.popleft()[1]
            if self.world.faults.frame != "stalled":
                record["sent_s"] = now
                self._slots.frame.write(record)
        return min(self._frame_s, self._queue[0][0] if self._queue else math.inf)

    def _capture(self, now: float) -> np.ndarray:
        world, fault = self.world, self.world.faults.frame
        image = world.render()
        if world.faults.flash:
            image = np.minimum(image, 255 - FLASH) + np.uint8(FLASH)
            self._flash_s = now if math.isnan(self._flash_s) else self._flash_s
        if fault == "black":
            image = np.zeros_like(image)
        elif fault == "swapped":
            image = image[..., ::-1]
        elif fault == "repeated" and self._image is not None:
            image = self._image
        self._image, self._frames = image, self._frames + 1
        frame = np.zeros((), self._slots.frame.dtype)
        frame["sequence"], frame["captured_s"], frame["motion_s"] = self._frames, now, world.motion_s
        frame["q_rad"], frame["gripper"], frame["image"] = world.q_rad, world.gripper, image
        frame["height"], frame["width"] = image.shape[0], image.shape[1] // (2 if fault == "wrong size" else 1)
        return frame

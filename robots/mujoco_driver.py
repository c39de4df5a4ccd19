"""The driver of the simulated robot: setpoints and states through the slots of a simulation in its own process.

Arming is numbered. A setpoint counts only under the arming that is in force, and `disarm` cuts off every number up to
that one by a slot of its own, so that it works from any process, also beside a controller that hangs or is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.simulation_link import Link, Slots
from latent_mpc.robots.world import SimulationConfig
from latent_mpc.types import InvalidInputError, LatentMPCError

ANSWER_S = 0.5  # a simulation that takes longer to obey is taken for dead


class MujocoDriver:
    """A simulated arm: started by `connect` and ended by `close`, or somebody else's that is attached to.

    Attributes:
        simulation: the one that was started, for its faults and its ground truth; None when attached or closed.
    """

    def __init__(self, source: SimulationConfig | Link) -> None:
        """
        Args:
            source: what to start, or the `link` of a running `Simulation`.
        """
        self._source = source
        config = source.config if isinstance(source, Link) else source
        self.spec: RobotSpec = config.spec
        self.capabilities = Capabilities(hardware_clock=True, torque=True, watchdog=True)
        self.simulation: Simulation | None = None
        self._slots: Slots | None = None
        self._arming = 0

    def connect(self) -> None:
        """Start or attach; see Driver.connect. Raises DriverError, also when it is connected already."""
        if self._slots is not None:
            raise DriverError(f"{self._name} is connected already; close it first")
        try:
            if isinstance(self._source, SimulationConfig):
                self.simulation = Simulation(self._source)
                link = self.simulation.link
            else:
                link = self._source
            self._slots = Slots(link)
            self._command = np.zeros((), link.dtypes["command"])
            if last := self._slots.command.read():
                self._command["sequence"] = last[0]["sequence"]
            self._wait(lambda state: True, "sends no state")
        except BaseException as error:
            self.close()
            if isinstance(error, LatentMPCError) and not isinstance(error, DriverError):
                raise DriverError(f"{self._name}: {error}") from error
            raise

    def arm(self) -> None:
        """Torque on, holding the measured position. Raises DriverError, with the fault if there is one."""
        slots = self._connected()
        state = self._record()
        cut = int(last[0]["arming"]) if (last := slots.cut.read()) else 0
        arming = max(int(state["arming"]), cut) + 1
        self._send(arming=arming, stop=False, q_rad=state["q_rad"], gripper=state["gripper"])
        self._wait(lambda state: bool(state["armed"]) and state["arming"] == arming, "does not arm")
        self._arming = arming

    def read(self) -> RobotState:
        """The newest state; receipt is when the simulation sent it. Raises DriverError."""
        r = self._record()
        return RobotState(
            q_rad=r["q_rad"].copy(),
            qd_rad_s=r["qd_rad_s"].copy(),
            gripper=float(r["gripper"]),
            hardware_time_s=float(r["time_s"]),
            receipt_time_s=float(r["sent_s"]),
            sequence=int(r["sequence"]),
            fault=bytes(r["fault"]).decode(),
            torque_nm=r["torque_nm"].copy(),
        )

    def write(self, setpoint: Setpoint) -> Setpoint:
        """Send a setpoint, clamped to the joints' range; see Driver.write.

        Raises:
            InvalidInputError: wrong shape, NaN or inf; nothing was sent. DriverError: not armed.
        """
        self._connected()
        if not self._arming:
            raise DriverError(f"{self._name} is not armed; call arm() before write()")
        q_rad = np.asarray(setpoint.q_rad)
        if q_rad.shape != (self.spec.num_joints,) or q_rad.dtype.kind not in "fiu" or not np.isfinite(q_rad).all():
            raise InvalidInputError(f"q_rad must be {self.spec.num_joints} finite numbers, got {setpoint.q_rad!r}")
        if not np.isfinite([setpoint.gripper, setpoint.motion_s]).all():
            raise InvalidInputError(f"gripper and motion_s must be finite, got {setpoint}")
        q_rad = np.clip(q_rad.astype(float), self.spec.q_low_rad, self.spec.q_high_rad)
        sent = replace(setpoint, q_rad=q_rad, gripper=float(np.clip(setpoint.gripper, 0, 1)))
        self._send(arming=self._arming, stop=False, q_rad=q_rad, gripper=sent.gripper, motion_s=sent.motion_s)
        return sent

    def stop(self) -> None:
        """Decelerate every joint as fast as its limit allows, and hold. Raises DriverError."""
        self._connected()
        if self._arming:
            self._send(arming=self._arming, stop=True)

    def disarm(self) -> tuple[str, ...]:
        """Take the torque off whoever armed; never raises. Returns what failed, each naming its joint."""
        self._arming = 0
        try:
            slots = self._connected()
            arming = max(int(slot[0]["arming"]) for slot in (slots.state.read(), slots.command.read()) if slot)
            slots.cut.write(np.array((arming, time.monotonic()), slots.cut.dtype))
            self._wait(lambda state: not state["armed"], "does not disarm")
        except Exception as error:  # whatever it is, the caller has to go on to the next device
            return tuple(f"{joint}: {error}" for joint in self.spec.joint_names)
        return ()

    def close(self) -> None:
        """Detach; end the simulation that `connect` started. Never raises, may be called twice."""
        self._arming = 0
        if self._slots is not None:
            self._slots.close()
            self._slots = None
        if self.simulation is not None:
            self.simulation.close()
            self.simulation = None

    # ---- parts ----

    @property
    def _name(self) -> str:
        return f"simulated {self.spec.name}"

    def _connected(self) -> Slots:
        if self._slots is None:
            raise DriverError(f"{self._name} is not connected; call connect() first")
        return self._slots

    def _record(self) -> np.ndarray:
        if (read := self._connected().state.read()) is None:
            raise DriverError(f"{self._name} sends no state")
        return read[0]

    def _send(self, **fields: float | Array) -> None:
        for name, value in fields.items():
            self._command[name] = value
        self._command["sequence"] += 1
        self._command["sent_s"] = time.monotonic()
        self._connected().command.write(self._command)

    def _wait(self, reached: Callable[[np.ndarray], bool], complaint: str) -> None:
        """Until a state newer than this call is as it should be. Raises DriverError after ANSWER_S."""
        begin = time.monotonic()
        state = None
        while time.monotonic() < begin + ANSWER_S:
            read = self._connected().state.read()
            if read is not None:
                state = read[0]
                if state["sent_s"] >= begin and reached(state):
                    return
            time.sleep(0.001)
        fault = bytes(state["fault"]).decode() if state is not None else ""
        raise DriverError(f"{self._name} {complaint} within {ANSWER_S} s" + (f"; it says: {fault}" if fault else ""))

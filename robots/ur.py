"""Universal Robots, CB3 and e-Series, by ur_rtde: servoJ at the control rate, the controller's watchdog on.

    joints:  q_target -> input registers -> servoj(q, t = 1 / control_hz, lookahead, gain) in ur_rtde's control script
    state:   RTDE version 2 with the controller's timestamp; a frozen stream still reports that it is connected
    power:   dashboard server, ur_dashboard.py

What the words mean on a UR. `arm` powers the arm on, releases its brakes where needed, and uploads the control script.
The first `write` sets the watchdog: from then on a process that dies stops the program within 1 / `watchdog_hz`, and
the controller brakes and holds.
`stop` is servoStop. `disarm` ends the program, and then powers the arm off: only then do the brakes engage and is
there no torque. With `power_off=False` the controller goes on holding the arm, as it does between programs. A
protective stop is for a person at the pendant to clear. The UR itself has no gripper, its opening reads 1 and stays;
with `robotiq` there is one (robotiq.py).

Calls of ur_rtde may block for ever on a controller that went silent. Those run in a thread of their own and are given
up after a time; nothing that is armed waits on them, as the watchdog acts without us. What comes over RTDE is read by
ur_rtde's own code, which trusts the controller: malformed packages may end the process that reads them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from rtde_control import RTDEControlInterface
from rtde_receive import RTDEReceiveInterface

from latent_mpc.robots import ur_dashboard as dashboard
from latent_mpc.robots.bounded import within
from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.robotiq import Robotiq
from latent_mpc.robots.setpoints import limited
from latent_mpc.robots.ur5e import ur5e
from latent_mpc.robots.ur_probe import speaks_rtde
from latent_mpc.types import LatentMPCError

T = TypeVar("T")
VARIABLES = ["timestamp", "actual_q", "actual_qd", "joint_temperatures", "robot_mode", "safety_mode"]
RUNNING, REDUCED = 7, 2  # robot_mode, safety_mode: 1 normal, 2 reduced
SAFETY = "unknown,normal,reduced,protective stop,recovery,safeguard stop,system emergency stop,robot emergency stop,\
violation,fault,validate joint id,undefined,automatic mode safeguard stop,three position enabling stop".split(",")
STANDSTILL_RAD_S = 0.01
UNDER_WAY_S = 0.02
UPLOAD_S = 8.0  # ur_rtde itself waits 5 s for the script to run
SILENT_S = 0.2  # a controller with no newer timestamp for so long is taken for frozen
_kept: list[Any] = []  # objects of ur_rtde block all threads while they are destroyed, so they never are


class URDriver:
    """A UR arm. `disarm` works from any process, also before `connect`: it has a connection of its own.

    Attributes:
        host: name or address of the controller. Its ports are fixed.
    """

    capabilities = Capabilities(hardware_clock=True, temperature=True, watchdog=True)

    def __init__(
        self,
        host: str,
        spec: RobotSpec | None = None,
        *,
        power_off: bool = True,
        robotiq: bool = False,
        watchdog_hz: float = 5.0,
        lookahead_s: float = 0.05,
        gain: float = 300.0,
        timeout_s: float = 1.0,
        power_timeout_s: float = 30.0,
    ) -> None:
        """
        Args:
            spec: of the arm, a UR5e by default.
            power_off: whether `disarm` powers the arm off.
            robotiq: whether it has a Robotiq gripper, activated.
            watchdog_hz: a rate of setpoints below it stops the program.
            lookahead_s, gain: of servoj, 0.03 to 0.2 and 100 to 2000; more look-ahead is smoother and later.
            timeout_s: for each answer. power_timeout_s: to power on and release the brakes.
        """
        self.host, self.spec = host, spec or ur5e()
        self._power_off, self._watchdog_hz, self._servo = power_off, watchdog_hz, (lookahead_s, gain)
        self._timeout_s, self._power_timeout_s = timeout_s, power_timeout_s
        self._gripper = Robotiq(host, timeout_s) if robotiq else None
        self._receive: RTDEReceiveInterface | None = None
        self._control: RTDEControlInterface | None = None
        self._q_sent: Array | None = None  # not None while armed
        self._watched = False
        self._state: RobotState | None = None

    def connect(self) -> None:
        """See Driver.connect. Raises DriverError: unreachable, another model, or connected already."""
        if self._receive is not None:
            raise self._error("is connected already; close it first")
        found = self._call("connect to its dashboard server", lambda: dashboard.model(self.host, self._timeout_s))
        if found and found != self.spec.name:
            raise self._error(f"is a {found}; give the driver a spec of that name")
        timeout_s = self._timeout_s
        if not self._call("connect to its port of RTDE", lambda: speaks_rtde(self.host, timeout_s), 3 * timeout_s):
            raise self._error("does not speak RTDE, version 2")
        receive = self._call("connect", lambda: RTDEReceiveInterface(self.host, variables=VARIABLES))
        self._receive, self._state = receive, None
        try:
            if not self._alive():
                raise self._error("sends no state")
            if self._gripper is not None:
                self._gripper.connect()
            self.read()
        except BaseException:
            self.close()
            raise

    def arm(self) -> None:
        """Power on if needed and upload the control script. Raises DriverError."""
        state = self.read()
        if state.fault:
            raise self._error(f"cannot be armed: {state.fault}; clear it at the pendant")
        if problem := self._call(
            "power on",
            lambda: dashboard.power_on(self.host, self._timeout_s, self._power_timeout_s),
            self._power_timeout_s + 2 * self._timeout_s,
        ):
            raise self._error(problem)
        control, self._control = self._control, None
        self._let_go(control)
        self._control = self._call("upload the control script", lambda: RTDEControlInterface(self.host), UPLOAD_S)
        self._watched = False
        self._q_sent = self.read().q_rad

    def read(self) -> RobotState:
        """See Driver.read. Times are the controller's; no torque is measured. Raises DriverError."""
        if (receive := self._receive) is None:
            raise self._error("is not connected; call connect() first")
        if not receive.isConnected():
            raise self._error("closed the connection")
        try:
            for _ in range(3):  # a package may arrive in between
                stamp = receive.getTimestamp()
                q, qd, warmth = receive.getActualQ(), receive.getActualQd(), receive.getJointTemperatures()
                if receive.getTimestamp() == stamp:
                    break
        except RuntimeError as error:  # nothing came yet
            raise self._error(f"sends no state: {error}") from error
        if self._state is not None and self._state.hardware_time_s == stamp:
            return replace(self._state, fault=self._fault())
        self._state = RobotState(
            q_rad=np.array(q),
            qd_rad_s=np.array(qd),
            gripper=self._gripper.opening if self._gripper else 1.0,
            hardware_time_s=stamp,
            receipt_time_s=time.monotonic(),
            sequence=0 if self._state is None else self._state.sequence + 1,
            fault=self._fault(),
            temperature_c=np.array(warmth),
        )
        return self._state

    def write(self, setpoint: Setpoint) -> Setpoint:
        """See Driver.write; without a gripper the opening sent is 1. Raises DriverError, InvalidInputError."""
        control = self._control
        if control is None or self._q_sent is None:
            raise self._error("is not armed; call arm() before write()")
        sent = limited(self.spec, setpoint, self._q_sent)
        if self._gripper is None:
            sent = replace(sent, gripper=1.0)
        if not control.isConnected() or not control.isProgramRunning():
            raise self._error(f"stopped the control program: {self._fault() or 'its watchdog, or the pendant'}")
        if not self._watched:
            if not self._call("set the watchdog", lambda: control.setWatchdog(self._watchdog_hz)):
                raise self._error("refused the watchdog")
            self._watched = True
        lookahead_s, gain = self._servo
        if not control.servoJ(sent.q_rad.tolist(), 0, 0, 1 / self.spec.control_hz, lookahead_s, gain):
            raise self._error("refused a setpoint")
        if self._gripper is not None:
            self._gripper.move(sent.gripper)
        self._q_sent = sent.q_rad
        return sent

    def stop(self) -> None:
        """Leave servo mode and brake; the watchdog, no longer fed, ends the program. Raises DriverError."""
        control = self._control
        if control is None or self._q_sent is None:
            return
        if not self._alive():
            raise self._error("is silent; its watchdog stops the arm")
        if control.isProgramRunning() and not self._call("leave servo mode", control.servoStop):
            raise self._error("refused to leave servo mode; its watchdog stops the arm")
        self._q_sent = self.read().q_rad

    def disarm(self) -> tuple[str, ...]:
        """End the program, wait for standstill, power off; never raises. Returns what failed, for all joints."""
        failed, control, self._q_sent = list[str](), self._control, None
        try:
            if control is not None and self._alive() and control.isProgramRunning():
                self._call("end the control script", control.stopScript)
        except Exception as error:
            failed.append(str(error))
        try:
            problem = self._call("end the program", lambda: dashboard.end_program(self.host, self._timeout_s))
            if self._power_off:
                self._await_standstill()
                problem = self._call("power off", lambda: dashboard.power_off(self.host, self._timeout_s))
            if problem:
                raise self._error(problem)
            return ()  # whatever failed before
        except Exception as error:
            failed.append(str(error))
        return tuple(f"joints {', '.join(self.spec.joint_names)}: {reason}" for reason in failed)

    def close(self) -> None:
        """Release the connections; never raises, may be called twice."""
        connections = self._control, self._receive
        self._control = self._receive = self._q_sent = None
        if self._gripper is not None:
            self._gripper.close()
        self._let_go(*connections)

    # ---- parts ----

    def _error(self, complaint: str) -> DriverError:
        return DriverError(f"{self.spec.name} at {self.host} {complaint}")

    def _fault(self) -> str:
        receive = self._receive
        if receive is None:
            return ""
        safety = receive.getSafetyMode()
        if safety > REDUCED:
            return f"{self.spec.name}: {SAFETY[min(safety, len(SAFETY) - 1)]}"
        if self._q_sent is not None and receive.getRobotMode() != RUNNING:
            return f"{self.spec.name}: powered off"
        return ""

    def _alive(self) -> bool:
        """Whether packages keep arriving that cannot have been under way before this call."""
        receive, begin = self._receive, time.monotonic()
        if receive is None or not receive.isConnected():
            return False
        stamp = receive.getTimestamp()
        while receive.getTimestamp() < stamp + UNDER_WAY_S:
            if time.monotonic() - begin > SILENT_S:
                return False
            time.sleep(0.002)
        return True

    def _await_standstill(self) -> None:
        """Half a second at most: brakes are for holding, not for stopping."""
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                if np.abs(self.read().qd_rad_s).max() < STANDSTILL_RAD_S and self._alive():
                    return
            except DriverError:
                pass
            time.sleep(0.02)

    def _call(self, what: str, call: Callable[[], T], timeout_s: float | None = None) -> T:
        """The result of a call that may block for ever, of which it is given up after a time. Raises DriverError."""
        try:
            return within(self._timeout_s if timeout_s is None else timeout_s, call)
        except LatentMPCError:
            raise
        except Exception as error:  # of the library, whatever it is
            raise self._error(f"failed to {what}: {error}") from error

    def _let_go(self, *connections: Any) -> None:
        """Disconnect what the controller is there to hear; it takes half a second. Nothing is raised."""
        there = [connection for connection in connections if connection is not None]
        _kept.extend(there)
        try:
            dashboard.ask(self.host, "robotmode", timeout_s=self._timeout_s)
        except OSError:
            return
        threads = [threading.Thread(target=_disconnect, args=(each,), daemon=True) for each in there]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self._timeout_s)


def _disconnect(connection: Any) -> None:
    with contextlib.suppress(Exception):
        if connection.isConnected():
            connection.disconnect()

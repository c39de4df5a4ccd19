"""Franka arms by franky-control, which speaks libfranka's protocol and runs the arm's 1 kHz loop in C++.

    q_target -> JointMotion(q_target), asynchronous: ruckig inside the loop goes over to it from the motion that is
    under way, time-optimally inside `dynamics` x the arm's limits of velocity, acceleration and jerk.

Every target is one to rest at, so that a process that hangs leaves the arm at its last setpoint; there is no watchdog,
but one that dies ends the 1 kHz stream, at which a real arm brakes by itself. `arm` recovers from a reflex and
takes control at the measured position; `stop` brakes along the path; `disarm` gives control back: the arm's own
controller then holds it, and its brakes engage only by Desk, the user stop or the emergency stop. A silent arm raises
after libfranka's time-out of a second; until then a moving one repeats its last state with its old time.

The hand obeys slowly, and has a thread of its own: it grasps where the opening gets smaller, and moves where larger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import franky
import numpy as np

from latent_mpc.robots.robot import Array, Capabilities, DriverError, RobotSpec, RobotState, Setpoint
from latent_mpc.robots.setpoints import limited
from latent_mpc.types import LatentMPCError

T = TypeVar("T")
HAND_M_S, HAND_N, HAND_STEP = 0.1, 20.0, 0.05  # speed, force, and the change of opening that is worth a command
STOP_S = 1.5


class FrankaDriver:
    """A Panda or a Research 3.

    Attributes:
        host: name or address of the controller.
    """

    capabilities = Capabilities(hardware_clock=True, torque=True)

    def __init__(
        self,
        host: str,
        spec: RobotSpec,
        *,
        hand: bool = True,
        realtime: bool = False,
        dynamics: tuple[float, float, float] = (1.0, 1.0, 0.5),
    ) -> None:
        """
        Args:
            spec: of the arm; its limits of velocity must lie inside those of the arm.
            hand: whether Franka's own hand is there; without it the opening reads 1.
            realtime: insist on a real-time kernel, which a real arm needs.
            dynamics: shares of velocity, acceleration and jerk that motions use, above 0 up to 1.
        """
        self.host, self.spec = host, spec
        self._with_hand, self._dynamics = hand, franky.RelativeDynamicsFactor(*dynamics)
        self._realtime = franky.RealtimeConfig.Enforce if realtime else franky.RealtimeConfig.Ignore
        self._robot: franky.Robot | None = None
        self._hand: _Hand | None = None
        self._state: RobotState | None = None
        self._q_sent: Array | None = None  # not None while armed

    def connect(self) -> None:
        """See Driver.connect. Raises DriverError: unreachable, slower than the spec, or connected already."""
        if self._robot is not None:
            raise self._error("is connected already; close it first")
        robot = self._call("connect", lambda: franky.Robot(self.host, 1.0, realtime_config=self._realtime))
        try:
            allowed = np.ravel(robot.joint_velocity_limit.max)
            for name, wanted, limit in zip(self.spec.joint_names, self.spec.velocity_rad_s, allowed, strict=True):
                if wanted > limit * (1 + 1e-6):
                    raise self._error(f"joint {name} turns at {limit:.3f} rad/s at most, and the spec says {wanted}")
            if self._with_hand:
                self._hand = _Hand(self._call("connect the hand", lambda: franky.Gripper(self.host)))
            self._robot, self._state = robot, None
            self.read()
        except BaseException:
            self.close()
            raise

    def arm(self) -> None:
        """Recover from a reflex, take control and hold. Raises DriverError, also for a fault that remains."""
        robot = self._connected()
        if robot.has_errors:
            self._call("recover", robot.recover_from_errors)
        state = self.read()
        if state.fault:
            raise self._error(f"cannot be armed: {state.fault}")
        self._hold(state)

    def read(self) -> RobotState:
        """See Driver.read; times are the controller's, milliseconds are counted. Raises DriverError."""
        robot = self._connected()
        state = self._call("read", lambda: robot.state)
        stamp = state.time.to_sec()
        hand_fault = self._hand.error if self._hand else ""
        if self._state is not None and self._state.hardware_time_s == stamp:
            return replace(self._state, fault=self._state.fault or hand_fault)
        errors = str(state.current_errors).strip("[]")
        if state.robot_mode in (franky.RobotMode.Reflex, franky.RobotMode.UserStopped, franky.RobotMode.Other):
            errors = f"{str(state.robot_mode).rsplit('.', 1)[-1]} {errors}".strip()
        self._state = RobotState(
            q_rad=np.ravel(state.q).copy(),
            qd_rad_s=np.ravel(state.dq).copy(),
            gripper=self._hand.opening if self._hand else 1.0,
            hardware_time_s=stamp,
            receipt_time_s=time.monotonic(),
            sequence=round(stamp * 1000),
            fault=f"{self.spec.name}: {errors}" if errors else hand_fault,
            torque_nm=np.ravel(state.tau_J).copy(),
        )
        return self._state

    def write(self, setpoint: Setpoint) -> Setpoint:
        """See Driver.write. Raises DriverError, also for what ended the motion; InvalidInputError."""
        robot = self._connected()
        if self._q_sent is None:
            raise self._error("is not armed; call arm() before write()")
        sent = limited(self.spec, setpoint, self._q_sent)
        self._call("move", robot.poll_motion)
        self._move(franky.JointMotion(sent.q_rad.tolist(), return_when_finished=False))
        if self._hand:
            self._hand.wanted = sent.gripper
        else:
            sent = replace(sent, gripper=1.0)
        self._q_sent = sent.q_rad
        return sent

    def stop(self) -> None:
        """Brake along the path, and hold where that ends. Raises DriverError."""
        robot = self._connected()
        if self._q_sent is None or not robot.is_in_control:
            return
        self._move(franky.JointStopMotion())
        if not self._call("stop", lambda: robot.join_motion(STOP_S)):
            raise self._error(f"has not stopped within {STOP_S} s")
        self._hold(self.read())

    def disarm(self) -> tuple[str, ...]:
        """Give control back, the arm's controller holds it; never raises. Returns what failed, for all joints."""
        robot, self._q_sent = self._robot, None
        if robot is None:
            return ()
        try:
            if robot.is_in_control:
                self._call("stop", robot.stop)
            return ()
        except Exception as error:
            return (f"joints {', '.join(self.spec.joint_names)}: {error}",)

    def close(self) -> None:
        """Release the arm, which ends its motion, and the hand; never raises, may be called twice."""
        self.disarm()
        if self._hand is not None:
            self._hand.close()
        self._robot = self._hand = self._q_sent = None

    # ---- parts ----

    def _error(self, complaint: str) -> DriverError:
        return DriverError(f"{self.spec.name} at {self.host} {complaint}")

    def _connected(self) -> franky.Robot:
        if self._robot is None:
            raise self._error("is not connected; call connect() first")
        return self._robot

    def _hold(self, state: RobotState) -> None:
        self._move(franky.JointMotion(state.q_rad.tolist(), return_when_finished=False))
        self._q_sent = state.q_rad

    def _move(self, motion: franky.BaseJointPositionMotion) -> None:
        robot = self._connected()
        robot.relative_dynamics_factor = self._dynamics
        self._call("move", lambda: robot.move(motion, asynchronous=True))

    def _call(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except LatentMPCError:
            raise
        except Exception as error:  # franky's own exceptions, and RuntimeError of the library below
            raise self._error(f"failed to {what}: {error}") from error


class _Hand:
    """Brings the hand to the wanted opening, one command after the other.

    Attributes:
        wanted: opening, 0 to 1. opening: as last measured. error: of the last command; empty when there is none.
    """

    def __init__(self, gripper: franky.Gripper) -> None:
        self._gripper = gripper
        self.opening = float(np.clip(gripper.width / gripper.max_width, 0, 1))
        self.wanted, self._commanded, self.error = self.opening, self.opening, ""
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="hand").start()

    def _run(self) -> None:
        hand, width_m = self._gripper, self._gripper.max_width
        while not self._ended.wait(0.05):
            wanted = self.wanted
            try:
                if abs(wanted - self._commanded) > HAND_STEP:
                    closing, self._commanded = wanted < self._commanded, wanted
                    if closing:
                        hand.grasp(wanted * width_m, HAND_M_S, HAND_N, width_m, width_m)
                    else:
                        hand.move(wanted * width_m, HAND_M_S)
                self.opening = float(np.clip(hand.width / width_m, 0, 1))
                self.error = ""
            except Exception as error:
                self.error = f"hand: {error}"

    def close(self) -> None:
        self._ended.set()

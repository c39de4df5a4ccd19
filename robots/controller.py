"""One arm's controller: a state machine, and what it does in one tick. It never sleeps and knows no processes.

    read → fresh? → phase → tool(m + latency) → IK → gate → jerk-limited step → write,    m ← m + dt

    DISCONNECTED → CONNECTED ⇄ CALIBRATED → ARMED → RUNNING ⇄ HOLD → STOPPED ;  any → FAULT ;  reset: → CONNECTED

Whatever ends a motion ends it by a jerk-limited stop; after that nothing moves until a new plan (HOLD) or a reset
(STOPPED, FAULT). FAULT takes the torque off, at once if the device itself complains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.channels import VERDICTS, Phase, tick_dtype
from latent_mpc.robots.parts import Parts
from latent_mpc.robots.retiming import Retiming
from latent_mpc.robots.robot import Driver, DriverError, Setpoint, TimedPlan
from latent_mpc.robots.splice import Splice, Waypoint
from latent_mpc.robots.vitals import Vitals
from latent_mpc.types import InvalidInputError, LatentMPCError, WorkspaceSpec

LIVE = (Phase.ARMED, Phase.RUNNING, Phase.HOLD)
BUSY_S = {"connect": 20.0, "arm": 40.0, "stop": 2.0, "disarm": 4.0}  # how long a driver's call may take


@dataclass(frozen=True)
class ControllerConfig:
    """Bounds of time and place.

    Attributes:
        limits_factor: of the arm's limits of velocity, acceleration and jerk.
        latency_s: of the arm behind its setpoints; plans are sampled so much ahead.
        state_timeout_s: a reading older than that: HOLD.
        heartbeat_timeout_s: no heartbeat for that long: FAULT.
        stop_after_s: in HOLD, not by command, for that long: STOPPED.
        arm_after_s: readings and heartbeats must have been fresh for that long before arming.
        brake_timeout_s: a stop before FAULT takes the torque off, or STOPPED has the device stop, lasts no longer.
        disarm_again_s: between attempts while some joint keeps its torque.
        arm_tolerance_rad: of the measured pose from the setpoint while ARMED.
        range_tolerance_rad: by which a joint may lie outside its range when CALIBRATED; arming takes it inside at once.
        rest_rad_s: slower than that is at rest, for arming.
        blocked_rad, blocked_after_s: at rest that far from where it was sent, for so long, a joint is blocked: STOPPED.
        strained_share, strained_after_s: a measured torque of so much of the arm's limit, for so long: STOPPED. Motors
            are cut off at the limit, so none is ever measured above it.
        max_distance_m: from the tool to where a new plan has it.
        max_lead_s, max_validity_s: how far ahead a plan may begin, and how long it may last.
    """

    limits_factor: float = 1.0
    latency_s: float = 0.0
    state_timeout_s: float = 0.05
    heartbeat_timeout_s: float = 0.2
    stop_after_s: float = 1.0
    arm_after_s: float = 1.0
    brake_timeout_s: float = 0.5
    disarm_again_s: float = 1.0
    arm_tolerance_rad: float = 0.1
    range_tolerance_rad: float = 0.02
    rest_rad_s: float = 0.1
    blocked_rad: float = 0.1
    blocked_after_s: float = 0.3
    strained_share: float = 0.95
    strained_after_s: float = 0.5
    max_distance_m: float = 0.1
    max_lead_s: float = 1.0
    max_validity_s: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < np.inf or (value == 0 and field.name != "latency_s"):
                raise InvalidInputError(f"{field.name} must be positive and finite, got {value}")
        for name in ("limits_factor", "strained_share"):
            if getattr(self, name) > 1:
                raise InvalidInputError(f"{name} must be at most 1, got {getattr(self, name)}")


def ignore(*_: object) -> None:
    """Nobody watches."""


class Controller:
    """See the module. All times are of one monotonic clock; commands and plans come between ticks.

    Attributes:
        phase, reason: where it is, and why. refusal: what it last refused.
        torque: the motors are stiff, as far as it knows.
        vitals: of the device and the supervisor, with the newest reading.
        setpoint: the last one computed.
    """

    def __init__(
        self,
        driver: Driver,
        parts: Parts,
        config: ControllerConfig | None = None,
        *,
        on_event: Callable[[float, str, str], None] = ignore,
        on_busy: Callable[[float], None] = ignore,
    ) -> None:
        """Args:
        on_event: called with the time, a kind ("phase", "refused", "device", "limits") and a text.
        on_busy: called with the longest time that a call of the driver may take, before it.
        """
        self.driver, self.parts, self.config = driver, parts, config or ControllerConfig()
        self.dt_s = 1 / driver.spec.control_hz
        self._on_event, self._on_busy = on_event, on_busy
        self._retiming = Retiming(driver.spec, self.dt_s, self.config.limits_factor)
        self.splice = Splice(
            self.dt_s,
            self.config.latency_s,
            self.config.max_lead_s,
            self.config.max_validity_s,
            self.config.max_distance_m,
        )
        self.phase, self.reason, self.refusal = Phase.DISCONNECTED, "not connected yet", ""
        self.torque = False
        self.vitals = Vitals(
            driver, self.config.state_timeout_s, self.config.heartbeat_timeout_s, lambda t, s: on_event(t, "device", s)
        )
        self.setpoint = self._wanted = self._sent = Setpoint(np.array(driver.spec.home_rad), 0.0)
        self._since_s = 0.0  # in this phase
        self._held = False  # by command
        self._blocked_s = np.zeros(driver.spec.num_joints)  # how long each joint has not got on
        self._strained_s = np.zeros(driver.spec.num_joints)  # how long each has had its full torque
        self._finished = True  # in STOPPED and FAULT: the device was told
        self._told_s = -np.inf
        self._tick = 0
        self._verdict = "none"

    # Commands, between ticks. Each returns why it was refused, or nothing.

    def connect(self, now_s: float) -> None:
        """Open the device. Raises DriverError."""
        self._on_busy(BUSY_S["connect"])
        self.driver.connect()
        self._enter(Phase.CONNECTED, now_s, f"{self.driver.spec.name} answers")

    def beat(self, time_s: float) -> None:
        """The supervisor was alive at `time_s`."""
        self.vitals.beat(time_s)

    def arm(self, now_s: float) -> str:
        """Stiffen the motors where the arm is; out of HOLD: be ready for a plan again."""
        if self.phase in (Phase.ARMED, Phase.RUNNING):
            return ""
        if why := self._unfit(now_s):
            return self.refuse(now_s, f"arm: {why}")
        assert self.vitals.state is not None
        if self.phase is Phase.HOLD:
            self._enter(Phase.ARMED, now_s, "released")
            return ""
        self._retiming.start(self.vitals.state.q_rad)
        self.setpoint = self._wanted = self._sent = Setpoint(
            self._retiming.motion.q_rad, float(np.clip(self.vitals.state.gripper, 0, 1))
        )
        self.torque = True
        self._on_busy(BUSY_S["arm"])
        try:
            self.driver.arm()
        except DriverError as error:
            self._fault(now_s, f"arm: {error}", brake=False)
            return self.reason
        self._enter(Phase.ARMED, now_s, "holds where it is")
        return ""

    def offer(self, plan: TimedPlan, now_s: float) -> str:
        """Follow a plan from the next tick on."""
        if self.phase not in LIVE or self._held or not self.vitals.fresh(now_s):
            return self.refuse(now_s, f"no plan is taken: {self.phase.name}, {self.reason}")
        pose = self.parts.forward(self._wanted.q_rad)
        tool = Waypoint(pose.position_m, pose.yaw_rad, self._wanted.gripper)
        if why := self.splice.refusal(plan, tool, now_s):
            return self.refuse(now_s, why)
        self.splice.take(plan, tool)
        self.refusal = ""
        if self.phase is not Phase.RUNNING:
            self._enter(Phase.RUNNING, now_s, f"plan {plan.sequence}")
        return ""

    def hold(self, now_s: float) -> None:
        """Stop, and take no plan until `arm`."""
        if self.phase in LIVE:
            self._enter(Phase.HOLD, now_s, "held by command")
            self._held = True

    def stop(self, now_s: float, reason: str = "stopped by command") -> None:
        """Stop, and take nothing but a reset."""
        if self.phase not in (Phase.DISCONNECTED, Phase.STOPPED, Phase.FAULT):
            self._enter(Phase.STOPPED, now_s, reason)

    def tighten(self, workspace: WorkspaceSpec, now_s: float) -> str:
        """Keep to a workspace inside the present one from the next tick on; it may never grow again.

        A tool that is outside of it then may only come nearer.
        """
        try:
            self.parts = self.parts.tightened(workspace)
        except InvalidInputError as error:
            return self.refuse(now_s, f"tighten: {error}")
        self._on_event(now_s, "limits", str(workspace))
        return ""

    def reset(self, now_s: float) -> str:
        """Leave STOPPED or FAULT; opens the device anew if it is silent. Arming is needed again."""
        if self.phase not in (Phase.STOPPED, Phase.FAULT):
            return self.refuse(now_s, f"reset: {self.phase.name} needs none")
        if not self._finished:
            return self.refuse(now_s, "reset: still coming to rest")
        if not self.vitals.fresh(now_s):
            self.driver.close()
            try:
                self._on_busy(BUSY_S["connect"])
                self.driver.connect()
            except DriverError as error:
                self.reason = f"reset: {error}"
                self._on_event(now_s, "device", self.reason)
                return self.reason
        if self.phase is Phase.FAULT and self.torque:
            self._disarm(now_s)
            if self.torque:
                return self.refuse(now_s, f"reset: {self.reason}")
        self._enter(Phase.CONNECTED, now_s, "reset")
        self.vitals.forget()
        return ""

    # The tick.

    def tick(self, now_s: float) -> NDArray[np.void]:
        """One period of control; a record of `tick_dtype`, of which `late_s` is left 0."""
        began = time.perf_counter()
        fault = self.vitals.read(now_s) if self.phase is not Phase.DISCONNECTED else ""
        have_read = time.perf_counter()
        self._verdict = "none"
        motion_s, plan = self.splice.motion_s, self.splice.plan
        if fault and self.phase is not Phase.FAULT:
            self._fault(now_s, fault, brake=False)
        self._watch(now_s)
        moved = self.phase is Phase.RUNNING and self._follow(now_s)
        if not moved:
            self._wanted = self.setpoint = Setpoint(self._retiming.brake().q_rad, self.setpoint.gripper, motion_s)
        thought = time.perf_counter()
        self._act(now_s)
        self._tick += 1
        record = np.zeros((), tick_dtype(self.driver.spec.num_joints))
        record["now_s"], record["tick"], record["phase"], record["torque"] = now_s, self._tick, self.phase, self.torque
        record["verdict"], record["motion_s"] = VERDICTS.index(self._verdict), motion_s
        record["plan"], record["observation"] = (plan.sequence, plan.observation) if plan else (-1, -1)
        record["age_s"], record["wanted_rad"] = self.vitals.age_s(now_s), self._wanted.q_rad
        record["sent_rad"], record["sent_gripper"] = self._sent.q_rad, self._sent.gripper
        if self.vitals.state is not None:
            record["reading"], record["hardware_time_s"] = self.vitals.state.sequence, self.vitals.state.hardware_time_s
            record["q_rad"], record["qd_rad_s"] = self.vitals.state.q_rad, self.vitals.state.qd_rad_s
            record["gripper"] = self.vitals.state.gripper
        record["read_s"], record["think_s"] = have_read - began, thought - have_read
        record["write_s"] = time.perf_counter() - thought
        return record

    @property
    def quiet(self) -> bool:
        """Nothing is going to move any more without a command."""
        return self._finished if self.phase in (Phase.STOPPED, Phase.FAULT) else not self.torque

    def close(self) -> None:
        """Stop, take the torque off and let go of the device, whatever state it is in; never raises."""
        try:
            if self.torque:
                self.driver.stop()
        except Exception as error:  # whatever it was, the rest has to be tried
            self._on_event(time.monotonic(), "device", f"stop: {error}")
        try:
            self._disarm(time.monotonic())
        except Exception as error:
            self._on_event(time.monotonic(), "device", f"disarm: {error}")
        self.driver.close()
        self.phase = Phase.DISCONNECTED

    def _watch(self, now_s: float) -> None:
        """The transitions that nobody commands."""
        self.vitals.watch(now_s)
        age, silence, fresh = self.vitals.age_s(now_s), self.vitals.silence_s(now_s), self.vitals.fresh(now_s)
        if self.torque and not self.vitals.beating(now_s) and self.phase is not Phase.FAULT:
            self._fault(now_s, f"no heartbeat of the supervisor for {silence:.3f} s", brake=True)
        elif self.phase is Phase.CONNECTED and fresh:
            self._enter_calibrated(now_s)
        elif self.phase is Phase.CALIBRATED and not fresh:
            self._enter(Phase.CONNECTED, now_s, f"the reading is {age:.3f} s old")
        elif self.phase in (Phase.ARMED, Phase.RUNNING) and not fresh:
            self._enter(Phase.HOLD, now_s, f"the reading is {age:.3f} s old")
        elif self.phase is Phase.ARMED:
            self._watch_pose(now_s)
        elif self.phase is Phase.HOLD:
            if self._held and fresh:
                self._since_s = now_s
            if now_s - self._since_s > self.config.stop_after_s:
                self.stop(now_s, f"{now_s - self._since_s:.3f} s in HOLD: {self.reason}")
        if self.phase in (Phase.RUNNING, Phase.HOLD):
            self._watch_progress(now_s)
        else:
            self._blocked_s[:] = 0
        if self.phase in LIVE:
            self._watch_torque(now_s)
        else:
            self._strained_s[:] = 0

    def _enter_calibrated(self, now_s: float) -> None:
        assert self.vitals.state is not None
        spec, q, margin = self.driver.spec, self.vitals.state.q_rad, self.config.range_tolerance_rad
        outside = (q < np.array(spec.q_low_rad) - margin) | (q > np.array(spec.q_high_rad) + margin)
        if outside.any():
            joint = int(np.argmax(outside))
            self.reason = (
                f"joint {spec.joint_names[joint]} reads {q[joint]:.3f} rad, outside "
                f"{spec.q_low_rad[joint]} to {spec.q_high_rad[joint]}; calibrate again"
            )
        else:
            self._enter(Phase.CALIBRATED, now_s, "readings are fresh and inside the range")

    def _watch_pose(self, now_s: float) -> None:
        assert self.vitals.state is not None
        off = np.abs(self.vitals.state.q_rad - self.setpoint.q_rad)
        if off.max() > self.config.arm_tolerance_rad and self._retiming.at_rest:
            joint = self.driver.spec.joint_names[int(np.argmax(off))]
            self._fault(now_s, f"joint {joint} is {off.max():.3f} rad from where it was armed", brake=False)

    def _watch_progress(self, now_s: float) -> None:
        assert self.vitals.state is not None
        config, state = self.config, self.vitals.state
        off = np.abs(state.q_rad - self._sent.q_rad)
        stuck = (off > config.blocked_rad) & (np.abs(state.qd_rad_s) < config.rest_rad_s)
        self._blocked_s = np.where(stuck, self._blocked_s + self.dt_s, 0.0)
        joint = int(np.argmax(self._blocked_s))
        if self._blocked_s[joint] > config.blocked_after_s:
            name = self.driver.spec.joint_names[joint]
            self.stop(now_s, f"joint {name} rests {off[joint]:.3f} rad from where it was sent; look what blocks it")

    def _watch_torque(self, now_s: float) -> None:
        assert self.vitals.state is not None
        config, spec, torque = self.config, self.driver.spec, self.vitals.state.torque_nm
        if torque is None:
            return
        strained = np.abs(torque) >= config.strained_share * np.array(spec.torque_nm)
        self._strained_s = np.where(strained, self._strained_s + self.dt_s, 0.0)
        joint = int(np.argmax(self._strained_s))
        if self._strained_s[joint] > config.strained_after_s:
            name, most = spec.joint_names[joint], spec.torque_nm[joint]
            self.stop(now_s, f"joint {name} strains at {abs(torque[joint]):.3g} of {most:.3g} N·m; look what resists")

    def _follow(self, now_s: float) -> bool:
        """One step along the plan; False if there is none, and then HOLD."""
        plan = self.splice.plan
        assert plan is not None and self.vitals.state is not None
        if now_s > plan.expires_s:
            self._enter(Phase.HOLD, now_s, f"plan {plan.sequence} expired")
            return False
        way = self.splice.sample()
        try:
            q_rad = self.parts.solve(self._wanted.q_rad, way.position_m, way.yaw_rad)
            wanted = Setpoint(q_rad, way.gripper, self.splice.motion_s)
            verdict = self.parts.gate(wanted, self._wanted, self.vitals.state, now_s, sent_rad=self._sent.q_rad)
            self._verdict = verdict.kind
            if verdict.kind == "rejected":
                raise InvalidInputError(verdict.reason)
            gripper = float(verdict.setpoint.gripper)
            if not 0 <= gripper <= 1:
                raise InvalidInputError(f"the gripper would open to {gripper}, outside 0 to 1")
            clear = self._retiming.attempt(verdict.setpoint.q_rad, self.parts.clear)
        except LatentMPCError as error:
            self._enter(Phase.HOLD, now_s, f"plan {plan.sequence}: {error}")
            return False
        self.setpoint = Setpoint(self._retiming.motion.q_rad, gripper, self.splice.motion_s)
        if clear:
            self._wanted = verdict.setpoint
            self.splice.advance()
            return True
        self._verdict = "clamped"  # the plan waits while the arm, which lags and would cut a corner, slows down
        if not self._retiming.at_rest:
            return True
        self._enter(Phase.HOLD, now_s, f"plan {plan.sequence}: the straight way to it is not clear")
        return False

    def _act(self, now_s: float) -> None:
        """Send the setpoint; in STOPPED and FAULT only until it rests, and then tell the device."""
        if self.phase in (Phase.STOPPED, Phase.FAULT):
            if self._finished:
                if self.phase is Phase.FAULT and self.torque and now_s - self._told_s > self.config.disarm_again_s:
                    self._disarm(now_s)
                return
            if self._retiming.at_rest or now_s - self._since_s > self.config.brake_timeout_s:
                self._finish(now_s)
                return
        elif self.phase not in LIVE:
            return
        try:
            self._sent = self.driver.write(self.setpoint)
        except (DriverError, InvalidInputError) as error:
            self._fault(now_s, f"write: {error}", brake=False)

    def _finish(self, now_s: float) -> None:
        self._retiming.start(self.setpoint.q_rad)
        self._finished = True
        if self.phase is Phase.FAULT:
            self._disarm(now_s)
        elif self.torque:
            self._on_busy(BUSY_S["stop"])
            try:
                self.driver.stop()
            except DriverError as error:
                self._fault(now_s, f"stop: {error}", brake=False)

    def _disarm(self, now_s: float) -> None:
        self._on_busy(BUSY_S["disarm"])
        failed = self.driver.disarm()
        self.torque, self._told_s = bool(failed), now_s
        if failed:
            self.reason = f"{self.reason.split('; still')[0]}; still with torque: {', '.join(failed)}"
            self._on_event(now_s, "device", self.reason)

    def _fault(self, now_s: float, reason: str, *, brake: bool) -> None:
        self._enter(Phase.FAULT, now_s, reason)
        if not brake:
            self._finish(now_s)

    def _enter(self, phase: Phase, now_s: float, reason: str) -> None:
        self.phase, self.reason, self._since_s, self._held = phase, reason, now_s, False
        self._finished = phase not in (Phase.STOPPED, Phase.FAULT)
        if phase is not Phase.RUNNING:
            self.splice.drop()
        self._on_event(now_s, "phase", f"{phase.name}: {reason}")

    def _unfit(self, now_s: float) -> str:
        """Why it cannot be armed or released now; empty if it can."""
        config = self.config
        if self.phase not in (Phase.CALIBRATED, Phase.HOLD):
            return f"{self.phase.name}, {self.reason}"
        steady_s, state = self.vitals.steady_for_s(now_s), self.vitals.state
        if state is None or not (self.vitals.fresh(now_s) and self.vitals.beating(now_s)):
            age_s, silence_s = self.vitals.age_s(now_s), self.vitals.silence_s(now_s)
            return f"the reading is {age_s:.3f} s old, the supervisor's heartbeat {silence_s:.3f} s"
        if not self._retiming.at_rest or np.abs(state.qd_rad_s).max() > config.rest_rad_s:
            return "the arm is moving"
        if self.phase is Phase.CALIBRATED and steady_s < config.arm_after_s:
            return f"readings and heartbeats must have been fresh for {config.arm_after_s} s"
        return ""

    def refuse(self, now_s: float, why: str) -> str:
        """Tell what was refused and why; the same twice on end is told once."""
        if why != self.refusal:
            self.refusal = why
            self._on_event(now_s, "refused", why)
        return why

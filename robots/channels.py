"""What the processes tell each other through slots: plans, commands with a heartbeat, and the controller's status.

Records are fixed in size and hold numbers only; nothing that arrives is ever executed or unpickled. Commands are
counted, each by itself, so that a STOP is seen even when another command follows it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.robot import Array, TimedPlan
from latent_mpc.robots.slots import Slot
from latent_mpc.types import InvalidInputError, WorkspaceSpec

MAX_WAYPOINTS = 64
MAX_KEEP_OUTS = 16  # of each kind
HISTORY = 256  # ticks whose motion clock a status still tells
TEXT = 240  # bytes of a reason


class Phase(IntEnum):
    """Of the controller; the order is that of a session.

    DISCONNECTED: no device. CONNECTED: it answers. CALIBRATED: what it says is fresh and inside the joints' ranges.
    ARMED: it holds where it is, and waits for a plan. RUNNING: it follows one. HOLD: it stopped, and a plan may go on.
    STOPPED, FAULT: it stopped, in FAULT without torque; both last until a reset.
    """

    DISCONNECTED = 0
    CONNECTED = 1
    CALIBRATED = 2
    ARMED = 3
    RUNNING = 4
    HOLD = 5
    STOPPED = 6
    FAULT = 7


PLAN = np.dtype(
    [
        ("count", "i8"),
        ("sequence", "i8"),
        ("observation", "i8"),
        ("times_s", "f8", MAX_WAYPOINTS),
        ("position_m", "f8", (MAX_WAYPOINTS, 3)),
        ("yaw_rad", "f8", MAX_WAYPOINTS),
        ("gripper", "f8", MAX_WAYPOINTS),
        ("expires_s", "f8"),
    ]
)
COMMANDS = ("reset", "arm", "hold", "stop")  # in the order in which those of one tick are obeyed: the last one wins
WORKSPACE = np.dtype(
    [
        ("low_m", "f8", 3),
        ("high_m", "f8", 3),
        ("table_m", "f8"),  # NaN for none
        ("speed_m_s", "f8"),
        ("balls", "i8"),
        ("keep_out_balls_m", "f8", (MAX_KEEP_OUTS, 4)),
        ("boxes", "i8"),
        ("keep_out_boxes_m", "f8", (MAX_KEEP_OUTS, 6)),
    ]
)
COMMAND = np.dtype(
    [("beat_s", "f8"), *((name, "i8") for name in COMMANDS), ("tighten", "i8"), ("workspace", WORKSPACE)]
)


def tick_dtype(num_joints: int) -> np.dtype:
    """One tick: of the log, and in the status.

    `wanted_rad` is what the gate let pass, `sent_rad` what the driver said it sent; `age_s` is that of the reading,
    `late_s` how long after its deadline the tick began; `verdict` an index of `VERDICTS`.
    """
    joints = (num_joints,)
    return np.dtype(
        [
            ("now_s", "f8"),
            ("late_s", "f8"),
            ("tick", "i8"),
            ("phase", "i1"),
            ("torque", "?"),
            ("verdict", "i1"),
            ("motion_s", "f8"),
            ("plan", "i8"),
            ("observation", "i8"),
            ("reading", "i8"),
            ("hardware_time_s", "f8"),
            ("age_s", "f8"),
            ("q_rad", "f8", joints),
            ("qd_rad_s", "f8", joints),
            ("gripper", "f8"),
            ("wanted_rad", "f8", joints),
            ("sent_rad", "f8", joints),
            ("sent_gripper", "f8"),
            ("read_s", "f4"),
            ("think_s", "f4"),
            ("write_s", "f4"),
        ]
    )


VERDICTS = ("none", "ok", "clamped", "rejected")


def status_dtype(num_joints: int) -> np.dtype:
    return np.dtype(
        [
            ("tick", tick_dtype(num_joints)),
            ("alive_until_s", "f8"),
            ("history", "f8", (HISTORY, 2)),
            ("period_error_s", "f8", 3),
            ("overruns", "i8"),
            ("last_plan", "i8"),
            ("reason", f"S{TEXT}"),
            ("refusal", f"S{TEXT}"),
            ("tightened", "i8"),
            ("answer", f"S{TEXT}"),
        ]
    )


@dataclass(frozen=True)
class Status:
    """The controller as of its last tick.

    Attributes:
        phase, reason: where it is, and why.
        refusal: what it last refused, a plan or a command; empty if nothing.
        torque: the motors are stiff, as far as it knows.
        tick: the record of its last tick, see `tick_dtype`.
        history: (n, 2) of the last ticks, in order: the monotonic clock, and the motion clock.
        alive_until_s: it promised to be heard of until then.
        period_error_s: how late ticks began, of the last thousand: median, 99th percentile, worst.
        overruns: periods that were missed altogether.
        last_plan: sequence of the newest plan ever followed, -1 before; a planner that starts anew goes on from there.
        tightened, answer: how many orders to tighten the limits were dealt with, and why the last was refused, if it
            was.
    """

    phase: Phase
    reason: str
    refusal: str
    torque: bool
    tick: NDArray[np.void]
    history: Array
    alive_until_s: float
    period_error_s: tuple[float, float, float]
    overruns: int
    last_plan: int
    tightened: int = 0
    answer: str = ""

    @property
    def motion_s(self) -> float:
        """The motion clock."""
        return float(self.tick["motion_s"])

    def motion_at(self, time_s: float) -> float:
        """The motion clock when the monotonic clock showed `time_s`: what a plan from that observation is stamped on.

        Raises:
            InvalidInputError: that is longer ago than the history reaches.
        """
        if not len(self.history) or time_s < self.history[0, 0]:
            raise InvalidInputError(f"the motion clock at {time_s:.3f} s is forgotten; plan from a newer observation")
        return float(np.interp(time_s, self.history[:, 0], self.history[:, 1]))


def text_bytes(text: str) -> bytes:
    """For a field of a record: UTF-8, cut to fit."""
    return text.encode()[:TEXT].decode(errors="ignore").encode()


def status_from(record: NDArray[np.void]) -> Status:
    """The status of a record. Raises InvalidInputError if it is none: there is no such phase."""
    if int(record["tick"]["phase"]) not in set(Phase):
        raise InvalidInputError(f"a status of phase {int(record['tick']['phase'])}; there are {list(Phase)}")
    history = record["history"]
    return Status(
        phase=Phase(int(record["tick"]["phase"])),
        reason=record["reason"].item().decode(errors="replace"),
        refusal=record["refusal"].item().decode(errors="replace"),
        torque=bool(record["tick"]["torque"]),
        tick=record["tick"].copy(),
        history=history[history[:, 0] > 0].copy(),
        alive_until_s=float(record["alive_until_s"]),
        period_error_s=(
            float(record["period_error_s"][0]),
            float(record["period_error_s"][1]),
            float(record["period_error_s"][2]),
        ),
        overruns=int(record["overruns"]),
        last_plan=int(record["last_plan"]),
        tightened=int(record["tightened"]),
        answer=record["answer"].item().decode(errors="replace"),
    )


def plan_record(plan: TimedPlan) -> NDArray[np.void]:
    """A plan as a record of `PLAN`. Raises InvalidInputError if it has too many waypoints."""
    count = len(plan.times_s)
    if count > MAX_WAYPOINTS:
        raise InvalidInputError(f"plan {plan.sequence} has {count} waypoints; at most {MAX_WAYPOINTS} fit")
    record = np.zeros((), PLAN)
    for name in ("times_s", "position_m", "yaw_rad", "gripper"):
        record[name][:count] = getattr(plan, name)
    for name in ("sequence", "observation", "expires_s"):
        record[name] = getattr(plan, name)
    record["count"] = count
    return record


def plan_from(record: NDArray[np.void]) -> TimedPlan:
    """The plan of a record. Raises InvalidInputError if it is none: a count, time, order or value cannot be."""
    count = int(record["count"])
    if not 1 <= count <= MAX_WAYPOINTS:
        raise InvalidInputError(f"a plan of {count} waypoints; 1 to {MAX_WAYPOINTS} fit")
    arrays: dict[str, Any] = {
        name: record[name][:count].copy() for name in ("times_s", "position_m", "yaw_rad", "gripper")
    }
    return TimedPlan(
        sequence=int(record["sequence"]),
        observation=int(record["observation"]),
        expires_s=float(record["expires_s"]),
        **arrays,
    )


def workspace_record(workspace: WorkspaceSpec) -> NDArray[np.void]:
    """A workspace as a record of `WORKSPACE`. Raises InvalidInputError if it has too many keep-outs."""
    record = np.zeros((), WORKSPACE)
    for name in ("low_m", "high_m", "speed_m_s"):
        record[name] = getattr(workspace, name)
    record["table_m"] = np.nan if workspace.table_m is None else workspace.table_m
    for count, name in (("balls", "keep_out_balls_m"), ("boxes", "keep_out_boxes_m")):
        keep_outs = getattr(workspace, name)
        if len(keep_outs) > MAX_KEEP_OUTS:
            raise InvalidInputError(f"{len(keep_outs)} {name}; at most {MAX_KEEP_OUTS} fit")
        record[count] = len(keep_outs)
        for i, keep_out in enumerate(keep_outs):
            record[name][i] = keep_out
    return record


def workspace_from(record: NDArray[np.void]) -> WorkspaceSpec:
    """The workspace of a record. Raises InvalidInputError if it is none."""
    kept: dict[str, Any] = {}
    for count, name in (("balls", "keep_out_balls_m"), ("boxes", "keep_out_boxes_m")):
        if not 0 <= record[count] <= MAX_KEEP_OUTS:
            raise InvalidInputError(f"{record[count]} {name}; 0 to {MAX_KEEP_OUTS} fit")
        kept[name] = tuple(tuple(map(float, row)) for row in record[name][: record[count]])
    low, high = (tuple(map(float, record[name])) for name in ("low_m", "high_m"))
    table_m = None if np.isnan(record["table_m"]) else float(record["table_m"])
    return WorkspaceSpec(
        (low[0], low[1], low[2]), (high[0], high[1], high[2]), table_m, speed_m_s=float(record["speed_m_s"]), **kept
    )


@dataclass(frozen=True)
class Ports:
    """Names of the slots of a controller, to hand to another process."""

    plan: str
    status: str
    num_joints: int


class PlannerPort:
    """A planner's end of the line, in whatever process: sends plans, sees the status. One sender at a time."""

    def __init__(self, ports: Ports) -> None:
        """Attach. Raises InvalidInputError if the supervisor is gone."""
        self._plan, self._status = Slot(PLAN, ports.plan), Slot(status_dtype(ports.num_joints), ports.status)

    def send(self, plan: TimedPlan) -> None:
        """Offer a plan. What becomes of it is in the status: the plan followed, or the refusal."""
        self._plan.write(plan_record(plan))

    def status(self) -> Status | None:
        """As of the controller's last tick; None if it has not said anything yet, or what is there is no status."""
        try:
            return status_from(read[0]) if (read := self._status.read()) is not None else None
        except InvalidInputError:
            return None

    def close(self) -> None:
        self._plan.close()
        self._status.close()

"""Records carry plans and status bit for bit; what is no plan is refused on the way out of a record."""

from __future__ import annotations

import time

import numpy as np
import pytest

from latent_mpc.robots.channels import (
    HISTORY,
    MAX_KEEP_OUTS,
    MAX_WAYPOINTS,
    PLAN,
    TEXT,
    Phase,
    PlannerPort,
    Ports,
    plan_from,
    plan_record,
    status_dtype,
    status_from,
    text_bytes,
    workspace_from,
    workspace_record,
)
from latent_mpc.robots.robot import TimedPlan
from latent_mpc.robots.slots import Slot
from latent_mpc.types import InvalidInputError, WorkspaceSpec


def plan(count: int, seed: int = 0) -> TimedPlan:
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.uniform(0.01, 1, count))
    return TimedPlan(2**40, 7, times_s, rng.normal(size=(count, 3)), rng.normal(size=count), rng.random(count), 1e6)


@pytest.mark.parametrize("count", [1, 10, MAX_WAYPOINTS])
def test_a_plan_passes_through_a_record_unchanged(count: int) -> None:
    sent = plan(count)
    got = plan_from(plan_record(sent))
    for name in ("times_s", "position_m", "yaw_rad", "gripper"):
        assert getattr(got, name).tobytes() == getattr(sent, name).tobytes()
    assert (got.sequence, got.observation, got.expires_s) == (sent.sequence, sent.observation, sent.expires_s)


def test_a_plan_that_is_too_long_is_refused_when_it_is_sent() -> None:
    with pytest.raises(InvalidInputError, match=f"at most {MAX_WAYPOINTS}"):
        plan_record(plan(MAX_WAYPOINTS + 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", 0),
        ("count", -1),
        ("count", MAX_WAYPOINTS + 1),
        ("count", 2**62),
        ("times_s", 0.0),
        ("times_s", np.nan),
        ("position_m", np.inf),
        ("yaw_rad", np.nan),
        ("gripper", -np.inf),
        ("expires_s", np.nan),
    ],
)
def test_a_corrupt_record_is_no_plan(field: str, value: float) -> None:
    record = plan_record(plan(5))
    record[field] = value
    with pytest.raises(InvalidInputError):
        plan_from(record)


def test_random_bytes_are_never_a_plan_with_nan_or_out_of_order() -> None:
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(300):
        record = np.frombuffer(rng.bytes(PLAN.itemsize), PLAN, 1)[0].copy()
        record["count"] = rng.integers(-1, 3)
        try:
            got = plan_from(record)
        except InvalidInputError:
            continue
        taken += 1
        assert np.isfinite(got.position_m).all() and (np.diff(got.times_s) > 0).all()
    assert taken  # the check above was reached


def test_text_is_cut_between_characters() -> None:
    text = "a" + "Ω" * TEXT
    cut = text_bytes(text)
    assert len(cut) <= TEXT and text.startswith(cut.decode()) and len(cut) > TEXT - 2
    assert text_bytes("short") == b"short"


def status(rows: int) -> np.void:
    record = np.zeros((), status_dtype(3))
    record["tick"]["phase"], record["tick"]["torque"], record["tick"]["motion_s"] = Phase.RUNNING, True, 0.9
    record["reason"] = text_bytes("joint Ω: ok")
    record["history"][HISTORY - rows :, 0] = 100 + 0.01 * np.arange(rows)
    record["history"][HISTORY - rows :, 1] = np.maximum(0.0, 0.01 * np.arange(rows) - 0.1)  # it stood for 0.1 s
    return record


def test_the_motion_clock_at_an_earlier_time_is_what_was_really_executed() -> None:
    seen = status_from(status(100))
    assert seen.phase is Phase.RUNNING and seen.torque and seen.reason == "joint Ω: ok" and seen.motion_s == 0.9
    assert seen.motion_at(100.05) == 0.0
    assert seen.motion_at(100.505) == pytest.approx(0.405)
    assert seen.motion_at(1e9) == pytest.approx(0.89)
    for asked, rows in ((99.9, 100), (100.0, 0)):
        with pytest.raises(InvalidInputError, match="forgotten"):
            status_from(status(rows)).motion_at(asked)


def test_a_planners_port_sends_and_sees() -> None:
    plans, statuses = Slot(PLAN), Slot(status_dtype(3))
    port = PlannerPort(Ports(plans.name, statuses.name, 3))
    try:
        assert port.status() is None
        statuses.write(status(5))
        seen = port.status()
        assert seen is not None and seen.phase is Phase.RUNNING
        port.send(plan(3))
        read = plans.read()
        assert read is not None and read[1] == 1 and plan_from(read[0]).sequence == 2**40
    finally:
        for thing in (port, plans, statuses):
            thing.close()
    with pytest.raises(InvalidInputError, match="owner is gone"):
        PlannerPort(Ports(f"gone-{time.monotonic_ns()}", "none", 3))


@pytest.mark.parametrize(
    "workspace",
    [
        WorkspaceSpec((0.2, -0.3, 0.01), (0.7, 0.3, 0.5)),
        WorkspaceSpec((0.2, -0.3, 0.01), (0.7, 0.3, 0.5), None, ((1.0, 2.0, 3.0, 0.5),) * MAX_KEEP_OUTS, (), 0.1),
        WorkspaceSpec((0, 0, 0), (1, 1, 1), -0.1, (), ((0.0, 0.0, 0.0, 0.1, 0.2, 0.3), (0.0, 0.0, 0.0, 1.0, 1.0, 1.0))),
    ],
)
def test_a_workspace_passes_through_a_record_unchanged(workspace: WorkspaceSpec) -> None:
    assert workspace_from(workspace_record(workspace)) == workspace


def test_a_workspace_that_does_not_fit_or_is_none_is_refused() -> None:
    many = WorkspaceSpec((0, 0, 0), (1, 1, 1), keep_out_balls_m=((0.0, 0.0, 0.0, 1.0),) * (MAX_KEEP_OUTS + 1))
    with pytest.raises(InvalidInputError, match="at most 16"):
        workspace_record(many)
    good = workspace_record(WorkspaceSpec((0, 0, 0), (1, 1, 1)))
    for field, value in (("balls", -1), ("boxes", 2**60), ("speed_m_s", 0.0), ("low_m", np.nan), ("table_m", np.inf)):
        bad = good.copy()
        bad[field] = value
        with pytest.raises(InvalidInputError):
            workspace_from(bad)

"""The gate against every kind of wrong input, and in a closed loop against MuJoCo's own contacts."""

import math
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latent_mpc.robots.limits import Limits
from latent_mpc.robots.panda import panda
from latent_mpc.robots.robot import RobotState, Setpoint
from latent_mpc.robots.safety import Gate
from latent_mpc.robots.workspace import Distances, nearest_inside
from latent_mpc.types import InvalidInputError, WorkspaceSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from clearance import Clearance

XML = Path(__file__).parents[1] / "envs/panda.xml"
PANDA = panda(XML)
HOME = np.array(PANDA.home_rad)
WORKSPACE = WorkspaceSpec(
    low_m=(-0.5, -0.6, -0.05),
    high_m=(0.75, 0.6, 0.9),
    table_m=0.0,
    keep_out_balls_m=((0.45, 0.4, 0.25, 0.12),),
    keep_out_boxes_m=((0.3, -0.6, 0.0, 0.5, -0.35, 0.3),),
    speed_m_s=1.0,
)
LIMITS = Limits.of(PANDA, WORKSPACE)
TICK = LIMITS.tick_s
GATE = Gate(LIMITS)


def state(q=HOME, now=0.0, **changes):
    return replace(RobotState(q.copy(), np.zeros(7), 0.5, now, now, 1), **changes)


def check(wanted, last=HOME, gripper=0.5, now=0.0, **options):
    return GATE.check(Setpoint(wanted, gripper), Setpoint(last, 0.5), state(last, now), now, **options)


# --- what is refused -------------------------------------------------------------------------------------------------


def moved(joint, value):
    q = HOME.copy()
    q[joint] = value
    return q


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (moved(2, math.nan), "finite: NaN or inf at joint3"),
        (moved(0, -math.inf), "finite: NaN or inf at joint1"),
        (np.degrees(HOME), r"units: joint2 at 5.73|units: joint4 at -134.6 rad; if degrees .* -2.35 rad"),
        (moved(5, 1e9), "units: joint6 at 1e"),
        (HOME[:6], r"shape: .* \(7,\), got float64 \(6,\)"),
        (HOME[:, None], r"shape: .* \(7,\), got float64 \(7, 1\)"),
        (list(HOME), "shape: .* got list"),
        (HOME.astype(int), "shape: .* got int64"),
        (HOME.astype(complex), "shape: .* got complex128"),
        (moved(1, -0.6), "jump: joint2 from 0.100 to -0.600 rad"),
    ],
)
def test_wrong_joints_are_refused_and_the_last_ones_are_sent_again(wanted, reason):
    verdict = check(wanted)
    assert verdict.kind == "rejected"
    assert re.search(reason, verdict.reason)
    np.testing.assert_array_equal(verdict.setpoint.q_rad, HOME)
    assert verdict.setpoint.gripper == 0.5


@pytest.mark.parametrize("gripper", [math.nan, math.inf, 80.0, -3.0, None, "open", True, np.zeros(2)])
def test_wrong_openings_are_refused(gripper):
    verdict = check(HOME, gripper=gripper)
    assert verdict.kind == "rejected" and verdict.checks[0] in ("shape", "finite", "units")
    assert verdict.setpoint.gripper == 0.5


@pytest.mark.parametrize(
    ("changes", "checks"),
    [
        ({"fault": "joint3: overheated"}, ["fault"]),
        ({"receipt_time_s": -0.06}, ["state"]),
        ({"receipt_time_s": 0.1}, ["state"]),
        ({"receipt_time_s": math.nan}, ["state"]),
        ({"q_rad": HOME[:5]}, ["state"]),
        ({"q_rad": moved(3, HOME[3] + 0.5)}, ["tracking"]),
        ({"q_rad": moved(3, math.nan)}, ["tracking"]),
        ({"torque_nm": moved(6, -13.0)}, ["torque"]),
        ({"torque_nm": moved(0, 80.0)}, []),
        ({"temperature_c": np.full(7, 60.0)}, []),
        ({"temperature_c": np.array([20, 20, 71, 20, 20, 71, 20.0])}, ["temperature", "temperature"]),
    ],
)
def test_a_sick_arm_is_not_moved(changes, checks):
    verdict = GATE.check(Setpoint(HOME + 0.001, 0.5), Setpoint(HOME, 0.5), state(**changes), 0.0)
    assert list(verdict.checks) == checks
    assert verdict.kind == ("rejected" if checks else "ok")
    if checks in (["tracking"], ["torque"]):
        assert ("joint4" if checks == ["tracking"] else "joint7") in verdict.reason


def test_plans_out_of_order_and_out_of_date_are_refused():
    assert check(HOME, sequence=4, last_sequence=5).checks == ("sequence",)
    assert check(HOME, now=2.0, expires_s=1.99).checks == ("expiry",)
    assert check(HOME, now=2.0, expires_s=math.nan).checks == ("expiry",)
    assert check(HOME + 0.001, sequence=5, last_sequence=5, now=2.0, expires_s=2.0).kind == "ok"


def test_the_state_is_held_against_what_was_really_sent():
    off = state(moved(3, HOME[3] + 0.5))
    sent = moved(3, HOME[3] + 0.45)
    assert GATE.check(Setpoint(HOME, 0.5), Setpoint(HOME, 0.5), off, 0.0, sent_rad=sent).kind == "ok"


def test_without_a_last_setpoint_there_is_nothing_to_send():
    for last in (moved(0, math.nan), HOME[:6]):
        with pytest.raises(InvalidInputError, match="last setpoint"):
            GATE.check(Setpoint(HOME, 0.5), Setpoint(last, 0.5), state(), 0.0)


# --- what leaves the gate, whatever comes in --------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.floats(-3.2, 3.8),
    st.floats(-180, 180),  # degrees
    st.sampled_from([math.nan, math.inf, -math.inf, 1e9, -1e9, 5e-324, 1.7e308]),
    st.floats(),
)
STEPS = st.lists(st.one_of(st.floats(-0.05, 0.05), st.floats(-0.6, 0.6)), min_size=7, max_size=7)
WANTED = st.one_of(
    st.tuples(st.just("step"), STEPS),
    st.tuples(st.just("all"), st.lists(NUMBERS, min_size=7, max_size=7)),
    st.tuples(st.just("all"), st.lists(NUMBERS, max_size=9)),
    st.tuples(st.just("one"), st.tuples(st.integers(0, 6), NUMBERS)),
)
DTYPES = st.sampled_from([np.float64] * 6 + [np.float32, np.int64, object, "U8", bool])
GRIPPERS = st.one_of(st.floats(0, 1), st.floats(), st.sampled_from([None, "1", 255, True]))


def joints(kind, value, last, dtype):
    if kind == "step":
        q = last + value
    elif kind == "all":
        q = np.array(value, float)
    else:
        q = last.copy()
        q[value[0]] = value[1]
    with np.errstate(all="ignore"):
        return q.astype(dtype)


def assert_safe(verdict, last):
    q, step = verdict.setpoint.q_rad, verdict.setpoint.q_rad - last.q_rad
    assert q.shape == (7,) and q.dtype == np.float64 and np.isfinite(q).all()
    assert (q >= LIMITS.q_low_rad).all() and (q <= LIMITS.q_high_rad).all()
    assert (np.abs(step) <= np.array(LIMITS.velocity_rad_s) * TICK * (1 + 1e-6)).all()
    tool = [GATE._room.kinematics.pose(joints).position_m for joints in (last.q_rad, q)]
    assert np.linalg.norm(tool[1] - tool[0]) <= WORKSPACE.speed_m_s * TICK * (1 + 1e-6)
    assert 0 <= verdict.setpoint.gripper <= 1
    assert abs(verdict.setpoint.gripper - last.gripper) <= LIMITS.gripper_per_s * TICK * (1 + 1e-6)


@st.composite
def wanted_setpoints(draw):
    return draw(WANTED), draw(DTYPES), draw(GRIPPERS)


def chain(seed, cases):
    """From a random place inside the joint box, one setpoint after the other."""
    rng = np.random.default_rng(seed)
    last = Setpoint(rng.uniform(LIMITS.q_low_rad, LIMITS.q_high_rad), float(rng.uniform()))
    for (kind, value), dtype, gripper in cases:
        try:
            q = joints(kind, value, last.q_rad, dtype)
        except (OverflowError, ValueError):
            continue
        wanted = Setpoint(q, gripper)
        verdict = GATE.check(wanted, last, state(last.q_rad), 0.0)
        assert_safe(verdict, last)
        usable = q.shape == (7,) and q.dtype.kind == "f" and np.isfinite(q).all()
        if not usable or np.abs(q).max() > 7:
            assert verdict.kind == "rejected"
        if verdict.kind == "rejected":
            np.testing.assert_array_equal(verdict.setpoint.q_rad, last.q_rad)
        if verdict.kind == "ok":
            np.testing.assert_array_equal(verdict.setpoint.q_rad, q)
        assert bool(verdict.reasons) == (verdict.kind != "ok")
        last = verdict.setpoint


CHAINS = {"seed": st.integers(0, 2**32 - 1), "cases": st.lists(wanted_setpoints(), min_size=5, max_size=5)}
PROPERTY = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=100, **PROPERTY)
@given(**CHAINS)
def test_nothing_unsafe_leaves_the_gate(seed, cases):
    chain(seed, cases)


@pytest.mark.slow
@settings(max_examples=2000, **PROPERTY)
@given(**CHAINS)
def test_nothing_unsafe_leaves_the_gate_in_ten_thousand_cases(seed, cases):
    chain(seed, cases)


def test_the_gate_does_not_keep_the_callers_arrays():
    wanted, last = HOME + 0.001, HOME.copy()
    for q in (wanted, moved(0, math.nan)):
        found = check(q, last).setpoint.q_rad
        assert not np.shares_memory(found, q) and not np.shares_memory(found, last)


# --- braking, walls, singularities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("way", [-1, 1])
def test_a_joint_at_full_speed_can_always_brake_before_its_end(joint, way):
    """v T + v² / 2a = d has v' = -a exactly, down to rest at the end of the range."""
    wide = Limits.of(PANDA, WorkspaceSpec((-2, -2, -2), (2, 2, 2), table_m=None, speed_m_s=9.0))
    gate = Gate(replace(wide, distances=Distances(0.0101, 0.01, 1e-4, 0.0, 1e-4, 1e17, 1e18)))
    end = (wide.q_low_rad, wide.q_high_rad)[way > 0][joint]
    q, speeds = HOME.copy(), []
    q[joint] = end - way * 0.8
    if joint != 3:
        q[3] = -1.5  # the arm is not folded onto itself
    for _ in range(400):
        wanted = q.copy()
        wanted[joint] += 0.1 * way
        found = gate.check(Setpoint(wanted, 0.5), Setpoint(q, 0.5), state(q), 0.0).setpoint.q_rad
        speeds.append(way * (found - q)[joint] / TICK)
        q = found
    assert way * (end - q[joint]) >= 0 and abs(end - q[joint]) < 1e-3
    assert max(speeds) == pytest.approx(wide.velocity_rad_s[joint])
    assert min(np.diff(speeds)) >= -wide.braking_rad_s2[joint] * TICK * (1 + 1e-6)


def test_an_arm_outside_its_range_may_stay_and_return_but_go_no_further():
    outside = moved(1, PANDA.q_high_rad[1] + 0.05)
    q_in, q_out = outside - 0.001 * np.eye(7)[1], outside + 0.001 * np.eye(7)[1]
    gate = Gate(Limits.of(PANDA, WorkspaceSpec((-2, -2, -2), (2, 2, 2), table_m=None)))
    for wanted, sent in ((outside, outside), (q_in, q_in), (q_out, outside)):
        verdict = gate.check(Setpoint(wanted, 0.5), Setpoint(outside, 0.5), state(outside), 0.0)
        np.testing.assert_allclose(verdict.setpoint.q_rad, sent, atol=1e-12)


def drive(position, yaw, ticks, q=HOME, gate=GATE, speed=1.0):
    """Straight to a pose at a speed, as far as the gate lets it; yields verdict, and joints before."""
    arm = GATE._room.kinematics
    start, yaw_start = arm.pose(q)[:2]
    for tick in range(ticks):
        way = min(1.0, (tick + 1) * TICK * speed / max(1e-9, float(np.linalg.norm(position - start))))
        wanted = ARM.solve(q, start + way * (position - start), yaw_start + way * (yaw - yaw_start), 1)
        verdict = gate.check(Setpoint(wanted, 0.5), Setpoint(q, 0.5), state(q), 0.0)
        yield verdict, q
        q = verdict.setpoint.q_rad


ARM = Gate(LIMITS)._room.kinematics


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ((0.5, 0.0, -0.2), "box: tool to z low|collision: table to"),
        ((0.9, 0.0, 0.3), "box: tool to x high|singularity"),
        ((0.45, 0.4, 0.25), "collision: ball 0 to"),
        ((0.4, -0.5, 0.15), "collision: box 0 to"),
        ((0.0, 0.0, 0.2), "collision: link|singularity"),
    ],
)
def test_walls_stop_the_arm_and_leave_it_free_to_go_back(target, reason):
    verdicts = list(drive(np.array(target), 0.0, 150))
    stuck, before = verdicts[-1]
    assert stuck.kind == "clamped" and re.search(reason, stuck.reason)
    assert np.abs(stuck.setpoint.q_rad - before).max() < 2e-3
    back = [verdict for verdict, _ in drive(np.array([0.45, 0.0, 0.35]), 0.0, 150, stuck.setpoint.q_rad, speed=0.5)]
    home = ARM.pose(back[-1].setpoint.q_rad).position_m
    np.testing.assert_allclose(home, [0.45, 0.0, 0.35], atol=5e-3)


def test_near_a_singularity_the_arm_slows_then_stops_and_may_leave():
    singular = np.array([0, 0, np.pi / 2, -1.5, 0, 1.5, 0])
    q = singular + [0, 0.5, -0.9, 0, 0.3, 0, 0]
    conditions, steps = [], []
    for _ in range(300):
        wanted = q + np.clip(singular - q, -0.02, 0.02)
        found = GATE.check(Setpoint(wanted, 0.5), Setpoint(q, 0.5), state(q), 0.0).setpoint.q_rad
        conditions.append(ARM.condition(found))
        steps.append(np.abs(found - q).max())
        q = found
    assert conditions[0] < 10 and 25 < conditions[-1] <= 30 + 1e-6
    assert max(steps[:3]) > 0.015 and steps[-1] < 1e-3
    away = GATE.check(Setpoint(q + [0, 0.01, 0, 0, 0, 0, 0], 0.5), Setpoint(q, 0.5), state(q), 0.0)
    assert away.kind == "ok"


def test_a_tool_slides_along_the_walls_of_its_box():
    """Targets beyond a face, taken to the nearest place inside: the motion along the face is as free as elsewhere."""
    box = replace(WORKSPACE, low_m=(0.3, -0.3, 0.05), high_m=(0.6, 0.3, 0.5))
    gate, q = Gate(Limits.of(PANDA, box)), HOME
    for tick in range(200):
        beyond = np.array([0.5, 0.002 * tick - 0.2, 0.2 - min(0.3, 0.01 * tick)])
        wanted = ARM.solve(q, nearest_inside(box, beyond), 0.0, 2)
        q = gate.check(Setpoint(wanted, 0.5), Setpoint(q, 0.5), state(q), 0.0).setpoint.q_rad
    np.testing.assert_allclose(ARM.pose(q).position_m, [0.5, 0.198, 0.051], atol=2e-3)


# --- the closed loop against another way to measure ------------------------------------------------------------------

CLEARANCE = Clearance(WORKSPACE)


def clearances(q):
    """Smallest true distances (arm, tool to scene), wherever the fingers may be, at most 0.06 m."""
    return np.min([CLEARANCE(q, 0.04 * opening) for opening in (0, 1 / 3, 2 / 3, 1)], axis=0)


def test_the_gate_measures_what_the_contacts_say():
    rng, near = np.random.default_rng(0), 0
    tool = np.array([d == LIMITS.distances.tool_stop_m for d in GATE._room.stop[:-7]])
    for _ in range(300):
        q = rng.uniform(LIMITS.q_low_rad, LIMITS.q_high_rad)
        distances = GATE._room(q)[0][:-7]
        for found, truth in zip((distances[~tool].min(), distances[tool].min()), clearances(q), strict=True):
            if 0 < truth < 0.06:  # inside each other there is more than one way to measure
                assert found == pytest.approx(truth, abs=2e-4)
                near += 1
    assert near > 50


def safe_place(rng):
    while True:
        q = rng.uniform(np.array(LIMITS.q_low_rad) + 0.1, np.array(LIMITS.q_high_rad) - 0.1)
        h, _ = GATE._room(q)
        if (h > GATE._room.slow).all():
            return q


def wild_targets(rng):
    """Where to send the arm: outside the box, into the table, into itself, far out, into joints at random."""
    while True:
        angle = rng.uniform(-np.pi, np.pi)
        yield rng.uniform((-1, -1, 0.1), (1, 1, 1.2))
        yield rng.uniform((-0.6, -0.6, -0.4), (0.8, 0.6, -0.05))
        yield np.array([0.1 * np.cos(angle), 0.1 * np.sin(angle), rng.uniform(0.0, 0.7)])
        yield np.array([0.9 * np.cos(angle), 0.9 * np.sin(angle), rng.uniform(0.0, 0.6)])
        yield np.array([0.45, 0.4, 0.25]) if rng.uniform() < 0.5 else np.array([0.4, -0.45, 0.15])
        yield rng.uniform(LIMITS.q_low_rad, LIMITS.q_high_rad)


def wild_ride(num_targets, seed, guarded=True, ticks=30):
    """Drive to wild targets; the smallest clearances, the checks that spoke, and the distance that the tool went."""
    rng = np.random.default_rng(seed)
    targets, nearest, checks, gone = wild_targets(rng), np.array([0.06, 0.06]), {}, 0.0
    for index in range(num_targets):
        if index % 5 == 0:
            q = safe_place(rng)
        target, start, yaw = next(targets), ARM.pose(q).position_m, rng.uniform(-3, 3)
        speed = rng.uniform(0.3, 2.5)
        for tick in range(ticks):
            if len(target) == 7:
                wanted = q + np.clip(target - q, -0.03, 0.03)
            else:
                way = min(1.0, (tick + 1) * TICK * speed / float(np.linalg.norm(target - start)))
                wanted = ARM.solve(q, start + way * (target - start), yaw, 1)
            if guarded:
                verdict = GATE.check(Setpoint(wanted, 0.5), Setpoint(q, 0.5), state(q), 0.0)
                assert_safe(verdict, Setpoint(q, 0.5))
                for name in verdict.checks:
                    checks[name] = checks.get(name, 0) + 1
                found = verdict.setpoint.q_rad
            else:
                found = np.clip(wanted, LIMITS.q_low_rad, LIMITS.q_high_rad)
            before, after = ARM.pose(q).position_m, ARM.pose(found).position_m
            gone += float(np.linalg.norm(after - before))
            nearest = np.minimum(nearest, np.minimum(clearances((q + found) / 2), clearances(found)))
            if guarded:
                low, high = (*WORKSPACE.low_m[:2], WORKSPACE.floor_m), WORKSPACE.high_m
                assert (after >= np.array(low) - 1e-6).all() and (after <= np.array(high) + 1e-6).all()
                assert ARM.condition(found) <= max(30, ARM.condition(q)) + 1e-6
            q = found
    return nearest, checks, gone


def assert_clear(nearest, checks, gone, num_targets):
    distances = LIMITS.distances
    assert nearest[0] >= distances.arm_stop_m - 0.002 and nearest[1] >= distances.tool_stop_m - 0.002
    assert {"collision", "box", "singularity", "velocity", "tool speed", "joint box"} <= set(checks)
    assert gone / num_targets > 0.05  # it did not pass by standing still
    assert nearest[0] < distances.arm_slow_m and nearest[1] < distances.tool_slow_m  # it was put to the test


def test_wild_targets_never_bring_the_arm_too_near():
    assert_clear(*wild_ride(30, seed=0), 30)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_wild_targets_never_bring_the_arm_too_near():
    assert_clear(*wild_ride(1000, seed=1), 1000)


def test_without_the_gate_the_same_targets_do():
    nearest, _, _ = wild_ride(18, seed=0, guarded=False)
    assert nearest[0] < -0.01 and nearest[1] < -0.01


# --- limits ----------------------------------------------------------------------------------------------------------


def test_limits_can_be_tightened():
    gate = GATE.tightened(velocity_rad_s=tuple(0.5 * v for v in LIMITS.velocity_rad_s), jump_rad=0.2)
    step = gate.check(Setpoint(HOME + 0.1, 0.5), Setpoint(HOME, 0.5), state(), 0.0).setpoint.q_rad - HOME
    assert (np.abs(step) <= 0.5 * np.array(LIMITS.velocity_rad_s) * TICK * (1 + 1e-9)).all()
    smaller = replace(WORKSPACE, high_m=(0.7, 0.6, 0.8), keep_out_balls_m=(*WORKSPACE.keep_out_balls_m, (1, 1, 1, 0.1)))
    assert LIMITS.tightened(workspace=smaller).workspace == smaller
    assert LIMITS.tightened() == LIMITS


@pytest.mark.parametrize(
    "changes",
    [
        {"q_low_rad": PANDA.q_low_rad},
        {"q_high_rad": PANDA.q_high_rad},
        {"velocity_rad_s": (*PANDA.velocity_rad_s[:6], 2.62)},
        {"braking_rad_s2": PANDA.acceleration_rad_s2},
        {"torque_nm": (88.0, *PANDA.torque_nm[1:])},
        {"jump_rad": 0.51},
        {"jump_rad": math.nan},
        {"tracking_rad": 1.0},
        {"state_age_s": 0.1},
        {"temperature_c": 71.0},
        {"distances": Distances(arm_stop_m=0.009)},
        {"distances": Distances(condition_stop=31.0)},
        {"workspace": replace(WORKSPACE, low_m=(-0.51, -0.6, -0.05))},
        {"workspace": replace(WORKSPACE, speed_m_s=1.1)},
        {"workspace": replace(WORKSPACE, keep_out_balls_m=())},
        {"workspace": replace(WORKSPACE, table_m=None)},
        {"spec": PANDA},
        {"sped": 1.0},
    ],
)
def test_limits_cannot_be_loosened(changes):
    with pytest.raises(InvalidInputError):
        LIMITS.tightened(**changes)
    with pytest.raises(InvalidInputError):
        GATE.tightened(**changes)


def test_a_call_takes_less_than_a_millisecond_and_a_half():
    """Processor time of the best of several rounds along a circle: other processes hardly count."""
    circle, q, rounds = [], HOME, []
    for angle in np.linspace(0, 0.5, 60):
        q = ARM.solve(q, np.array([0.45 + 0.1 * np.sin(angle), 0.1 * np.cos(angle), 0.2]), 0.0, 2)
        circle.append(Setpoint(q, 0.5))
    for _ in range(6):
        last, before = circle[10], time.process_time()
        for setpoint in circle[11:]:
            last = GATE.check(setpoint, last, state(last.q_rad), 0.0).setpoint
        rounds.append((time.process_time() - before) / len(circle[11:]))
    assert min(rounds) < 1.5e-3

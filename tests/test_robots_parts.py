"""The standard parts fit together: what the inverse kinematics finds, the forward finds again, and the gate judges."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.panda import panda
from latent_mpc.robots.parts import Parts, standard_parts
from latent_mpc.robots.robot import RobotState, Setpoint
from latent_mpc.types import InvalidInputError, WorkspaceSpec

SPEC = panda(Path(__file__).parents[1] / "envs/panda.xml")


def test_solve_forward_and_gate_agree_on_an_arm() -> None:
    parts = standard_parts(SPEC, WorkspaceSpec((0.2, -0.4, 0.02), (0.8, 0.4, 0.7)))
    home = np.array(SPEC.home_rad)
    begin = parts.forward(home)
    goal = begin.position_m + [0.01, 0.02, -0.01]
    q = home
    for _ in range(20):
        q = parts.solve(q, goal, begin.yaw_rad + 0.1)
    np.testing.assert_allclose(parts.forward(q).position_m, goal, atol=1e-4)
    assert abs(parts.forward(q).yaw_rad - begin.yaw_rad - 0.1) < 1e-3
    now_s = time.monotonic()
    state = RobotState(home, np.zeros(7), 1.0, now_s, now_s, 0)
    near, last = Setpoint(home + 0.001, 1.0), Setpoint(home, 1.0)
    assert parts.gate(near, last, state, now_s, sent_rad=home).kind == "ok"
    assert parts.gate(Setpoint(home + np.nan, 1.0), last, state, now_s, sent_rad=home).kind == "rejected"


def test_tightened_parts_keep_to_the_smaller_workspace_and_never_to_a_larger_one() -> None:
    wide = WorkspaceSpec((0.2, -0.4, 0.02), (0.8, 0.4, 0.7), speed_m_s=1.0)
    narrow = replace(wide, high_m=(0.8, 0.1, 0.7), keep_out_balls_m=((0.5, 0.3, 0.3, 0.05),))
    parts = standard_parts(SPEC, wide)
    tight = parts.tightened(narrow)
    home = np.array(SPEC.home_rad)

    def furthest(parts: Parts) -> float:
        """y of the tool, sent to y = 0.3 through the gate."""
        q = home
        for _ in range(150):
            wanted = Setpoint(parts.solve(q, np.array([0.45, 0.3, 0.4]), 0.0), 1.0)
            state = RobotState(q, np.zeros(7), 1.0, 0.0, 0.0, 0)
            q = parts.gate(wanted, Setpoint(q, 1.0), state, 0.0, sent_rad=q).setpoint.q_rad
        return float(parts.forward(q).position_m[1])

    assert furthest(parts) > 0.25 and 0.09 < furthest(tight) <= 0.1
    beyond = home
    for _ in range(30):
        beyond = parts.solve(beyond, np.array([0.45, 0.12, 0.4]), 0.0)
    assert parts.clear(home, beyond[None]) and not tight.clear(home, beyond[None])
    for looser in (wide, replace(narrow, keep_out_balls_m=()), replace(narrow, speed_m_s=1.1)):
        with pytest.raises(InvalidInputError, match="only be tightened"):
            tight.tightened(looser)

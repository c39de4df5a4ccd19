"""The standard parts fit together: what the inverse kinematics finds, the forward finds again, and the gate judges."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from latent_mpc.robots.panda import panda
from latent_mpc.robots.parts import standard_parts
from latent_mpc.robots.robot import RobotState, Setpoint
from latent_mpc.types import WorkspaceSpec

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

"""The limits of a gate are tightened from outside its process, in motion: a new wall holds and stays."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from latent_mpc.robots.channels import Phase
from latent_mpc.robots.controller import ControllerConfig
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.robot import DriverError
from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.simulation import Simulation
from latent_mpc.types import InvalidInputError, WorkspaceSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from soak import TURN_S, WORKSPACE, Circler, simulated_panda, supervise

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux has them")
LAG_M = 0.005  # of the true tool behind the setpoints
PATIENT = ControllerConfig(state_timeout_s=1.0, heartbeat_timeout_s=3.0, max_validity_s=10.0)  # with a busy machine


def test_a_wall_is_put_up_in_motion_and_stays(tmp_path: Path) -> None:
    arm = Simulation(simulated_panda(tmp_path))
    with arm as simulation, supervise(simulation, tmp_path / "run", PATIENT) as supervisor:
        kinematics = Kinematics(supervisor.spec)
        supervisor.arm(timeout_s=20.0)

        def reach_m() -> tuple[float, float]:
            """Smallest and largest y of the true tool while it goes round once."""
            begin_s, y, end_s = supervisor.status().motion_s, [], time.monotonic() + 60
            while supervisor.status().motion_s < begin_s + TURN_S:
                assert time.monotonic() < end_s, supervisor.status().reason
                y.append(kinematics.pose(simulation.truth().qpos[:7]).position_m[1])
                time.sleep(0.01)
            return min(y), max(y)

        with Circler(supervisor.ports, kinematics, valid_s=2.8):
            free = reach_m()
            assert free[0] < -0.04 and free[1] > 0.04
            narrow = replace(WORKSPACE, high_m=(WORKSPACE.high_m[0], 0.02, WORKSPACE.high_m[2]))
            supervisor.tighten(narrow)
            assert supervisor.status().phase is Phase.RUNNING
            reach_m()  # it may have been beyond
            held = reach_m()
            assert held[0] < -0.03 and 0.01 < held[1] < 0.02 + LAG_M
            for wider, why in ((WORKSPACE, "high_m"), (replace(narrow, table_m=None), "table"), (wild(), "at most 16")):
                with pytest.raises(InvalidInputError, match=why):
                    supervisor.tighten(wider)
            supervisor.tighten(narrow)  # as tight is no wider
            assert reach_m()[1] < 0.02 + LAG_M and supervisor.status().phase is Phase.RUNNING
        assert simulation.truth().violations == Violations()
    with pytest.raises(DriverError, match="no controller"):
        supervisor.tighten(narrow)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert events.count('"limits"') == 2


def wild() -> WorkspaceSpec:
    return replace(WORKSPACE, keep_out_balls_m=((9.0, 9.0, 9.0, 0.1),) * 17)

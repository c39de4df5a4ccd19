"""What the planner's process shows of its plans, and what it says when it cannot plan at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latent_mpc.agent import Agent, load_agent
from latent_mpc.navigator import _illustrator
from latent_mpc.navigator_link import Charge, View, view_dtype
from latent_mpc.robots.camera import Frame
from latent_mpc.robots.channels import Ports
from latent_mpc.robots.panda import panda
from latent_mpc.robots.slots import Slot
from latent_mpc.shipped import weights_folder
from latent_mpc.types import WorkspaceSpec
from latent_mpc.world_model.gallery import Gallery, load_gallery

PANDA = panda(Path(__file__).parents[1] / "envs/panda.xml")
GOAL = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def charge_of(weights: str | Path, view: str = "") -> Charge:
    workspace = WorkspaceSpec((0.3, -0.3, 0.0), (0.7, 0.3, 0.4))
    return Charge(weights, GOAL, 0, lambda: None, Ports("", "", 7), view, PANDA, workspace, os.getpid())  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def agent() -> Agent:
    return load_agent("panda-tabletop")


@pytest.fixture(scope="module")
def gallery(agent: Agent) -> Gallery:
    return load_gallery(weights_folder("panda-tabletop"), agent.model)


@pytest.mark.parametrize("index", [3, 400])
def test_a_subgoal_is_shown_as_the_frame_of_play_nearest_to_it(agent: Agent, gallery: Gallery, index: int) -> None:
    illustrate = _illustrator(charge_of("panda-tabletop"), agent)
    trace: Any = SimpleNamespace(subgoal=gallery.states[index].numpy())
    np.testing.assert_array_equal(illustrate(trace), gallery.frames[index])


def test_on_the_straight_way_the_goal_is_shown_and_without_frames_of_play_nothing(agent: Agent, tmp_path: Path) -> None:
    straight: Any = SimpleNamespace(subgoal=None)
    np.testing.assert_array_equal(_illustrator(charge_of("panda-tabletop"), agent)(straight), GOAL)
    assert _illustrator(charge_of(tmp_path), agent)(straight) is None


def test_a_picture_stays_until_there_is_another_and_a_complaint_is_read() -> None:
    slot = Slot(view_dtype(64))
    view = View(charge_of("", slot.name))

    def shown() -> np.void:
        read = slot.read()
        assert read is not None
        return read[0]

    try:
        np.testing.assert_array_equal(shown()["goal"], GOAL)
        assert not shown()["pictured"]
        frame = Frame(GOAL[::-1], 1, 0.0, 0.0)
        view.show(frame, None, None, 0.0, 0.1, "", GOAL[:, ::-1])
        view.show(frame, None, None, 0.0, 0.2, "")
        assert shown()["pictured"]
        np.testing.assert_array_equal(shown()["subgoal"], GOAL[:, ::-1])
        np.testing.assert_array_equal(shown()["image"], GOAL[::-1])
        view.complain("no camera " + 300 * "ä")
        assert shown()["complaint"].item().decode().startswith("no camera ää")
    finally:
        view.close()
        slot.close()


def test_its_parent_has_no_torch() -> None:

    code = "import sys, latent_mpc.drive, latent_mpc.stations, latent_mpc.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

"""What is seen at a moment: an image, and the arm as of the image; the same for whoever plans and whoever records."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.camera import Frame
from latent_mpc.robots.channels import Status
from latent_mpc.robots.parts import Pose
from latent_mpc.robots.robot import Array, RobotSpec

POLL_S = 0.002
MOVED_RAD = 0.01  # of a joint between frames: a camera sees that
REMEMBERED = 400  # statuses, to know the arm as of a frame


@dataclass(frozen=True)
class Sight:
    """What the pilot is told: an image, and the arm as of the image.

    Attributes:
        image: uint8 (H, W, 3). sequence: of the image.
        motion_s: the controller's motion clock when the image was taken.
        position_m, yaw_rad, width_m: the tool's position (3,) and yaw in the base's frame, and the fingers' distance.
    """

    image: NDArray[np.uint8]
    sequence: int
    motion_s: float
    position_m: Array
    yaw_rad: float
    width_m: float

    def observation(self) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
        """For the agent."""
        yaw = self.yaw_rad
        proprio = np.array([*self.position_m, math.sin(yaw), math.cos(yaw), self.width_m], np.float32)
        return {"image": self.image, "proprio": proprio}


def sighted(frame: Frame, past: deque[Status], forward: Callable[[Array], Pose], spec: RobotSpec) -> Sight:
    """A frame, and the arm when it was taken: as the camera says, or as the controller's statuses remember it.

    Raises:
        InvalidInputError: the frame is older than what is remembered.
    """
    if frame.q_rad is not None and frame.gripper is not None and frame.motion_s is not None:
        q_rad, gripper, motion_s = frame.q_rad, frame.gripper, frame.motion_s
    else:
        motion_s = past[-1].motion_at(frame.captured_s)
        tick = min((s.tick for s in past), key=lambda tick: abs(float(tick["now_s"]) - frame.captured_s))
        q_rad, gripper = tick["q_rad"], float(tick["gripper"])
    pose = forward(q_rad)
    width_m = gripper * spec.gripper_width_m
    return Sight(frame.image, frame.sequence, motion_s, pose.position_m, pose.yaw_rad, width_m)

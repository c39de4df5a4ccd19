"""The judge of camera frames: each fault by its name, and no sound frame refused."""

from __future__ import annotations

import numpy as np
import pytest

from latent_mpc.envs.tabletop import RandomisationConfig, TabletopConfig, TabletopEnv
from latent_mpc.robots.camera import Frame
from latent_mpc.robots.frame_check import FrameCheck, FrameLimits
from latent_mpc.types import InvalidInputError


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """30 starts, each in another light, by a camera that was knocked, on a table of nearly the same colour."""
    look = RandomisationConfig(light=0.3, table_colour=0.03, camera_deg=2.0, camera_m=0.01)
    env = TabletopEnv("PickPlace", TabletopConfig(num_objects=2, randomisation=look))
    images = [env.reset(seed=i, options={"goal_image": False})[0]["image"] for i in range(30)]
    env.close()
    return images


def frame(image: np.ndarray, sequence: int = 1, captured_s: float = 10.0) -> Frame:
    return Frame(image, sequence, captured_s, captured_s + 0.04)


def test_sound_frames_pass_and_swapped_ones_do_not(images) -> None:
    check = FrameCheck(FrameLimits((64, 64), reference=images[0]))
    assert check.tells_swapped
    for i, image in enumerate(images):
        assert check.judge(frame(image, 2 * i), 10.1, moving=True) is None
        swapped = check.judge(frame(image[..., ::-1], 2 * i + 1), 10.1, moving=True)
        assert swapped is not None and swapped.startswith("swapped")


def test_without_colour_nobody_can_tell(images) -> None:
    grey = images[0].mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)
    check = FrameCheck(FrameLimits((64, 64), reference=grey))
    assert not check.tells_swapped
    assert check.judge(frame(images[1][..., ::-1]), 10.1, moving=True) is None
    assert not FrameCheck(FrameLimits((64, 64))).tells_swapped


def test_age_is_counted_from_the_capture(images) -> None:
    check = FrameCheck(FrameLimits((64, 64)))
    assert check.judge(None, 0.0, moving=False).startswith("stalled")
    assert check.judge(frame(images[0]), 10.249, moving=True) is None
    assert check.judge(frame(images[0]), 10.251, moving=False).startswith("stalled: frame 1 is 251 ms old")


def test_size_and_blankness(images) -> None:
    check = FrameCheck(FrameLimits((64, 64)))
    for wrong in (images[0][:32], images[0].astype(np.float32), images[0][..., 0]):
        assert check.judge(frame(wrong), 10.1, moving=True).startswith("wrong size")
    noise = np.random.default_rng(0).integers(0, 4, (64, 64, 3), dtype=np.uint8)
    for blank in (np.zeros_like(images[0]), np.full_like(images[0], 255), noise):
        assert check.judge(frame(blank), 10.1, moving=False).startswith("blank")


def test_repeated_pixels_count_only_in_new_frames_of_a_moving_arm(images) -> None:
    check = FrameCheck(FrameLimits((64, 64), repeats=3))

    def judge(sequence: int, image: int, moving: bool) -> str | None:
        return check.judge(frame(images[image], sequence), 10.1, moving)

    assert [judge(1, 0, True) for _ in range(9)] == [None] * 9  # one frame, looked at often
    assert [judge(i, 0, False) for i in range(2, 9)] == [None] * 7  # the arm rests
    assert [judge(i, i % 2, True) for i in range(9, 19)] == [None] * 10
    assert judge(20, 2, True) is None
    assert judge(21, 2, True) is None
    assert judge(22, 2, True).startswith("repeated: the same pixels 3 times")
    assert judge(22, 2, True).startswith("repeated")  # still, until another comes
    assert judge(23, 2, False).startswith("repeated")  # also when the arm was stopped for it
    assert judge(24, 3, True) is None


def test_limits_refuse_the_impossible(images) -> None:
    for bad in ({"size": (0, 64)}, {"max_age_s": 0.0}, {"repeats": 1}, {"reference": images[0][:32]}):
        with pytest.raises(InvalidInputError):
            FrameLimits(**({"size": (64, 64)} | bad))

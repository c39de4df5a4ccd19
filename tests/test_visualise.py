"""Pictures of an episode: the right frames in the right places, curves that grow, a video that decodes."""

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from latent_mpc.types import InvalidInputError
from latent_mpc.visualise import HOLD_S, EpisodeRecord, filmstrip, plan_strip, save_episode, video_frames

RED, GREEN, BLUE = ([200, 20, 20], [20, 200, 20], [20, 20, 200])
STEPS = 10


def plain(colour, size=64):
    return np.full((size, size, 3), colour, np.uint8)


def make_record(**changes):
    """Scene gets brighter with time; goal red, subgoals green, coarse plan blue."""
    values = {
        "frames": [plain([10 * t + 40] * 3) for t in range(STEPS + 1)],
        "goal_image": plain(RED),
        "goal_energy": np.linspace(1, 0, STEPS),
        "success": True,
        "position_error_m": 0.012,
        "act_times_s": np.full(STEPS, 0.1),
        "control_dt_s": 0.2,
        "subgoal_frames": [plain(GREEN)] * STEPS,
        "subgoal_energy": np.linspace(0.2, 0.1, STEPS),
        "plan_frames": [[plain(GREEN), plain(BLUE)]] * STEPS,
    }
    return EpisodeRecord(**{**values, **changes})


def share(image, colour, tolerance=6):
    return float((np.abs(image.astype(int) - colour).max(axis=-1) <= tolerance).mean())


def test_video_shows_scene_goal_subgoal_and_plan():
    frames = list(video_frames(make_record()))
    assert len(frames) == STEPS + 1 + round(HOLD_S / 0.2)
    assert {f.shape for f in frames} == {frames[0].shape}
    height, width, _ = frames[0].shape
    assert width == 640 and height % 2 == 0
    for t in (0, 4, STEPS):
        scene = share(frames[t], [10 * t + 40] * 3, 0) * height * width
        assert scene >= 400 * 400  # the scene of step t, not of another
    area = 188 * 188 / (height * width)
    assert share(frames[3], RED) > area and share(frames[3], GREEN) > area and share(frames[3], BLUE) > 0.01


def test_without_subgoals_there_is_no_panel_for_them():
    bare = make_record(subgoal_frames=None, subgoal_energy=None, plan_frames=None)
    frames, full = list(video_frames(bare)), next(video_frames(make_record()))
    assert share(frames[0], GREEN) == share(frames[0], BLUE) == 0
    assert frames[0].shape[0] < full.shape[0]


def test_energy_curves_grow_with_time_and_are_never_ahead():
    panels = [frame[-140:-50].astype(int) for frame in list(video_frames(make_record()))[1:STEPS]]
    teal = [0, 121, 140]
    ends = [np.flatnonzero((np.abs(panel - teal).max(-1) < 40).any(0)).max() for panel in panels]
    assert (np.diff(ends) > 20).all()


def test_missing_energies_are_left_out_of_the_axes():
    energy = np.linspace(1, 0, STEPS)
    energy[:3] = np.nan
    frames = list(video_frames(make_record(goal_energy=energy)))
    assert len(frames) == STEPS + 11
    list(video_frames(make_record(goal_energy=np.full(STEPS, np.nan), subgoal_energy=None)))


def test_the_verdict_tells_success_and_centimetres():
    assert make_record().verdict == "success, 1.2 cm from the goal"
    assert make_record(success=False).verdict == "no success, 1.2 cm from the goal"


def test_filmstrip_runs_from_first_to_last_frame_and_ends_with_the_goal():
    strip = filmstrip(make_record(), columns=8, side=100)
    row = strip[34 + 50]
    greys = [int(p[0]) for p in row if p[0] == p[1] == p[2] and p[0] < 200]
    shown = list(dict.fromkeys(greys))
    assert len(shown) == 8 and shown == sorted(shown) and shown[0] == 40 and shown[-1] == 40 + 10 * STEPS
    reds = np.flatnonzero(np.abs(row.astype(int) - RED).max(-1) < 6)
    assert len(reds) >= 100 and reds.min() > np.flatnonzero(row[:, 0] == 40 + 10 * STEPS).max()
    assert share(strip, GREEN) > 0.1


def test_filmstrip_of_a_short_episode_repeats_no_frame():
    record = make_record(
        **{k: getattr(make_record(), k)[:2] for k in ("goal_energy", "act_times_s", "subgoal_frames", "plan_frames")},
        frames=make_record().frames[:3],
        subgoal_energy=None,
    )
    row = filmstrip(record, side=100)[34 + 50]
    assert [v for v in (40, 50, 60) if (row == v).all(-1).sum() == 100] == [40, 50, 60]


def test_plan_strip_ends_with_the_goal():
    strip = plan_strip([plain(GREEN)] * 4 + [plain(BLUE)], plain(RED))
    row = strip[20 + 10].astype(int)
    columns = [np.flatnonzero(np.abs(row - c).max(-1) < 6) for c in (GREEN, BLUE, RED)]
    assert columns[0].max() < columns[1].min() and columns[1].max() < columns[2].min()
    assert strip.shape[1] == 640


def test_save_episode_writes_a_video_that_decodes_at_the_rate_of_the_world(tmp_path):
    video, strip = save_episode(make_record(), tmp_path / "new")
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert count == STEPS + 11 and seconds == pytest.approx(count * 0.2, abs=0.25)
    reader = imageio_ffmpeg.read_frames(str(video))
    meta = next(reader)
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    width, height = meta["size"]
    first = np.frombuffer(next(reader), np.uint8).reshape(height, width, 3)
    reader.close()
    drawn = next(video_frames(make_record()))
    assert np.abs(first.astype(int) - drawn).mean() < 3
    assert Image.open(strip).size[0] > 1000
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["episode.mp4", "filmstrip.png"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frames": [plain(RED)]}, "at least 2 frames"),
        ({"goal_energy": np.zeros(STEPS + 1)}, r"goal_energy must have one entry an action \(10\), got 11"),
        ({"subgoal_frames": [plain(RED)]}, "subgoal_frames must have"),
        ({"goal_image": np.zeros((4, 4), np.uint8)}, r"shape \(H, W, 3\)"),
        ({"goal_image": np.zeros((4, 4, 3))}, "must be uint8"),
    ],
)
def test_records_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        make_record(**changes)


def test_plan_strips_of_any_length_are_of_one_size():
    frame = np.zeros((64, 64, 3), np.uint8)
    assert (
        plan_strip([frame], frame).shape == plan_strip([frame] * 5, frame).shape == plan_strip([frame] * 9, frame).shape
    )

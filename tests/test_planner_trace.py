"""Traces come back whole or not at all."""

import random

import pytest
import torch
from safetensors.torch import save_file

from latent_mpc.planner import PlanTrace, Scores, make_planner
from latent_mpc.types import InvalidInputError


def recorded(plans=3):
    planner = make_planner("cem", horizon=6, action_dim=2, num_samples=40, num_iterations=4)
    trace = PlanTrace()
    for step in range(plans):
        plan = planner.plan(
            lambda a: Scores(a.square().sum((-1, -2)), a[:, :, 0, 0] - 0.1),
            generator=torch.Generator().manual_seed(step),
            callback=trace.on_iteration,
        )
        trace.planned(step, plan, torch.rand(1, 6))
        trace.realised(step + 1, torch.rand(1))
    return trace


def test_everything_survives_the_disk(tmp_path):
    trace = recorded(12)  # past ten, where names no longer sort as numbers do
    trace.save(tmp_path / "a")
    loaded = PlanTrace.load(tmp_path / "a")
    for old, new in (
        (trace.iterations, loaded.iterations),
        (trace.plans, loaded.plans),
        ([trace.energies], [loaded.energies]),
    ):
        assert len(old) == len(new)
        for a, b in zip(old, new, strict=True):
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert len(loaded.iterations) == 48
    shares = torch.stack([it["feasible_share"] for it in loaded.iterations])
    assert 0 < float(shares.min()) < 1
    more = recorded(1)
    loaded.on_iteration = more.on_iteration
    loaded.planned(
        20, make_planner("cem", horizon=6, action_dim=2).plan(lambda a: a[..., 0, 0], generator=torch.Generator())
    )
    assert loaded.plans[-1]["iterations"].tolist() == [48, 48]
    PlanTrace().save(tmp_path / "empty")
    assert PlanTrace.load(tmp_path / "empty").plans == []


def test_truncated_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a"
    recorded().save(path)
    whole = path.read_bytes()
    bad = tmp_path / "b"
    draw = random.Random(0)
    cuts = [whole[:n] for n in (*range(0, len(whole), len(whole) // 40), len(whole) - 1)]
    flips = []
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        flips.append(bytes(damaged))
    for content in (*cuts, *flips):
        bad.write_bytes(content)
        try:
            loaded = PlanTrace.load(bad)
        except InvalidInputError:
            continue
        # a flip may turn a blank of the header into another one, and nothing else
        assert content in flips
        assert all(torch.equal(a, b) for a, b in zip(loaded.replay(), PlanTrace.load(path).replay(), strict=True))


def test_what_is_no_trace_is_refused(tmp_path):
    save_file({"predictor.0.weight": torch.zeros(2)}, tmp_path / "weights")
    save_file({}, tmp_path / "nothing")
    for name in ("weights", "nothing", "missing", "."):
        with pytest.raises(InvalidInputError, match="not a plan trace"):
            PlanTrace.load(tmp_path / name)
    with pytest.raises(InvalidInputError, match="cannot write"):
        recorded(1).save(tmp_path / "no" / "folder")


@pytest.mark.parametrize(
    "broken",
    [
        lambda trace: trace.plans[0].pop("step"),
        lambda trace: trace.plans[0].update(predicted=torch.zeros(6)),
        lambda trace: trace.energies.update({1: torch.zeros(())}),
        lambda trace: trace.plans[0].update({"a/b": torch.zeros(1)}) or trace.plans[0].pop("cost"),
    ],
)
def test_incomplete_traces_are_refused(tmp_path, broken):
    trace = recorded(1)
    broken(trace)
    trace.save(tmp_path / "a")
    with pytest.raises(InvalidInputError):
        PlanTrace.load(tmp_path / "a")


def test_records_of_a_wrong_shape_are_refused():
    trace = recorded(1)
    for energy in (0.5, torch.zeros(()), torch.zeros(1, 1)):
        with pytest.raises(InvalidInputError):
            trace.realised(3, energy)
    trace.realised(3, torch.zeros(4))
    with pytest.raises(InvalidInputError, match="one batch"):
        trace.replay()

"""The training loop: resumes to the same bits, refuses other settings, and never saves a broken state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latent_mpc.types import InvalidInputError, LatentMPCError
from latent_mpc.world_model import fit as module
from latent_mpc.world_model.fit import FitConfig, fit

CONFIG = FitConfig(steps=70, batch_size=8, learning_rate=0.02, warmup_steps=5)
SETTINGS = {"seed": 3, "rate": 1e-5, "sizes": (2, 1)}
SLOPE = torch.tensor([[1.0], [-2.0]])


class Regression:
    """A linear map to learn; `before` is called with the number of the batch drawn, after it was drawn."""

    def __init__(self, before: Callable[[int], None] = lambda step: None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Linear(2, 1)
        self.before, self.drawn, self.broken_from = before, 0, 10**9

    def losses(self, generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.randn(CONFIG.batch_size, 2, generator=generator)
        self.drawn += 1
        self.before(self.drawn)
        error = (self.model(x) - x @ SLOPE).square().mean()
        return {"fit": error, "decay": 0.0 * error if self.drawn < self.broken_from else error / 0.0}

    def run(self, folder: Path, config: FitConfig = CONFIG, settings: dict = SETTINGS, progress=None) -> nn.Linear:
        fit(self.model, self.losses, config, seed=3, folder=folder, settings=settings, progress=progress)
        return self.model


def bits(model: nn.Module) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]


def interrupt_at(step: int) -> Callable[..., None]:
    def callback(at: int, *_: object) -> None:
        if at == step:
            raise KeyboardInterrupt

    return callback


def test_it_learns_and_reports_and_keeps_the_losses(tmp_path: Path) -> None:
    reports: list[tuple[int, dict]] = []
    model = Regression().run(
        tmp_path, FitConfig(300, 8, 0.05, 5), progress=lambda step, terms: reports.append((step, terms))
    )
    torch.testing.assert_close(model.weight, SLOPE.T, atol=0.05, rtol=0)
    assert [step for step, _ in reports] == list(range(20, 301, 20))
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [(line["step"], line["fit"]) for line in lines] == [(step, terms["fit"]) for step, terms in reports]
    assert lines[-1]["fit"] < 0.01 * lines[0]["fit"]


@pytest.mark.parametrize("where", ["between steps", "inside a step"])
def test_ctrl_c_saves_and_resuming_gives_the_same_bits(where: str, tmp_path: Path) -> None:
    whole = Regression().run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        if where == "between steps":
            Regression().run(tmp_path / "cut", progress=interrupt_at(40))
        else:
            Regression(interrupt_at(34)).run(tmp_path / "cut")
    resumed = Regression()
    assert bits(resumed.run(tmp_path / "cut")) == bits(whole)
    assert resumed.drawn == (30 if where == "between steps" else 37)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "losses.jsonl").read_text().splitlines()]
    assert steps == [20, 40, 60, 70]


def test_a_kill_costs_only_what_came_after_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Regression().run(tmp_path / "whole")
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)  # after every step

    def copy_disk(step: int) -> None:
        if step == 31:  # what a kill leaves at this moment
            shutil.copytree(tmp_path / "killed", tmp_path / "cut")

    Regression(copy_disk).run(tmp_path / "killed")
    resumed = Regression()
    assert bits(resumed.run(tmp_path / "cut")) == bits(whole)
    assert resumed.drawn == 40


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    whole = Regression().run(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = Regression(interrupt_at(1))
    assert bits(again.run(tmp_path)) == bits(whole) and again.drawn == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_only_trainable_parameters_change(tmp_path: Path) -> None:
    frozen = Regression()
    frozen.model.bias.requires_grad_(False)
    before = frozen.model.bias.clone()
    frozen.run(tmp_path / "a")
    assert torch.equal(frozen.model.bias, before)
    again = Regression()
    again.model.bias.requires_grad_(False)
    assert bits(again.run(tmp_path / "a")) == bits(frozen.model)


def test_other_settings_are_refused_and_the_state_stays(tmp_path: Path) -> None:
    whole = Regression().run(tmp_path)
    with pytest.raises(InvalidInputError, match=r"other settings.*choose another folder"):
        Regression().run(tmp_path, settings={**SETTINGS, "rate": 2e-5})
    assert bits(Regression().run(tmp_path)) == bits(whole)


def test_a_truncated_state_is_refused_and_left_alone(tmp_path: Path) -> None:
    Regression().run(tmp_path)
    path = tmp_path / "model.safetensors"
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half)
    with pytest.raises(InvalidInputError, match="truncated"):
        Regression().run(tmp_path)
    assert path.read_bytes() == half


def test_a_loss_that_is_not_finite_raises_and_the_last_good_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Regression().run(tmp_path, progress=interrupt_at(20))
    broken = Regression()
    broken.broken_from = 13  # of this run: step 33
    with pytest.raises(LatentMPCError, match=r"not finite at step 40: .*lower the learning rate"):
        broken.run(tmp_path)
    assert not all(p.isfinite().all() for p in broken.model.parameters())
    resumed = Regression()
    assert bits(resumed.run(tmp_path)) == bits(Regression().run(tmp_path / "whole"))
    assert resumed.drawn == 50


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"warmup_steps": -1}, {"weight_decay": -1.0}]
)
def test_impossible_settings_are_refused(values: dict) -> None:
    with pytest.raises(InvalidInputError):
        FitConfig(**values)

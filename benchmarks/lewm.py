"""The baseline LeWM, as stable-worldmodel implements it: trained on our play for a given time, asked for our goals.

    training    min  mean ‖f(z_{t-2..t}, a_{t-2..t}) − z_{t+1}‖² + 0.09 SIGReg(z),    z_t = e(o_t)
    planning    min_a  ‖z_H − e(o_goal)‖²    s.t.  z_{k+1} = f(z_{k-2..k}, a_{k-2..k})    by CEM, in receding horizon

The library's are model, SIGReg, action scaler, CEM and policy; one step t of the model is a block of five actions. Its
package has no training loop. The one here puts the loss together as scripts/train/lewm.py of its repository does, with
the numbers that its authors published (lucas-maes/le-wm, config/train): ViT-tiny, batch 128, AdamW 5e-5, weight decay
1e-3, gradients clipped at 1, bfloat16, 1 % warm-up, then a cosine. `LeWMConfig` says what differs.

    pip install -c constraints.txt 'latent-mpc[lewm]'
    python benchmarks/lewm.py --data data/play --out runs/lewm --minutes 30 --episodes 100

Typed again, it goes on where it was interrupted. Source: LeWorldModel, arXiv 2603.19312.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from latent_mpc.config import load_config
from latent_mpc.envs.make import env_id_of, make_env
from latent_mpc.evaluation import FIRST_SEED, EvalConfig, Evaluation, Job, _summarise, read_log, scene_of
from latent_mpc.loop import run_episode
from latent_mpc.types import InvalidInputError, LatentMPCError
from latent_mpc.world_model.dataset import PlayDataset, plain, write_whole

NEEDS = ("stable_worldmodel", "transformers", "torchvision")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours
HISTORY, WIDTH, WARM_UP, SAVE_EVERY_S, CHECKPOINT = 3, 192, 0.01, 60.0, "lewm.pt"


@dataclass(frozen=True)
class LeWMConfig:
    """The authors' numbers, unless said.

    Attributes:
        image_size, patch_size: pixels; theirs are 224 and 14. Of play's 64, patches of 4 are their 16 × 16 at their
            cost, and 8 a quarter of it.
        frameskip: actions in a step of the model.
        batch_size, learning_rate: of the training.
        bf16: train and plan in mixed precision.
        horizon, receding: steps of the model in a plan, and of those that are acted on before the next one.
        samples, iterations: of CEM; a tenth of the samples are its elites.
        seed: of weights, batches and noise.
    """

    image_size: int = 64
    patch_size: int = 8
    frameskip: int = 5
    batch_size: int = 128
    learning_rate: float = 5e-5
    bf16: bool = True
    horizon: int = 5
    receding: int = 5
    samples: int = 300
    iterations: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"patches of {self.patch_size} pixels do not tile an image of {self.image_size}")
        if not 1 <= self.receding <= self.horizon or self.samples < 20:
            raise ValueError("need 1 <= receding <= horizon, and at least 20 samples")

    @property
    def training(self) -> dict[str, Any]:
        """What a checkpoint depends on."""
        return {k: v for k, v in asdict(self).items() if k not in ("horizon", "receding", "samples", "iterations")}

    @property
    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 where torch finds it safe, or nothing."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)


def require_library() -> None:
    """Make the library importable; InvalidInputError if a package is missing."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInputError(f"LeWM needs {', '.join(missing)}: pip install -c constraints.txt 'latent-mpc[lewm]'")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # PyPI's loads no operators beside a CPU build of torch; what it then asks for is unused here
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")


def clip_starts(play: PlayDataset, episodes: NDArray[np.int64], frameskip: int) -> NDArray[np.int64]:
    """First frame of each clip of `HISTORY` + 1 steps in some episodes, (N,); InvalidInputError if there is none."""
    span = (HISTORY + 1) * frameskip
    starts = play.clip_starts(span - 1, episodes)
    if not len(starts):
        raise InvalidInputError(f"no episode has the {span} frames of a clip; collect longer ones")
    return starts


def clips(play: PlayDataset, starts: NDArray[np.int64], frameskip: int) -> dict[str, Tensor]:
    """Pixels uint8 (B, T, 3, H, W), and the raw actions that follow each (B, T, frameskip, A); T = `HISTORY` + 1."""
    frames = starts[:, None] + frameskip * np.arange(HISTORY + 1)
    pixels = torch.from_numpy(play.image[frames]).movedim(-1, 2)
    return {"pixels": pixels, "action": torch.from_numpy(play.action[frames[..., None] + np.arange(frameskip)])}


def prepared(pixels: Any, size: int) -> Tensor:
    """Pixels uint8 (..., 3, H, W) as the encoder wants them: in ImageNet's scale, (..., 3, size, size)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    x = (torch.as_tensor(pixels) / 255 - mean) / std
    if x.shape[-2:] == (size, size):
        return x
    flat = F.interpolate(x.reshape(-1, *x.shape[-3:]), (size, size), mode="bilinear", antialias=True)
    return flat.reshape(*x.shape[:-2], size, size)


def make_lewm(config: LeWMConfig, action_dim: int) -> Any:
    """The library's model at its published size."""
    from stable_worldmodel.wm.lewm import LeWM
    from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
    from transformers import ViTConfig, ViTModel

    image = {"image_size": config.image_size, "patch_size": config.patch_size}
    vit = ViTConfig(hidden_size=WIDTH, num_attention_heads=3, intermediate_size=4 * WIDTH, **image)  # 12 layers, tiny
    sizes = {"depth": 6, "heads": 16, "dim_head": 64, "mlp_dim": 2048, "dropout": 0.1}
    return LeWM(
        encoder=ViTModel(vit, add_pooling_layer=False, use_mask_token=False),
        predictor=Predictor(num_frames=HISTORY, input_dim=WIDTH, hidden_dim=WIDTH, output_dim=WIDTH, **sizes),
        action_encoder=Embedder(input_dim=config.frameskip * action_dim, emb_dim=WIDTH),
        projector=MLP(WIDTH, 2048, WIDTH, norm_fn=nn.BatchNorm1d),
        pred_proj=MLP(WIDTH, 2048, WIDTH, norm_fn=nn.BatchNorm1d),
    )


def losses(model: Any, sigreg: Any, batch: dict[str, Tensor]) -> Tensor:
    """Error of the next latent, and SIGReg of all latents, (2,)."""
    found = model.encode(batch)
    z = found["emb"]  # (B, T, D)
    predicted = model.predict(z[:, :HISTORY], found["act_emb"][:, :HISTORY])
    return torch.stack([(predicted - z[:, 1:]).float().square().mean(), sigreg(z.transpose(0, 1))])


def train(config: LeWMConfig, play: PlayDataset, out: Path, minutes: float) -> tuple[Any, dict[str, Any]]:
    """Train, or go on, until the processor has spent so many minutes; the model, and what its checkpoint holds."""
    from stable_worldmodel.wm.loss import SIGReg

    episodes, _ = play.split(0.1, config.seed)
    starts = clip_starts(play, episodes, config.frameskip)
    torch.manual_seed(config.seed)
    model, sigreg = make_lewm(config, play.header.action_dim), SIGReg(knots=17, num_proj=1024)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3, fused=True)
    actions = torch.from_numpy(play.action[play.clip_starts(1, episodes)])
    hours = len(actions) * play.header.control_dt_s / 3600
    state = {"settings": config.training | {"episodes": len(episodes), "hours": hours}}
    state |= {"mean": actions.mean(0, True), "std": actions.std(0, keepdim=True)}
    state |= {"steps": 0, "seconds": 0.0, "losses": torch.zeros(0, 2)}
    if (out / CHECKPOINT).exists():
        settings, state = state["settings"], torch.load(out / CHECKPOINT, weights_only=True)
        if state["settings"] != settings:
            raise InvalidInputError(f"{out} holds a model of other settings or data; give another folder")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    draw = np.random.default_rng([config.seed, state["steps"]])
    torch.manual_seed(config.seed + state["steps"])  # dropout and SIGReg draw from the global generator
    budget_s, saved_s = 60 * minutes, state["seconds"]
    with tqdm(total=round(budget_s), initial=round(saved_s), desc="LeWM", unit="cpu-s") as bar:
        while state["seconds"] < budget_s:
            started = time.process_time()
            gone = state["seconds"] / budget_s
            cosine = min(1.0, gone / WARM_UP + 1e-3) * (1 + math.cos(math.pi * gone)) / 2
            optimizer.param_groups[0]["lr"] = config.learning_rate * cosine
            batch = clips(play, starts[draw.integers(len(starts), size=config.batch_size)], config.frameskip)
            batch["pixels"] = prepared(batch["pixels"], config.image_size)
            batch["action"] = ((batch["action"] - state["mean"]) / state["std"]).flatten(2)
            with config.precision:
                parts = losses(model.train(), sigreg, batch)
            optimizer.zero_grad(set_to_none=True)
            (parts[0] + 0.09 * parts[1]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            state["losses"] = torch.cat([state["losses"], parts.detach()[None]])
            state["steps"] += 1
            state["seconds"] += time.process_time() - started
            bar.update(round(state["seconds"]) - bar.n)
            bar.set_postfix(steps=state["steps"], error=f"{parts[0]:.3f}", sigreg=f"{parts[1]:.1f}")
            if state["seconds"] >= min(saved_s + SAVE_EVERY_S, budget_s):
                saved_s, buffer = state["seconds"], io.BytesIO()
                state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, buffer)
                write_whole(out / CHECKPOINT, buffer.getvalue())
    return model.eval().requires_grad_(False), state


class LeWMAgent:
    """The library's policy and CEM on a trained model, as an agent of ours; of an observation it reads the image."""

    def __init__(self, model: Any, state: dict[str, Any], config: LeWMConfig) -> None:
        """`state` holds mean and standard deviation of the actions, (1, A)."""
        from stable_worldmodel.data.normalization import ZScoreScaler

        self._model, self._config = model, config
        self._scaler = ZScoreScaler(state["mean"].numpy(), state["std"].numpy())
        one, all_envs = (Box(-1, 1, shape) for shape in (state["mean"].shape[1:], state["mean"].shape))
        self._env = SimpleNamespace(num_envs=1, single_action_space=one, action_space=all_envs)

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """A new goal, and nothing planned."""
        from stable_worldmodel.policy import PlanConfig, WorldModelPolicy
        from stable_worldmodel.solver import CEMSolver

        c = self._config
        search = {"num_samples": c.samples, "n_steps": c.iterations, "topk": c.samples // 10}
        solver = CEMSolver(self._model, **search, seed=seed or 0)
        plan = PlanConfig(horizon=c.horizon, receding_horizon=c.receding, action_block=c.frameskip)
        transform = dict.fromkeys(("pixels", "goal"), lambda pixels: prepared(pixels, c.image_size))
        self._policy = WorldModelPolicy(solver, plan, process={"action": self._scaler}, transform=transform)
        self._policy.set_env(self._env)
        self._goal = goal_image

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The next action of the plan, clipped to the box; plans where there is none left."""
        unused = np.zeros((1, *self._env.action_space.shape), np.float32)  # it wants the key
        info = {"pixels": observation["image"][None, None], "goal": self._goal[None, None], "action": unused}
        with contextlib.redirect_stdout(io.StringIO()), self._config.precision:  # it prints its time
            action = self._policy.get_action(info)
        return np.clip(action[0], -1, 1).astype(np.float32)


def evaluate(agent: LeWMAgent, scenes: EvalConfig, log: Path) -> Evaluation:
    """Run the episodes that are missing in `log`, on the seeds of `latent-mpc eval`, and summarise."""
    jobs = [Job(task, "LeWM", FIRST_SEED + i) for task in scenes.tasks for i in range(scenes.episodes)]
    results = read_log(log)
    with open(log, "a") as file:
        file.write("\n" if file.tell() else "")  # a killed run may have left half a line
        for job in tqdm(jobs, "evaluating", unit="episode"):
            if job not in results:
                scene = scene_of(job.task, scenes)
                with contextlib.closing(make_env(env_id_of(scene.task), scene.env, scene.split)) as env:
                    results[job] = run_episode(env, agent, seed=job.seed)
                file.write(json.dumps({**asdict(job), **asdict(results[job])}) + "\n")
                file.flush()
    return Evaluation(tuple(_summarise(t, "LeWM", [results[j] for j in jobs if j.task == t]) for t in scenes.tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description="train LeWM on play, and let it plan for our goal images")
    parser.add_argument("--data", type=Path, required=True, help="play, as `latent-mpc collect` writes it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30, help="of training, in processor time of all threads")
    parser.add_argument("--episodes", type=int, default=100, help="of each task")
    parser.add_argument("--config", default="panda_tabletop", help="whose tasks and environment are evaluated")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of LeWMConfig")
    a = parser.parse_args()
    try:
        require_library()
        config = load_config(LeWMConfig, None, a.overrides)
        scenes = load_config(EvalConfig, a.config, [f"episodes={a.episodes}"], section="eval")
        play = PlayDataset.load(a.data)
        a.out.mkdir(parents=True, exist_ok=True)
        model, state = train(config, play, a.out, a.minutes)
        settings = {"steps": state["steps"], "seconds": state["seconds"], "env": plain(scenes.env)}
        settings |= state["settings"] | asdict(config) | {"split": scenes.split}
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
        evaluation = evaluate(LeWMAgent(model, state, config), scenes, a.out / f"episodes-{digest}.jsonl")
    except LatentMPCError as error:
        parser.exit(2, f"{error}\n")
    report = {
        "library": f"stable-worldmodel {version('stable-worldmodel')}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": settings,
        "losses": dict(zip(("error", "sigreg"), state["losses"][-50:].mean(0).tolist(), strict=True)),
        "rows": [asdict(row) for row in evaluation.rows],
    }
    write_whole(a.out / "results.json", json.dumps(report, indent=1).encode())
    write_whole(a.out / "table.md", f"{evaluation}\n".encode())
    print(evaluation)


if __name__ == "__main__":
    main()

"""What planning costs beside the model: 10 iterations of 300 samples, horizon 10, 7 action entries, one thread.

    python benchmarks/planner_overhead.py

The cost of a sequence is its first entry, so that nearly all of the time is the method's own. Methods take turns, for
a busy machine to slow all of them alike; stable-worldmodel's take part where it is installed.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from tqdm import tqdm

from latent_mpc.planner import make_planner

HORIZON, ACTION_DIM, SAMPLES, ITERATIONS = 10, 7, 300, 10
ROUNDS = 100


def first_entry(actions: torch.Tensor) -> torch.Tensor:
    """(B, S, H, A) -> (B, S)."""
    return actions[:, :, 0, 0]


def ours(name: str, problems: int = 1) -> Callable[[], object]:
    planner = make_planner(name, horizon=HORIZON, action_dim=ACTION_DIM, num_samples=SAMPLES, num_iterations=ITERATIONS)
    generators = [torch.Generator().manual_seed(b) for b in range(problems)]
    return lambda: planner.plan(first_entry, generator=generators)


def stable_worldmodel() -> dict[str, Callable[[], object]]:
    """Its CEM and iCEM with the same settings; empty where it is not installed."""
    try:
        import gymnasium
        import stable_worldmodel.solver as solvers
    except ImportError:
        return {}

    class Model:
        def get_cost(self, info: object, actions: torch.Tensor) -> torch.Tensor:
            return first_entry(actions)

        criterion = get_cost

    def solve(name: str) -> Callable[[], object]:
        solver = getattr(solvers, name)(Model(), num_samples=SAMPLES, n_steps=ITERATIONS, seed=0)
        box = gymnasium.spaces.Box(-1, 1, (1, ACTION_DIM))
        solver.configure(action_space=box, n_envs=1, config=SimpleNamespace(horizon=HORIZON, action_block=1))

        def run() -> object:
            with contextlib.redirect_stdout(io.StringIO()):
                return solver.solve({"state": torch.zeros(1, 1)})

        return run

    return {"stable-worldmodel CEM": solve("CEMSolver"), "stable-worldmodel iCEM": solve("ICEMSolver")}


def main() -> None:
    torch.set_num_threads(1)
    contenders = {
        "cem": ours("cem"),
        "icem": ours("icem"),
        "more": ours("more"),
        "cem, eight problems": ours("cem", 8),
        "icem, eight problems": ours("icem", 8),
        **stable_worldmodel(),
    }
    times_ms: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in tqdm(range(ROUNDS), desc="overhead", unit="round"):
        for name, plan in contenders.items():
            began_s = time.perf_counter()
            plan()
            times_ms[name].append(1e3 * (time.perf_counter() - began_s))
    reference = np.median(times_ms["cem"])
    print("| | median, ms | fastest tenth, ms | over cem |\n|---|---|---|---|")
    for name, times in times_ms.items():
        median = np.median(times)
        print(f"| {name} | {median:.2f} | {np.quantile(times, 0.1):.2f} | {median / reference:.2f} |")


if __name__ == "__main__":
    main()

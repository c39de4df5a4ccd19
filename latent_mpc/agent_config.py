"""How an agent plans: what it searches, how far, and what it weighs; the symbols are agent.py's."""

from __future__ import annotations

from dataclasses import dataclass, field

from latent_mpc.tool_guardrails import GuardrailConfig
from latent_mpc.types import InvalidInputError, UnknownNameError

PLANNERS = ("hierarchy", "flat", "prior")


@dataclass(frozen=True)
class SearchConfig:
    """A CEM: candidates an iteration, iterations, and the initial standard deviation, in half boxes."""

    num_samples: int
    num_iterations: int
    init_std: float = 1.0

    def __post_init__(self) -> None:
        if min(self.num_samples, self.num_iterations) < 1 or not self.init_std > 0:
            raise InvalidInputError(
                f"num_samples and num_iterations must be at least 1 and init_std positive, got {self}"
            )


@dataclass(frozen=True)
class AgentConfig:
    """How the agent plans.

    Attributes:
        planner: "hierarchy"; for comparison "flat" (CEM on actions to the goal itself) or "prior" (the likeliest
            macro-action, without planning: goal-conditioned behaviour cloning of play).
        coarse_dynamics: what predicts where a macro-action leads: "decoded" (its actions, through the fine dynamics) or
            "macro" (the coarse dynamics, a fifth of the work).
        coarse: search over `coarse_horizon` macro-actions, in multiples of their prior's standard deviation. Few
            iterations: late ones fit the model's errors.
        fine: search over actions towards the first subgoal, around the decoded macro-action.
        settle: search over `settle_horizon` actions to the goal, once the scene is arranged; few, as the model comes to
            believe that a hand that rests moves things.
        place: search over as many actions to a pose, to put one thing onto another: exact, as it may fall.
        flat: search over `flat_horizon` actions of the flat planner; by default as many predictions as the hierarchy's.
        execute_steps: actions executed of a plan; settle_steps: of one that settles.
        track: between plans, search the rest of the fine plan again from what was seen, towards the same subgoal.
        patience: plans for one thing among several before another that waits has its turn.
        noise_margin: ε in units of the model's median prediction error over a chunk, or of what the goal image leaves
            open where that is more.
        spread_margin: weight of what the goal image leaves open, which is a median, beside the model's error.
        latent_weight, arm_weight: κ and λ, towards the goal.
        settle_arm_weight: λ of a plan that settles.
        subgoal_arm_weight: λ towards a subgoal, where κ is 1 and d does not count.
        guardrails: soft ones, on the tool.
        deadline_s: seconds a call of `act` may plan; None for no limit.
    """

    planner: str = "hierarchy"
    coarse_dynamics: str = "decoded"
    coarse_horizon: int = 5
    coarse: SearchConfig = SearchConfig(64, 2)
    fine: SearchConfig = SearchConfig(64, 2, 0.1)
    settle_horizon: int = 2
    settle: SearchConfig = SearchConfig(96, 4, 0.5)
    place: SearchConfig = SearchConfig(192, 8, 0.5)
    flat_horizon: int = 25
    flat: SearchConfig = SearchConfig(51, 3)
    execute_steps: int = 3
    settle_steps: int = 1
    track: bool = True
    patience: int = 6
    noise_margin: float = 4.0
    spread_margin: float = 2.0
    latent_weight: float = 0.01
    arm_weight: float = 0.03
    settle_arm_weight: float = 0.2
    subgoal_arm_weight: float = 0.5
    guardrails: GuardrailConfig = field(default_factory=GuardrailConfig)
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.planner not in PLANNERS:
            raise UnknownNameError("planner", self.planner, list(PLANNERS))
        if self.coarse_dynamics not in ("decoded", "macro"):
            raise UnknownNameError("coarse dynamics", self.coarse_dynamics, ["decoded", "macro"])
        if (
            min(self.latent_weight, self.arm_weight, self.settle_arm_weight, self.subgoal_arm_weight) < 0
            or min(self.noise_margin, self.spread_margin) <= 0
        ):
            raise InvalidInputError("weights must be at least 0, noise_margin and spread_margin positive")
        steps = self.execute_steps, self.settle_steps, self.settle_horizon, self.coarse_horizon, self.flat_horizon
        if min(*steps, self.patience) < 1:
            raise InvalidInputError("steps, horizons and patience must be at least 1")

"""What a predicted state costs: how far the scene and the arm are from a goal, and what no plan may do.

    E(s) = ln δ + (κ ‖z̃ − z̃_g‖² + λ ‖p̃ − p̃_g‖²) / δ + guardrails,    δ = max(d(s, s_g), ε) / ε

d is the learned distance between arrangements of the scene, z̃ and p̃ the standardised image latent and
proprioception (means of squares over dimensions); the goal's come from the goal image alone. ε is set by the model's
own prediction error, or by how much the goal image leaves open, say where the arm hides the object: below it the
scene counts as arranged, only details of the image and the arm's pose still matter, and the agent settles: it plans
actions to the goal itself, with λ_s ln(1 + ‖p̃ − p̃_g‖² / σ²) added for the pose's last centimetre. The logarithm
keeps the last centimetres as steep as the first; far from arranged the arm is free to go where it is needed. Towards
a subgoal, which was predicted in full, the two differences are enough. What shall stand on another thing is brought
there by energies of its own (stacking.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from latent_mpc.agent_config import AgentConfig
from latent_mpc.stacking import SAME_PLACE_M, carrying_energy
from latent_mpc.tool_guardrails import hand_holds, tool_violation
from latent_mpc.world_model.model import WorldModel

SETTLED = 0.003  # σ², mean square of what is left of the arm's way, in standard deviations of play: a centimetre or so


@dataclass
class Objective:
    """Energies of states to a goal, unitless.

    Attributes:
        goal: the goal's state, (D,). tolerance: ε, a scene distance.
        others: places (J, 3), metres, of things that the fingers shall keep off; None where there are none.
        stand: where the tool lets go of what shall stand on another thing, (3,), metres; None for the table.
        pose: where the arm goes next, whatever becomes of the scene, (P,), standardised; None before and after.
    """

    model: WorldModel
    config: AgentConfig
    goal: Tensor
    tolerance: float
    others: Tensor | None = None
    stand: Tensor | None = None
    pose: Tensor | None = None

    def arranged(self, state: Tensor) -> bool:
        """Whether the scene of a state (D,) is as the goal shows it, as far as the model can tell."""
        if self.stand is not None:
            gap = (self.model.place(state) - self.model.place(self.goal))[:2].norm()
            return bool(gap <= SAME_PLACE_M) and not hand_holds(self.model, state)
        return bool(self.model.scene_distance(state, self.goal) <= self.tolerance)

    def goal_energy(self, states: Tensor, start: Tensor | None = None, *, settling: bool = False) -> Tensor:
        """Energy to the goal.

        Args:
            states: (..., D); a rollout (..., H, D) when `start` is given.
            start: state (D,) that the rollout begins at, for the guardrails.
            settling: the arm's pose counts by its logarithm, too, so that the last centimetre of its way does.
        Returns:
            (...).
        """
        c = self.config
        if self.pose is not None:
            away = (self.model.split(states)[1] - self.pose).square()
            return (1 + away / SETTLED).log().mean(-1)  # each entry's by itself: an open hand outweighs no centimetre
        violation = tool_violation(self.model, c.guardrails, states, start, self.others)
        if self.stand is not None and not settling:
            return carrying_energy(self.model, states, self.stand) + violation
        scene = (self.model.scene_distance(states, self.goal).clamp_min(self.tolerance) / self.tolerance).log()
        details = _difference(self.model, states, self.goal, c.latent_weight, c.arm_weight)
        if settling:
            arm = _difference(self.model, states, self.goal, 0.0, 1.0)
            details = details + c.settle_arm_weight * (1 + arm / SETTLED).log()
        return scene + (-scene).exp() * details + violation


def subgoal_energy(
    model: WorldModel,
    config: AgentConfig,
    states: Tensor,
    subgoal: Tensor,
    start: Tensor | None = None,
    others: Tensor | None = None,
) -> Tensor:
    """Energy to a predicted subgoal (..., D), which knows no goal; otherwise as `Objective.goal_energy`."""
    difference = _difference(model, states, subgoal, 1.0, config.subgoal_arm_weight)
    return difference + tool_violation(model, config.guardrails, states, start, others)


def _difference(model: WorldModel, states: Tensor, target: Tensor, latent_weight: float, arm_weight: float) -> Tensor:
    latent, arm = model.split((states - target).square())
    return latent_weight * latent.mean(-1) + arm_weight * arm.mean(-1)

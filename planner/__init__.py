"""Sampling-based planners: optimisers over action sequences, the goal energy, the hierarchy, receding horizon."""

if __name__ != "latent_mpc.planner":
    raise ImportError(f"import latent_mpc.planner, not {__name__}: the folder is mapped into the package latent_mpc")

from latent_mpc.planner.hierarchy import MACRO_BOX, CoarseLevel, Hierarchy, HierarchyPlan
from latent_mpc.planner.mpc import RecedingHorizon
from latent_mpc.planner.objective import RolloutCost, goal_energy, nearest_goal_energy, reduce_steps
from latent_mpc.planner.planner import METHODS, Planner, make_planner
from latent_mpc.planner.rollout import rollout
from latent_mpc.planner.search import Iteration, Scores
from latent_mpc.planner.shift import shift

__all__ = [
    "MACRO_BOX",
    "METHODS",
    "CoarseLevel",
    "Hierarchy",
    "HierarchyPlan",
    "Iteration",
    "Planner",
    "RecedingHorizon",
    "RolloutCost",
    "Scores",
    "goal_energy",
    "make_planner",
    "nearest_goal_energy",
    "reduce_steps",
    "rollout",
    "shift",
]

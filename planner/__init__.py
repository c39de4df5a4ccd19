"""Sampling-based planners: optimisers over action sequences, the goal energy, the hierarchy, receding horizon."""

if __name__ != "latent_mpc.planner":
    raise ImportError(f"import latent_mpc.planner, not {__name__}: the folder is mapped into the package latent_mpc")

from latent_mpc.planner.capture import CapturedCost
from latent_mpc.planner.guardrails import Constraint, Hazard, KeepOut, Rollout, SpeedLimit, Workspace
from latent_mpc.planner.hierarchy import MACRO_BOX, CoarseLevel, Hierarchy, HierarchyPlan
from latent_mpc.planner.mpc import GoalTracker, RecedingHorizon
from latent_mpc.planner.objective import RolloutCost, goal_energy, nearest_goal_energy, reduce_steps
from latent_mpc.planner.parametrisation import ActionSpace
from latent_mpc.planner.planner import DEFAULT, METHODS, Method, Planner, make_planner
from latent_mpc.planner.rollout import rollout
from latent_mpc.planner.search import Iteration, Search
from latent_mpc.planner.shift import shift
from latent_mpc.planner.trace import PlanTrace, Replay
from latent_mpc.planner.uncertainty import Disagreement, SupportDistance
from latent_mpc.types import Scores

__all__ = [
    "DEFAULT",
    "MACRO_BOX",
    "METHODS",
    "ActionSpace",
    "CapturedCost",
    "CoarseLevel",
    "Constraint",
    "Disagreement",
    "GoalTracker",
    "Hazard",
    "Hierarchy",
    "HierarchyPlan",
    "Iteration",
    "KeepOut",
    "Method",
    "PlanTrace",
    "Planner",
    "RecedingHorizon",
    "Replay",
    "Rollout",
    "RolloutCost",
    "Scores",
    "Search",
    "SpeedLimit",
    "SupportDistance",
    "Workspace",
    "goal_energy",
    "make_planner",
    "nearest_goal_energy",
    "reduce_steps",
    "rollout",
    "shift",
]

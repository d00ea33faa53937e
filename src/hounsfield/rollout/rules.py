"""The rules of a rollout, as the tree states them: the overlay's policy, and the change plan."""

from __future__ import annotations

from pathlib import Path

from hounsfield.rollout.change_plan import ChangePlan, load_change_plan
from hounsfield.rollout.policy import Policy, load_policy, policy_file

CHANGE_PLAN = Path("base/rollout/change-plan.yaml")


def read_rules(tree: Path, overlay: str) -> tuple[Policy, ChangePlan]:
    """The policy of `overlay` and the change plan of `tree`; raises as `load_policy` and
    `load_change_plan`."""
    return load_policy(policy_file(tree, overlay)), load_change_plan(tree / CHANGE_PLAN)

"""The policy of a rollout: a YAML file that says how a candidate earns traffic and what takes it away.

`policy.schema.json` beside this module is its published schema: keys, types, bounds, and in its
descriptions the words of the errors. What a schema cannot say (steps rise, strategies fit) is checked here.
An error names the line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hounsfield.rollout.gate_policy import SCHEMA_FILE, GatePolicy
from hounsfield.rollout.schema import LineOf, WrongError, check_schema, read_yaml
from hounsfield.rollout.signed import public_key

EXPECTED = {
    "error_rate": 0.01,
    "refusal_rate": 0.02,
    "review_share": 0.2,
    "sensitivity": 0.15,
    "specificity": 0.15,
    "score_distribution": 0.5,
    "agreement": 0.05,
    "latency": 0.01,
}
"""The guardrails, and the rate of bad outcomes that is guessed before any is seen (misses for
sensitivity)."""


class Kind(StrEnum):
    """What a step is: every request mirrored, the first callers only, or a share of everyone's requests."""

    SHADOW = "shadow"
    FIRST = "first"
    WEIGHT = "weight"


@dataclass(frozen=True)
class Step:
    """The canary gets `weight` percent until it has had `min_requests` and is proven, and until `approval`
    different approvers have said so."""

    weight: int
    min_requests: int
    approval: int = 0
    kind: Kind = Kind.WEIGHT

    @property
    def name(self) -> str:
        """As an approval names it: `shadow`, `first`, or the percent."""
        return str(self.weight) if self.kind is Kind.WEIGHT else str(self.kind)


@dataclass(frozen=True)
class First:
    """Who goes first: requests whose `header` has one of `values`."""

    header: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Guardrail:
    """One bound on the canary. Rates are shares of bad outcomes, 0 to 1.

    `margin` is by how much the canary's rate may be above the stable revision's; for `agreement` the share
    of cases that it may call differently; for `latency` the share of requests that may take longer than
    `limit_s` (1 less the quantile). Below `minimum` outcomes of either revision it is UNASSESSABLE.
    """

    name: str
    margin: float
    minimum: int = 1
    when_unassessable: str = "hold"
    expected: float = 0.1
    limit_s: float | None = None


@dataclass(frozen=True)
class Budgets:
    """`alpha_promotion` and `alpha_rollback` bound the chances of a wrong promotion and of a wrong rollback
    over the whole rollout; see `hounsfield.rollout.decide`."""

    max_duration_s: float
    failures_allowed: int
    alpha_promotion: float = 0.05
    alpha_rollback: float = 0.05


@dataclass(frozen=True)
class Notification:
    url: str
    on: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """A rollout policy. `subgroups` lists (attribute, group) pairs, each guarded by `subgroup_guardrails`."""

    steps: tuple[Step, ...]
    interval_s: float
    guardrails: tuple[Guardrail, ...]
    budgets: Budgets
    strategy: str = "canary"
    shadow: Step | None = None
    first: First | None = None
    first_step: Step | None = None
    subgroups: tuple[tuple[str, str], ...] = ()
    subgroup_guardrails: tuple[Guardrail, ...] = ()
    notifications: tuple[Notification, ...] = ()
    approvers: Mapping[str, str] = field(default_factory=dict)
    """Who may approve: the name of each, and their Ed25519 public key."""
    promotion_approvals: int = 0
    """How many different approvers a promotion needs; the step before 100 % asks for them."""
    gate: GatePolicy = field(default_factory=GatePolicy)
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The mapping that it was read from."""

    @classmethod
    def from_mapping(cls, values: Any, source: str = "policy", line_of: LineOf = lambda keys: None) -> Policy:
        """Build a policy; ConfigError names `source`, the line by `line_of` where known, the key and the
        value."""
        try:
            check_schema(values, SCHEMA_FILE)
            return _build(values)
        except WrongError as wrong:
            raise wrong.located(source, line_of) from None

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """In order: the shadow, the first callers, then the weights, as far as the strategy has them."""
        before = tuple(step for step in (self.shadow, self.first_step) if step is not None)
        return before if self.strategy == "shadow" else (*before, *self.steps)

    def as_dict(self) -> dict[str, Any]:
        """The mapping that it was read from, as JSON would give it."""
        return json.loads(json.dumps(self.source))

    @property
    def digest(self) -> str:
        """SHA-256 of the policy's values: the same for two files that differ in comments only."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def load_policy(path: Path) -> Policy:
    """Read the YAML policy at `path`; RolloutError when missing or no YAML, ConfigError for a value."""
    values, line_of = read_yaml(path, "the policy")
    return Policy.from_mapping(values, path.name, line_of)


def policy_file(tree: Path, overlay: str) -> Path:
    """The policy of an overlay: its own `policy.yaml` where it has one, else the base's."""
    own = tree / "overlays" / overlay / "policy.yaml"
    return own if own.is_file() else tree / "base" / "rollout" / "policy.yaml"


def _build(values: Mapping[str, Any]) -> Policy:
    strategy = values.get("strategy", "canary")
    asked = int(values["min_requests"])
    weights = [step["weight"] if isinstance(step, Mapping) else step for step in values["steps"]]
    if weights != sorted(set(weights)) or weights[-1] != 100:
        raise WrongError(
            ("steps",),
            f"steps is {weights}; it must be whole percents that rise and end at 100, "
            "such as [5, 25, 50, 100]",
        )
    if strategy == "blue_green" and weights != [100]:
        raise WrongError(("steps",), f"steps is {weights}; the strategy blue_green has the one step 100")
    shadow_first = strategy == "shadow" or values.get("shadow_first", True)
    if strategy == "blue_green" and not shadow_first:
        raise WrongError(
            ("strategy",),
            "the strategy blue_green needs shadow_first: nothing else would show the candidate's worth",
        )
    first = values.get("first")
    if (strategy == "header_match") != (first is not None):
        missing = first is None
        raise WrongError(
            ("strategy",) if missing else ("first",),
            "the strategy header_match needs the key 'first', which says who goes first"
            if missing
            else f"the key 'first' is for the strategy header_match, and the strategy is {strategy}",
        )
    subgroups, budgets = values.get("subgroups", {}), values["budgets"]
    steps = [step if isinstance(step, Mapping) else {"weight": step} for step in values["steps"]]
    steps = [
        Step(int(step["weight"]), int(step.get("min_requests", asked)), int(step.get("approval", 0)))
        for step in steps
    ]
    shadow = Step(0, asked, kind=Kind.SHADOW) if shadow_first else None
    first_step = None
    if first:
        first_step = Step(0, int(first.get("min_requests", asked)), int(first.get("approval", 0)), Kind.FIRST)
    approvers, promotion = _approvers(values.get("approvals", {}))
    if promotion and len(steps) > 1:
        steps[-2] = replace(steps[-2], approval=max(promotion, steps[-2].approval))
    elif promotion and first_step is not None:
        first_step = replace(first_step, approval=max(promotion, first_step.approval))
    elif promotion and shadow is not None:
        shadow = replace(shadow, approval=promotion)
    elif promotion:
        raise WrongError(
            ("approvals", "promotion"),
            f"approvals.promotion is {promotion}, and no step before 100 % could wait for them; "
            "add a step, or shadow_first",
        )
    most = max(step.approval for step in (*steps, *([first_step] if first_step else [])))
    if most > len(approvers):
        raise WrongError(
            ("steps",), f"a step waits for {most} approvers, and approvals.approvers lists {len(approvers)}"
        )
    return Policy(
        strategy=strategy,
        shadow=shadow,
        first=First(first["header"], tuple(first["values"])) if first else None,
        first_step=first_step,
        steps=tuple(steps),
        approvers=approvers,
        promotion_approvals=promotion,
        interval_s=float(values["interval_s"]),
        guardrails=tuple(_guardrails(values["guardrails"])),
        subgroups=tuple(
            (attribute, group)
            for attribute, groups in subgroups.get("attributes", {}).items()
            for group in groups
        ),
        subgroup_guardrails=tuple(_guardrails(subgroups.get("guardrails", {}))),
        budgets=Budgets(**budgets),
        notifications=tuple(Notification(n["url"], tuple(n["on"])) for n in values.get("notifications", ())),
        gate=GatePolicy.checked(values.get("gate", {})),
        source=dict(values),
    )


def _approvers(values: Mapping[str, Any]) -> tuple[dict[str, str], int]:
    approvers, promotion = dict(values.get("approvers", {})), int(values.get("promotion", 0))
    owners: dict[str, str] = {}
    for name, key in approvers.items():
        where = ("approvals", "approvers", name)
        if public_key(key) is None:
            raise WrongError(where, f"the key of {name} is no Ed25519 public key in base64")
        if key in owners:
            raise WrongError(where, f"{name} has the key of {owners[key]}; each approver needs their own")
        owners[key] = name
    if promotion > len(approvers):
        raise WrongError(
            ("approvals", "promotion"),
            f"approvals.promotion is {promotion}, and approvals.approvers lists {len(approvers)}",
        )
    return approvers, promotion


def _guardrails(values: Mapping[str, Mapping[str, Any]]) -> Iterator[Guardrail]:
    """In the order of EXPECTED, so that the order of the file's keys decides nothing."""
    for name in EXPECTED:
        if name in values:
            given = {"expected": EXPECTED[name], **values[name]}
            if name == "latency":
                given["margin"] = round(1 - given.pop("quantile", 0.95), 12)
            yield Guardrail(name, **given)

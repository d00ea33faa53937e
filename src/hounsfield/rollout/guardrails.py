"""What a policy's guardrails compare: shares of bad outcomes, counted out of a revision's counters.

Every guardrail comes down to one or more `Contrast`s, each the share of one kind of bad outcome. A
distribution of scores is within its margin when its distribution function is, at every bound of the
histogram and in both directions (the distance of Kolmogorov and Smirnov, on the histogram's grid): 18
contrasts, all of which must hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hounsfield.rollout.policy import Guardrail, Policy

SCORE_BOUNDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""The inner bounds of the histogram `hounsfield_score`."""

SUBGROUP_SHARE = 0.5
"""The part of the rollback's evidence that is staked on subgroups, where the policy declares any."""


@dataclass(frozen=True)
class Contrast:
    """One share of bad outcomes that is watched.

    `group` is empty for all requests, or such as `patient_sex=F`. An `alone` contrast holds the canary's
    share itself against `margin`, any other its increase over the stable revision's. `stake` is the
    contrast's part of the rollback's evidence; the stakes of a policy sum to 1.
    """

    guardrail: Guardrail
    group: str
    stake: float
    bound: float | None = None
    downward: bool = False

    @property
    def alone(self) -> bool:
        return self.guardrail.name in ("latency", "agreement")

    @property
    def expected(self) -> float:
        if self.bound is None:
            return self.guardrail.expected
        return 1 - self.bound if self.downward else self.bound

    def count(self, counters: Mapping[str, int]) -> tuple[int, int]:
        """(bad outcomes, outcomes) among `counters`; (0, 0) where they do not say, or make no sense."""
        bad, total = self._count(counters)
        return (bad, total) if 0 <= bad <= total else (0, 0)

    def _count(self, counters: Mapping[str, int]) -> tuple[int, int]:
        prefix = f"{self.group}/" if self.group else ""

        def of(name: str) -> int:
            return counters.get(prefix + name, 0)

        match self.guardrail.name:
            case "error_rate":
                return of("error"), of("ok") + of("refused") + of("error")
            case "refusal_rate":
                return of("refused"), of("ok") + of("refused") + of("error")
            case "review_share":
                return of("review"), of("ok")
            case "sensitivity":
                return of("positive/negative"), of("positive/negative") + of("positive/positive")
            case "specificity":
                return of("negative/positive"), of("negative/negative") + of("negative/positive")
            case "agreement":
                return of("differ"), of("differ") + of("agree")
            case "latency":
                key = f"latency<={self.guardrail.limit_s:g}"
                return (of("latency") - of(key), of("latency")) if key in counters else (0, 0)
            case _:
                key = f"score<={self.bound:g}"
                below, total = of(key), of("score")
                if key not in counters:
                    return 0, 0
                return (total - below if self.downward else below), total


def contrasts(policy: Policy) -> tuple[Contrast, ...]:
    """The policy's contrasts, in an order that only its values decide."""
    overall = 1 - SUBGROUP_SHARE if policy.subgroups else 1.0
    found = [
        contrast
        for guardrail in policy.guardrails
        for contrast in _of(guardrail, "", overall / len(policy.guardrails))
    ]
    pairs = len(policy.subgroups) * len(policy.subgroup_guardrails)
    found += [
        contrast
        for attribute, group in policy.subgroups
        for guardrail in policy.subgroup_guardrails
        for contrast in _of(guardrail, f"{attribute}={group}", SUBGROUP_SHARE / pairs)
    ]
    return tuple(found)


def _of(guardrail: Guardrail, group: str, stake: float) -> list[Contrast]:
    if guardrail.name != "score_distribution":
        return [Contrast(guardrail, group, stake)]
    part = stake / (2 * len(SCORE_BOUNDS))
    return [
        Contrast(guardrail, group, part, bound, downward)
        for bound in SCORE_BOUNDS
        for downward in (False, True)
    ]

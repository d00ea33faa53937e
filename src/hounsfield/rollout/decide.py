"""The decision on one step of a canary: pure, from evidence, policy and clock to a verdict with its numbers.

Method, for each rate (errors, refusals, share sent to review). Counts are taken as binomial, and each
revision's rate gets a one-sided exact bound (Clopper and Pearson, Biometrika 26, 1934) at error (1 -
confidence) / 2, so that both hold together with `confidence`:

- PROMOTE asks that the canary's upper bound less the stable revision's lower bound is within the margin: zero
  errors in 30 requests still allow a rate of 11.6 %, and are not read as 0 %.
- ROLLBACK asks that the canary's lower bound less the stable revision's upper bound is beyond the margin.
- Everything else is HOLD, and so is every kind of missing data.

The 95th percentile of the canary's latency is a point estimate, held against an absolute limit.

The bounds hold for one look at a fixed number of requests. A controller looks after every interval, which
makes a wrong promotion likelier than 1 - confidence; `judge_rate` is the one place to replace by a confidence
sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from hounsfield.rollout.evidence import Evidence
from hounsfield.rollout.policy import Policy


class Decision(StrEnum):
    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True)
class Verdict:
    """A decision, why, and every number that led there (None: not measurable).

    `breaches` names the guardrails that the canary is beyond by its plain rate, though the bounds do not
    prove it yet: the controller allows a few such checks.
    """

    decision: Decision
    reasons: tuple[str, ...]
    numbers: dict[str, float | int | None]
    breaches: tuple[str, ...] = ()


@dataclass(frozen=True)
class RateJudgement:
    """One guardrail: rates (0 to 1), and the interval [low, high] of the increase from stable to canary."""

    stable: float
    canary: float
    low: float
    high: float


def decide(evidence: Evidence, policy: Policy, now: float) -> Verdict:
    """Judge one look at a step; `now` is unix time (s). Raises nothing: what cannot be judged is HOLD."""
    elapsed_s = now - evidence.started_at
    numbers: dict[str, float | int | None] = {"elapsed_s": round(elapsed_s, 3)}
    verdict = _on_evidence(evidence, policy, numbers)
    if verdict.decision is Decision.HOLD and not elapsed_s <= policy.max_duration_s:
        late = f"no decision after {elapsed_s:.0f} s, and the policy allows {policy.max_duration_s:g} s"
        return Verdict(Decision.ROLLBACK, (late, *verdict.reasons), numbers, verdict.breaches)
    return verdict


def _on_evidence(evidence: Evidence, policy: Policy, numbers: dict[str, float | int | None]) -> Verdict:
    stable, canary = evidence.stable, evidence.canary
    numbers["stable_requests"] = None if stable is None else stable.requests
    numbers["canary_requests"] = None if canary is None else canary.requests
    if canary is None:
        reason = "the canary's metrics are missing, or its server was restarted"
        return Verdict(Decision.HOLD, (reason,), numbers, ("canary_metrics",))
    if stable is None:
        return Verdict(
            Decision.HOLD,
            ("the stable revision's metrics are missing, or its server was restarted",),
            numbers,
        )
    if not canary.requests > 0:
        return Verdict(Decision.HOLD, ("the canary has had no requests in this step",), numbers)
    if not stable.requests > 0:
        return Verdict(Decision.HOLD, ("the stable revision has had no requests to compare with",), numbers)

    enough = canary.requests >= policy.min_requests
    worse, unproven, breaches = [], [], []
    guardrails = (
        ("error_rate", "errors", "requests", policy.max_error_rate_increase),
        ("refusal_rate", "refused", "requests", policy.max_refusal_rate_increase),
        ("review_share", "reviewed", "scored", policy.max_review_share_increase),
    )
    for name, count, total, margin in guardrails:
        judged = judge_rate(
            (getattr(stable, count), getattr(stable, total)),
            (getattr(canary, count), getattr(canary, total)),
            policy.confidence,
        )
        for key in ("stable", "canary", "low", "high"):
            numbers[f"{name}_{key}"] = None if judged is None else round(getattr(judged, key), 6)
        label = name.replace("_", " ")
        if judged is None:
            unproven.append(f"{label} cannot be measured: no image was scored")
            continue
        between = f"between {judged.low:+.1%} and {judged.high:+.1%} of the stable revision's"
        if judged.low > margin:
            worse.append(f"{label} {judged.canary:.1%} is {between}, beyond the margin of {margin:.1%}")
        elif judged.high > margin:
            unproven.append(
                f"{label} {judged.canary:.1%} is {between}; the margin of {margin:.1%} is not ruled out"
            )
        if enough and judged.canary - judged.stable > margin:
            breaches.append(name)

    latency_s, limit_s = canary.latency_p95_s, policy.max_latency_p95_s
    numbers["latency_p95_s_stable"], numbers["latency_p95_s_canary"] = stable.latency_p95_s, latency_s
    if latency_s is None or math.isnan(latency_s):
        unproven.append("the canary's latency cannot be measured")
    elif latency_s > limit_s:
        unproven.append(f"latency p95 {latency_s:.3f} s is above the limit of {limit_s:g} s")
        if enough:
            breaches.append("latency_p95_s")

    if worse:
        return Verdict(Decision.ROLLBACK, tuple(worse), numbers, tuple(breaches))
    if not enough:
        unproven.insert(0, f"{canary.requests} of the {policy.min_requests} requests that a step needs")
    if unproven:
        return Verdict(Decision.HOLD, tuple(unproven), numbers, tuple(breaches))
    return Verdict(Decision.PROMOTE, ("every guardrail is within its margin",), numbers)


def judge_rate(stable: tuple[int, int], canary: tuple[int, int], confidence: float) -> RateJudgement | None:
    """Compare two rates given as (count, total); None when a total is 0 or the counts make no sense."""
    if not all(0 <= count <= total and total > 0 for count, total in (stable, canary)):
        return None
    error = (1 - confidence) / 2
    return RateJudgement(
        stable=stable[0] / stable[1],
        canary=canary[0] / canary[1],
        low=lower_bound(*canary, error) - upper_bound(*stable, error),
        high=upper_bound(*canary, error) - lower_bound(*stable, error),
    )


def upper_bound(count: int, total: int, error: float) -> float:
    """Clopper and Pearson's upper bound: the rate at which `count` or fewer of `total` has chance `error`."""
    if count >= total:
        return 1.0
    successes = np.arange(count + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(total - successes[:-1]) - np.log(successes[1:]))])
    low, high = count / total, 1.0
    for _ in range(50):  # bisection, to well below 1e-12
        rate = (low + high) / 2
        log_terms = log_choose + successes * math.log(rate) + (total - successes) * math.log1p(-rate)
        chance = math.exp(log_terms.max()) * float(np.exp(log_terms - log_terms.max()).sum())
        low, high = (rate, high) if chance > error else (low, rate)
        if rate >= 1.0 or high - low < 1e-13:
            break
    return high


def lower_bound(count: int, total: int, error: float) -> float:
    """Clopper and Pearson's one-sided lower bound, by symmetry."""
    return 1.0 - upper_bound(total - count, total, error)

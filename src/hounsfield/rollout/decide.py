"""The decision on a rollout: pure, from a policy and the observations so far to a verdict with its numbers.

It may be looked at after every request. What holds, over all metrics, subgroups, steps and looks together:

- A canary that is worse than the margin of at least one guardrail (overall, or in a declared subgroup that
  is not passed over as UNASSESSABLE) is ever moved up with a chance of at most `alpha_promotion`. PROMOTE
  asks for the proof of every contrast, each at 1 / alpha_promotion; the one that is truly violated reaches
  that with a chance of at most alpha_promotion (Ville), whatever the others do. So an intersection-union
  test (Berger, Technometrics 24, 1982) needs no correction for the number of metrics and subgroups. The
  proof runs over the whole rollout: what one step has shown stays shown, and no step spends alpha anew.
- A canary that is within every margin is ever rolled back for harm with a chance of at most
  `alpha_rollback`. Here a correction is needed, and made: the mean of all contrasts' e-values, weighted by
  stakes fixed beforehand, has to reach 1 / alpha_rollback (`betting.harm_anywhere`).

The e-processes are in `hounsfield.rollout.evalue` (Turner, Ly and Grünwald 2024) and `betting`. They
suppose that, given the past, an outcome is bad with the same chance for every request of a revision within
a look. Rates may drift from look to look, and the two revisions may depend on each other where they have the
same requests, but images of one study that fail together are fewer outcomes than they are counted as.

Labels that come in after a promotion go on with the same evidence (`Observation.late`): harm may still be
proven by them, within the same alpha_rollback, and then the champion is taken back.

HOLD is everything else: no data, a source that is down, a revision that answers nothing or as another
version, a person's approval that is wanting. A rollout that is undecided at its longest time, or that lost
its canary more often than the budget of failures, is rolled back too; that is a matter of the policy, not
of alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from hounsfield.rollout import betting
from hounsfield.rollout.betting import Counts, Terms, Wealth
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.guardrails import Contrast, contrasts
from hounsfield.rollout.policy import Kind, Policy, Step

METHOD = 2
"""How verdicts are worked out: raised when the same observations come to give other numbers."""

DIGITS = 9
"""Logarithms of evidence are compared and told to this many digits, so that the last bit of a machine's
`log` is not the one that decides."""


_APPROVAL = "a person has to approve"
_PLACES = {Kind.SHADOW: "the shadow", Kind.FIRST: "the first callers"}


class Decision(StrEnum):
    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    ROLLBACK = "ROLLBACK"


class Standing(StrEnum):
    """Where one guardrail stands in one group."""

    PROVEN = "PROVEN"
    OPEN = "OPEN"
    UNASSESSABLE = "UNASSESSABLE"


@dataclass(frozen=True)
class Finding:
    """One guardrail in one group (empty: all requests), with every number that it was judged by.

    Counts are of bad outcomes and outcomes since the rollout began; for `score_distribution` at the bound
    that is worst for the canary. `proof`, `harm` and `harm_in_last_look` are natural logs of e-values.
    """

    guardrail: str
    group: str
    standing: Standing
    margin: float
    stable_bad: int
    stable_total: int
    canary_bad: int
    canary_total: int
    proof: float
    harm: float
    harm_in_last_look: float
    is_beyond: bool
    """The plain rates differ by more than the margin, proven or not."""

    @property
    def label(self) -> str:
        return self.guardrail.replace("_", " ") + (f" of {self.group}" if self.group else "")

    @property
    def rates(self) -> str:
        canary = f"{self.canary_bad} of {self.canary_total}"
        if self.guardrail in ("latency", "agreement"):
            return canary
        return f"{canary} against {self.stable_bad} of {self.stable_total}"


@dataclass(frozen=True)
class Verdict:
    """A decision, why, and every number that led there."""

    decision: Decision
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    numbers: dict[str, float | int]

    @property
    def breaches(self) -> tuple[str, ...]:
        """The guardrails that the canary is beyond by its plain rates, proven or not."""
        return tuple(finding.label for finding in self.findings if finding.is_beyond)

    def as_dict(self) -> dict[str, Any]:
        findings = [{**asdict(finding), "standing": str(finding.standing)} for finding in self.findings]
        return {
            "decision": str(self.decision),
            "reasons": list(self.reasons),
            "findings": findings,
            "numbers": self.numbers,
        }


@dataclass(frozen=True)
class State:
    """Everything that the observations so far have left; `observe` gives the next one."""

    policy: Policy
    contrasts: tuple[Contrast, ...]
    terms: Terms
    wealth: Wealth
    started_at: float
    at: float
    step: Step | None = None
    step_requests: int = 0
    failures: int = 0
    latest: Observation | None = None


def begin(policy: Policy, started_at: float) -> State:
    """The state of a rollout that began at the unix time `started_at` (seconds)."""
    found = contrasts(policy)
    terms = Terms.of(found)
    return State(policy, found, terms, betting.begin(terms), started_at, started_at)


def observe(state: State, observation: Observation) -> State:
    """The state after one more look. Deterministic: the same observations give the same state, to the bit."""
    step = _step(state.policy, observation)
    fresh = state.step != step
    requests = 0 if fresh else state.step_requests
    failures = 0 if fresh else state.failures
    failures += any("canary" in said for said in (*observation.trouble, *observation.restarted))
    state = replace(state, at=observation.at, step=step, failures=failures, latest=observation)
    if observation.stable is None or observation.canary is None:
        return replace(state, step_requests=requests)
    counts = _counts(state.contrasts, observation)
    return replace(
        state,
        wealth=betting.look(
            state.terms,
            state.wealth,
            counts,
            is_last_step=observation.weight == 100,
            is_paired=observation.shadow or observation.first,
            has_labels=bool(observation.outcomes),
        ),
        step_requests=requests + sum(observation.canary.get(key, 0) for key in ("ok", "refused", "error")),
    )


def judge(state: State) -> Verdict:
    """The verdict on a state. Raises nothing: what cannot be judged is HOLD."""
    budgets = state.policy.budgets
    findings = tuple(_findings(state))
    elapsed_s = state.at - state.started_at
    harm_anywhere = round(float(betting.harm_anywhere(state.terms, state.wealth)), DIGITS)
    wanted_proof, wanted_harm = _wanted(state.policy)
    numbers: dict[str, float | int] = {
        "elapsed_s": round(elapsed_s, 3),
        "canary_requests": state.step_requests,
        "looks": state.wealth.looks,
        "failures": state.failures,
        "harm": harm_anywhere,
        "harm_wanted": wanted_harm,
        "proof_wanted": wanted_proof,
    }

    def verdict(decision: Decision, *reasons: str) -> Verdict:
        return Verdict(decision, reasons, findings, numbers)

    if harm_anywhere >= wanted_harm:
        worst = sorted(findings, key=lambda finding: -finding.harm)
        guilty = [finding for finding in worst if finding.harm >= wanted_harm] or worst[:1]
        return verdict(Decision.ROLLBACK, *(_harm_reason(finding) for finding in guilty))
    if state.latest is not None and state.latest.late:
        return verdict(Decision.HOLD, "the labels prove no harm: the champion stays")
    waiting = list(_waiting(state, findings, wanted_proof))
    if not waiting:
        return verdict(Decision.PROMOTE, "every guardrail is proven to be within its margin")
    if state.failures > budgets.failures_allowed:
        lost = f"{state.failures} looks of this step found the canary unreachable or restarted"
        return verdict(Decision.ROLLBACK, lost, *waiting)
    if not elapsed_s <= budgets.max_duration_s:  # also when the clock is no number
        late = f"no decision after {elapsed_s:.0f} s, and the policy allows {budgets.max_duration_s:g} s"
        return verdict(Decision.ROLLBACK, late, *waiting)
    return verdict(Decision.HOLD, *waiting)


def waits_for_a_person(verdict: Verdict) -> bool:
    """Whether nothing but an approval is wanting."""
    return len(verdict.reasons) == 1 and verdict.reasons[0].startswith(_APPROVAL)


def replay(policy: Policy, started_at: float, observations: Iterable[Observation]) -> Iterator[Verdict]:
    """The verdict after each of the observations, from them alone."""
    state = begin(policy, started_at)
    for observation in observations:
        state = observe(state, observation)
        yield judge(state)


def _step(policy: Policy, observation: Observation) -> Step | None:
    if observation.shadow:
        return policy.shadow
    if observation.first:
        return policy.first_step
    return next((step for step in policy.steps if step.weight == observation.weight), None)


def _waiting(state: State, findings: tuple[Finding, ...], wanted_proof: float) -> Iterator[str]:
    """What stands between the canary and its next step; nothing is PROMOTE."""
    latest, step = state.latest, state.step
    if latest is None or step is None:
        yield "there is no observation of a step of the policy yet"
        return
    if latest.stable is None or latest.canary is None:
        yield from latest.trouble or ("there are no metrics",)
        return
    yield from (f"{role} was restarted" for role in latest.restarted)
    if state.step_requests < step.min_requests:
        yield f"{state.step_requests} of the {step.min_requests} requests that a step needs"
    if not any(latest.canary.get(key, 0) for key in ("ok", "refused", "error")):
        yield "the canary answered nothing since the last look"
    ways = {
        (contrast.guardrail.name, contrast.group): contrast.guardrail.when_unassessable
        for contrast in state.contrasts
    }
    for finding in findings:
        if finding.standing is Standing.OPEN:
            yield _open_reason(finding, wanted_proof)
        elif finding.standing is Standing.UNASSESSABLE and ways[finding.guardrail, finding.group] == "hold":
            yield f"{finding.label} is UNASSESSABLE: {finding.rates} are too few"
    if len(set(latest.approved_by)) < step.approval:
        counted = f": {len(set(latest.approved_by))} of {step.approval} approvers have so far"
        place = _PLACES.get(step.kind, f"{step.weight} %")
        yield f"{_APPROVAL} going on from {place}{counted if step.approval > 1 else ''}"


def _findings(state: State) -> Iterator[Finding]:
    """One a guardrail and group, in the order of the contrasts; several contrasts are told by their worst."""
    totals, harms = state.wealth.totals, betting.harm(state.terms, state.wealth)
    wanted, wanted_harm = _wanted(state.policy)
    places: dict[tuple[str, str], list[int]] = {}
    for index, contrast in enumerate(state.contrasts):
        places.setdefault((contrast.guardrail.name, contrast.group), []).append(index)
    for (name, group), indices in places.items():
        guardrail = state.contrasts[indices[0]].guardrail
        alone = state.contrasts[indices[0]].alone
        k_s, n_s, k_c, n_c = (
            np.asarray(values)[indices].astype(int)
            for values in (totals.k_s, totals.n_s, totals.k_c, totals.n_c)
        )
        increase = k_c / np.maximum(n_c, 1) - (0 if alone else k_s / np.maximum(n_s, 1))
        worst = int(np.argmax(increase))
        proof = round(float(state.wealth.proof[indices].min()), DIGITS)
        last_look = round(float(state.wealth.harm_in_last_look[indices].max()), DIGITS)
        is_beyond = bool(n_c.min() >= guardrail.minimum and increase[worst] > guardrail.margin)
        if n_c.min() < guardrail.minimum or (not alone and n_s.min() < guardrail.minimum):
            standing = Standing.UNASSESSABLE
        else:
            # What was proven once is not enough for a canary that has left its margin since, or just now.
            is_well = proof >= wanted and not is_beyond and last_look < wanted_harm
            standing = Standing.PROVEN if is_well else Standing.OPEN
        counted = (int(values[worst]) for values in (k_s, n_s, k_c, n_c))
        harm = round(float(harms[indices].max()), DIGITS)
        yield Finding(name, group, standing, guardrail.margin, *counted, proof, harm, last_look, is_beyond)


def _wanted(policy: Policy) -> tuple[float, float]:
    """The logarithms that a proof, and the evidence of harm, have to reach."""
    alphas = policy.budgets.alpha_promotion, policy.budgets.alpha_rollback
    return tuple(round(-math.log(alpha), DIGITS) for alpha in alphas)


def _counts(found: tuple[Contrast, ...], observation: Observation) -> Counts:
    stable = np.array([contrast.count(observation.stable or {}) for contrast in found], dtype=np.float64)
    canary = np.array([contrast.count(observation.canary or {}) for contrast in found], dtype=np.float64)
    return Counts(stable[:, 0], stable[:, 1], canary[:, 0], canary[:, 1])


def _open_reason(finding: Finding, wanted: float) -> str:
    if finding.is_beyond:
        return f"{finding.label} {finding.rates} is beyond the margin of {finding.margin:.1%}"
    if finding.proof >= wanted:
        return f"{finding.label}: the last look alone speaks against what was proven before"
    return (
        f"{finding.label} {finding.rates} is not proven within {finding.margin:.1%} yet "
        f"(evidence {math.exp(min(finding.proof, 50)):.1f} of {math.exp(wanted):.0f})"
    )


def _harm_reason(finding: Finding) -> str:
    return (
        f"{finding.label} {finding.rates} is beyond the margin of {finding.margin:.1%} "
        f"(evidence {math.exp(min(finding.harm, 50)):.3g} to 1)"
    )

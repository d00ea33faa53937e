"""The judgement of the validation gate: pure, from what was answered on the frozen set to pass or fail.

Every check has its number, its bound and a standing. What has to be shown is shown at the policy's
`confidence`, one-sided: that AUROC and sensitivity are not worse than the champion's by more than the margin
(non-inferiority; the papers are in `comparison`). All checks have to pass, so none needs a correction for how
many there are (Berger, Technometrics 24, 1982). Subgroup gaps are asked both ways: FAIL where a gap beyond
the bound is shown (Bonferroni over the gaps), PASS where it is ruled out, UNASSESSABLE between the two.

The candidate has passed when every check has, or is UNASSESSABLE and the policy says to ignore that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from hounsfield.rollout.comparison import (
    Difference,
    auroc_difference,
    paired_share_difference,
    share_difference,
)
from hounsfield.rollout.gate_policy import HOLD, GatePolicy
from hounsfield.rollout.measurements import Answers, Cases, measurements

_TOLERANCE = 1e-9
"""A difference that is only floating point is no difference."""


class Standing(StrEnum):
    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    UNASSESSABLE = "UNASSESSABLE"


@dataclass(frozen=True)
class Drift:
    """A detector's answer on the frozen set: `p_value` of a shift from the model's reference."""

    detector: str
    p_value: float


@dataclass(frozen=True)
class Paperwork:
    """What was found beside the answers. `signature` and `plan` are None where they hold, else sentences.

    `version` and `digest` are of the model that was to be judged. `drift` is empty where the inputs could not
    be compared, and `no_drift` says why. `stability` is how far candidate and champion agree on which regions
    of the same pictures matter (`explain.checks.stability`, -1 to 1), None for the reason in `no_stability`.
    """

    version: str
    digest: str
    signature: str | None
    plan: tuple[str, ...] | None
    drift: tuple[Drift, ...] = ()
    no_drift: str = ""
    stability: float | None = None
    no_stability: str = ""


@dataclass(frozen=True)
class Check:
    """One question: the number that was found (None: none), the bound it is held to, the answer in words."""

    name: str
    standing: Standing
    number: float | None
    bound: float | None
    said: str
    group: str = ""
    is_ignored: bool = False
    """UNASSESSABLE, and the policy passes that over."""

    @property
    def is_met(self) -> bool:
        return self.standing is Standing.PASS or (self.standing is Standing.UNASSESSABLE and self.is_ignored)


@dataclass(frozen=True)
class GateVerdict:
    """`reasons` are the sentences of what is not met, or that all is; `numbers` are those of each model."""

    passed: bool
    checks: tuple[Check, ...]
    numbers: dict[str, Any]

    @property
    def reasons(self) -> tuple[str, ...]:
        failed = tuple(check.said for check in self.checks if not check.is_met)
        return failed or ("every check of the gate is met",)

    def as_dict(self) -> dict[str, Any]:
        """As JSON: no NaN, no infinity."""
        checks = [{**asdict(check), "standing": str(check.standing)} for check in self.checks]
        for check in checks:
            check |= {key: _finite(check[key]) for key in ("number", "bound")}
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "checks": checks,
            "numbers": self.numbers,
        }


def judge(
    cases: Cases, candidate: Answers, champion: Answers | None, policy: GatePolicy, paperwork: Paperwork
) -> GateVerdict:
    """Pass only when every check is measured and met. `champion` None means that there is none yet."""
    checks = (
        *_identity(candidate, paperwork),
        *_counts(cases, candidate, policy),
        *_floors(cases, candidate, policy),
        *(_comparison(cases, candidate, champion, policy) if champion is not None else ()),
        *(_stability(paperwork, policy) if champion is not None else ()),
        *_calibration(cases, candidate, policy),
        *_gaps(cases, candidate, policy),
        _at_most("latency p95", candidate.latency_p95_s, policy.max_latency_p95_s, " s"),
        *_drift(paperwork, policy),
    )
    numbers = {
        "candidate": measurements(cases, candidate),
        "champion": None if champion is None else measurements(cases, champion),
        "attribution_stability": paperwork.stability,
        "policy": policy.as_dict(),
    }
    return GateVerdict(bool(checks) and all(check.is_met for check in checks), checks, numbers)


def not_answered(sentence: str, policy: GatePolicy) -> GateVerdict:
    """The verdict on a candidate, or beside a champion, that could not be asked: never a pass."""
    check = Check("answers", Standing.FAIL, None, None, sentence)
    return GateVerdict(False, (check,), {"candidate": None, "champion": None, "policy": policy.as_dict()})


def _identity(candidate: Answers, paperwork: Paperwork) -> Iterator[Check]:
    for name, wanted, answered in (
        ("model version", paperwork.version, candidate.versions),
        ("package", paperwork.digest, candidate.digests),
    ):
        if answered == (wanted,):
            yield _told(name, None, f"{name} {wanted[:12]} answered")
        else:
            said = ", ".join(each[:12] for each in answered) or "none"
            yield _told(name, f"{name} {wanted[:12]} was to be judged, but {said} answered")
    yield _told("signature", paperwork.signature, "the package is signed with the key that the gate knows")
    if not paperwork.plan:
        sentence = "the change plan could not be asked" if paperwork.plan is None else None
        yield _told("change plan", sentence, "the change plan allows every change")
    for breach in paperwork.plan or ():
        yield _told("change plan", breach)


def _counts(cases: Cases, candidate: Answers, policy: GatePolicy) -> Iterator[Check]:
    label = cases.label[candidate.is_scored]
    yield _at_least("cases scored", len(label), policy.min_cases)
    yield _at_least("positive cases scored", int(label.sum()), policy.min_positives)
    yield _at_most("failed requests", candidate.errors, policy.max_errors)
    yield _at_most("refused images", candidate.refusals, policy.max_refusals)


def _floors(cases: Cases, candidate: Answers, policy: GatePolicy) -> Iterator[Check]:
    found = measurements(cases, candidate)
    yield _at_least("AUROC", found["auroc"], policy.min_auroc)
    yield _at_least("sensitivity", found["sensitivity"], policy.min_sensitivity)


def _comparison(cases: Cases, candidate: Answers, champion: Answers, policy: GatePolicy) -> Iterator[Check]:
    both = candidate.is_scored & champion.is_scored
    label, patient = cases.label[both], cases.patient[both]
    found = auroc_difference(label, candidate.probability[both], champion.probability[both], patient)
    yield _not_worse("AUROC beside the champion's", found, policy.max_auroc_decrease, policy.confidence)
    positive = both & (cases.label == 1)
    found = paired_share_difference(
        candidate.called[positive], champion.called[positive], cases.patient[positive]
    )
    name = "sensitivity beside the champion's"
    yield _not_worse(name, found, policy.max_sensitivity_decrease, policy.confidence)


def _not_worse(name: str, found: Difference | None, margin: float, confidence: float) -> Check:
    if found is None or not math.isfinite(found.low(confidence)):
        return Check(name, Standing.FAIL, None, -margin, f"{name} cannot be compared")
    low = found.low(confidence)
    is_shown = low >= -margin - _TOLERANCE
    said = (
        f"{name} differs by {found.value:+.3f}, and a loss above {margin:g} is "
        f"{'' if is_shown else 'not '}ruled out (lower bound {low:+.3f} at {confidence:.0%})"
    )
    return Check(name, Standing.PASS if is_shown else Standing.FAIL, low, -margin, said)


def _calibration(cases: Cases, candidate: Answers, policy: GatePolicy) -> Iterator[Check]:
    found = measurements(cases, candidate)
    yield _at_most("calibration error (ECE)", found["ece"], policy.max_ece)
    yield _at_most("Brier score", found["brier"], policy.max_brier)
    yield _at_most("log loss", found["log_loss"], policy.max_log_loss)


def _gaps(cases: Cases, candidate: Answers, policy: GatePolicy) -> Iterator[Check]:
    """The declared groups beside all others: sensitivity, then specificity."""
    gaps = policy.subgroups
    asked = [(name, group) for name, groups in gaps.attributes.items() for group in groups]
    questions = [(truth, name, group) for truth in (1, 0) for name, group in asked]
    # Bonferroni: a chance of at most 1 - confidence that any group without a gap is said to have one.
    corrected = 1 - (1 - policy.confidence) / max(len(questions), 1)
    for truth, attribute, group in questions:
        chosen = candidate.is_scored & (cases.label == truth)
        values = cases.groups.get(attribute)
        is_member = np.zeros(chosen.sum(), bool) if values is None else values[chosen] == group
        hit = candidate.called[chosen] == bool(truth)
        what = f"{'sensitivity' if truth else 'specificity'} of {attribute} {group}"
        least = min(int(is_member.sum()), int((~is_member).sum()))
        if least < gaps.minimum:
            standing, number = Standing.UNASSESSABLE, None
            said = f"{what} is UNASSESSABLE: {least} cases on one side, and {gaps.minimum} are needed"
        else:
            found = share_difference(hit, is_member, cases.patient[chosen])
            standing, number = _gap_standing(found, policy, corrected), found.value
            ends = f"{found.low(policy.confidence):+.3f} to {found.high(policy.confidence):+.3f}"
            beside = f"{what} is {found.value:+.3f} below that of the others ({ends})"
            said = {
                Standing.PASS: f"{beside}; a gap above {gaps.max_gap:g} is ruled out",
                Standing.FAIL: f"{beside}; that is beyond {gaps.max_gap:g}",
                Standing.UNASSESSABLE: f"{beside}: UNASSESSABLE, too few for {gaps.max_gap:g}",
            }[standing]
        is_ignored = standing is Standing.UNASSESSABLE and gaps.when_unassessable != HOLD
        yield Check("subgroup gap", standing, number, gaps.max_gap, said, f"{attribute}={group}", is_ignored)


def _gap_standing(found: Difference, policy: GatePolicy, corrected: float) -> Standing:
    if found.low(corrected) > policy.subgroups.max_gap:
        return Standing.FAIL
    is_ruled_out = found.high(policy.confidence) <= policy.subgroups.max_gap
    return Standing.PASS if is_ruled_out else Standing.UNASSESSABLE


def _stability(paperwork: Paperwork, policy: GatePolicy) -> Iterator[Check]:
    name, bound = "attribution stability", policy.min_attribution_stability
    if bound <= -1:
        return
    if paperwork.stability is None:
        said = f"{name} is UNASSESSABLE: {paperwork.no_stability or 'nobody compared the attributions'}"
        yield Check(name, Standing.UNASSESSABLE, None, bound, said)
    else:
        yield _at_least(name, paperwork.stability, bound)


def _drift(paperwork: Paperwork, policy: GatePolicy) -> Iterator[Check]:
    if not paperwork.drift:
        is_ignored = policy.drift_when_unassessable != HOLD
        said = f"drift of the inputs is UNASSESSABLE: {paperwork.no_drift or 'no detector answered'}"
        yield Check("drift", Standing.UNASSESSABLE, None, None, said, is_ignored=is_ignored)
    for found in paperwork.drift:
        bound = policy.drift_alpha / len(paperwork.drift)  # Bonferroni: alpha is of all detectors together
        is_met = found.p_value >= bound
        said = f"{found.detector} of the inputs {'is like' if is_met else 'has drifted from'} the reference"
        standing = Standing.PASS if is_met else Standing.FAIL
        yield Check(
            "drift", standing, found.p_value, bound, f"{said} (p {found.p_value:.4f})", found.detector
        )


def _told(name: str, wrong: str | None, right: str = "") -> Check:
    return Check(name, Standing.FAIL if wrong else Standing.PASS, None, None, wrong or right)


def _at_least(name: str, value: float | None, bound: float) -> Check:
    return _bounded(name, value, bound, value is not None and value >= bound, "below", "")


def _at_most(name: str, value: float | None, bound: float, unit: str = "") -> Check:
    return _bounded(name, value, bound, value is not None and value <= bound, "above", unit)


def _bounded(name: str, value: float | None, bound: float, is_met: bool, wrong: str, unit: str) -> Check:
    if value is None or not math.isfinite(value):
        return Check(name, Standing.FAIL, None, bound, f"{name} cannot be measured")
    text = str(value) if isinstance(value, int) else f"{value:.3f}"
    said = f"{name} {text}{unit}" + (f" is {wrong} the bound of {bound:g}{unit}" if not is_met else "")
    return Check(name, Standing.PASS if is_met else Standing.FAIL, value, bound, said)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)

"""The judgement of the validation gate: pure, from what was measured on the frozen set to pass or fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hounsfield.rollout.policy import GatePolicy

_TOLERANCE = 1e-9
"""A difference of areas that is only floating point is no difference."""


@dataclass(frozen=True)
class Measurements:
    """How one served model did on the frozen set.

    `scored` cases had an answer, and `positives` of them are truly positive; `errors` and `refusals` had
    none. `auroc`, `sensitivity` and `specificity` are 0 to 1, at the served operating point, None where not
    defined.
    """

    cases: int
    scored: int
    positives: int
    errors: int
    refusals: int
    auroc: float | None
    sensitivity: float | None
    specificity: float | None
    latency_p95_s: float | None
    model_versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateVerdict:
    passed: bool
    reasons: tuple[str, ...]
    numbers: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "reasons": list(self.reasons), "numbers": self.numbers}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GateVerdict:
        """Read what `as_dict` wrote; only the literal true passes. Raises KeyError or TypeError."""
        return cls(values["passed"] is True, tuple(map(str, values["reasons"])), dict(values["numbers"]))


def judge(
    candidate: Measurements,
    champion: Measurements | None,
    policy: GatePolicy,
    expected_version: str | None = None,
) -> GateVerdict:
    """Pass only when every check is measured and met; what cannot be measured is a failure with its reason.

    `champion` None means that there is none yet. `expected_version` is the model version that must have
    answered.
    """
    failures = []
    if candidate.scored < policy.min_cases:
        failures.append(f"only {candidate.scored} cases were scored; the policy asks for {policy.min_cases}")
    if candidate.positives < policy.min_positives:
        failures.append(
            f"only {candidate.positives} scored cases are positive; "
            f"the policy asks for {policy.min_positives}"
        )
    if candidate.errors > policy.max_errors:
        failures.append(f"{candidate.errors} requests failed; the policy allows {policy.max_errors}")
    if candidate.refusals > policy.max_refusals:
        failures.append(f"{candidate.refusals} images were refused; the policy allows {policy.max_refusals}")

    floors = (
        ("AUROC", candidate.auroc, policy.min_auroc),
        ("sensitivity", candidate.sensitivity, policy.min_sensitivity),
    )
    for name, value, floor in floors:
        if value is None:
            failures.append(f"{name} cannot be measured")
        elif not value >= floor:
            failures.append(f"{name} {value:.3f} is below the floor of {floor:.3f}")
    if candidate.latency_p95_s is None:
        failures.append("latency cannot be measured")
    elif not candidate.latency_p95_s <= policy.max_latency_p95_s:
        failures.append(
            f"latency p95 {candidate.latency_p95_s:.3f} s is above {policy.max_latency_p95_s:g} s"
        )

    if champion is not None and candidate.auroc is not None:
        if champion.auroc is None:
            failures.append(
                "the champion's AUROC cannot be measured, so the candidate cannot be compared with it"
            )
        elif not candidate.auroc >= champion.auroc - policy.max_auroc_decrease - _TOLERANCE:
            failures.append(
                f"AUROC {candidate.auroc:.3f} is more than {policy.max_auroc_decrease:.3f} below "
                f"the champion's {champion.auroc:.3f}"
            )

    if len(candidate.model_versions) > 1:
        failures.append(f"more than one model version answered: {', '.join(candidate.model_versions)}")
    elif expected_version is not None and candidate.model_versions != (expected_version,):
        answered = ", ".join(candidate.model_versions) or "none"
        failures.append(f"model version {expected_version} was to be judged, but {answered} answered")

    numbers = {
        "candidate": _plain(candidate),
        "champion": None if champion is None else _plain(champion),
        "policy": dataclasses.asdict(policy),
    }
    return GateVerdict(not failures, tuple(failures) or ("every check of the gate is met",), numbers)


def _plain(measurements: Measurements) -> dict[str, Any]:
    return {**dataclasses.asdict(measurements), "model_versions": list(measurements.model_versions)}

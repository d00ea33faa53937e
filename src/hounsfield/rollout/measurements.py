"""What one served model answered on the frozen set, and how it did: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_BINS = 10


@dataclass(frozen=True)
class Cases:
    """The frozen set: `label` (N,) 0 or 1, `patient` (N,) pseudonyms, `groups` of each attribute (N,)."""

    label: np.ndarray
    patient: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What one served model answered on the N cases. Where `is_scored` (N,) is False there was no answer.

    `probability` (N,), 0 to 1 or NaN; `called` (N,) whether it was called positive; `embedding` (N, E) or
    None. `digests` and `versions` are of the models that answered.
    """

    is_scored: np.ndarray
    probability: np.ndarray
    called: np.ndarray
    errors: int = 0
    refusals: int = 0
    latency_p95_s: float | None = None
    versions: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    embedding: np.ndarray | None = None


def measurements(cases: Cases, answers: Answers) -> dict[str, Any]:
    """How one model did, over the cases that it scored; None where a number is not defined."""
    label, probability, called = _scored(cases, answers)
    found = {
        "cases": len(cases.label),
        "scored": len(label),
        "positives": int(label.sum()),
        "errors": answers.errors,
        "refusals": answers.refusals,
        "auroc": _auroc(label, probability),
        "sensitivity": _share(called[label == 1]),
        "specificity": _share(~called[label == 0]),
        "ece": _ece(label, probability),
        "brier": _mean((probability - label) ** 2),
        "log_loss": _log_loss(label, probability),
        "latency_p95_s": answers.latency_p95_s,
        "model_versions": list(answers.versions),
        "package_digests": list(answers.digests),
    }
    # JSON has no NaN, and a number that is none is not measured.
    return {name: None if isinstance(each, float) and each != each else each for name, each in found.items()}


def _scored(cases: Cases, answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chosen = answers.is_scored
    return cases.label[chosen], answers.probability[chosen], answers.called[chosen]


def _auroc(label: np.ndarray, probability: np.ndarray) -> float | None:
    """The chance that a positive case scores above a negative one, ties half (Mann and Whitney 1947)."""
    up, down = probability[label == 1], np.sort(probability[label == 0])
    if not len(up) or not len(down) or not np.isfinite(probability).all():
        return None
    below = np.searchsorted(down, up, "left") + np.searchsorted(down, up, "right")
    return float(below.sum() / (2 * len(up) * len(down)))


def _ece(label: np.ndarray, probability: np.ndarray) -> float | None:
    """Mean distance of predicted and observed frequency over ten bins of equal width, weighted by count."""
    if not len(label):
        return None
    place = np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], probability)
    gaps = np.bincount(place, weights=probability - label, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(label))


def _log_loss(label: np.ndarray, probability: np.ndarray) -> float | None:
    edge = np.finfo(np.float32).eps
    likely = np.where(label == 1, probability, 1 - probability)
    return _mean(-np.log(np.clip(likely, edge, 1)))


def _share(hits: np.ndarray) -> float | None:
    return _mean(hits.astype(np.float64))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None

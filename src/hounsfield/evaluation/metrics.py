"""The metrics of a two-class model, with image weights; None where a metric has no value."""

from __future__ import annotations

import numpy as np


def auroc(label: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float | None:
    """Area under the ROC curve: the share of pairs in order, ties counting half (Hanley and McNeil 1982).

    None where `weight` (N,) leaves one class only. In numpy because the bootstrap calls it some thousand
    times, and scikit-learn's own takes far longer to check its arguments; a test holds the two equal.
    """
    positive, negative = _by_score(label, score, weight)
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def auprc(label: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float | None:
    """Average precision: the sum over thresholds of precision times the gain in recall, as in scikit-learn.

    None where `weight` (N,) leaves one class only.
    """
    positive, negative = (part[::-1] for part in _by_score(label, score, weight))
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    found, called = np.cumsum(positive), np.cumsum(positive + negative)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return float((precision * positive).sum() / positive.sum())


def _by_score(label: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the positives and of the negatives at each distinct score, scores rising."""
    values, place = np.unique(score, return_inverse=True)
    return (
        np.bincount(place, weights=weight * label, minlength=len(values)),
        np.bincount(place, weights=weight * (1 - label), minlength=len(values)),
    )


def call_metrics(label: np.ndarray, called: np.ndarray, weight: np.ndarray) -> dict[str, float | None]:
    """`sensitivity`, `specificity`, `ppv`, `npv` of the calls (N,), 0 or 1; None where nothing divides."""
    # The confusion matrix as scikit-learn lays it out, by one bincount: the bootstrap calls this often.
    tn, fp, fn, tp = np.bincount(2 * label + called, weights=weight, minlength=4).tolist()

    def share(part: float, whole: float) -> float | None:
        return part / whole if whole > 0 else None

    return {
        "sensitivity": share(tp, tp + fn),
        "specificity": share(tn, tn + fp),
        "ppv": share(tp, tp + fp),
        "npv": share(tn, tn + fn),
    }

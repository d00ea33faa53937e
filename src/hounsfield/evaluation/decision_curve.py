"""Is acting on the model better than treating everybody, or nobody? Decision curve analysis.

Net benefit at a threshold t counts true positives, less false positives at the rate t / (1 - t) at which a
person who acts from probability t on values them (Vickers and Elkin, Med Decis Making 26, 2006).
"""

from __future__ import annotations

import numpy as np

THRESHOLDS = np.arange(1, 100) / 100


def net_benefit(
    label: np.ndarray, called: np.ndarray, weight: np.ndarray, threshold: float
) -> tuple[float, float]:
    """Net benefit an image of the calls (N,), 0 or 1, and of calling all positive; calling none has 0."""
    odds, total = threshold / (1 - threshold), weight.sum()
    positive, negative = weight * label, weight * (1 - label)
    model = ((positive * called).sum() - odds * (negative * called).sum()) / total
    return float(model), float((positive.sum() - odds * negative.sum()) / total)


def advantage(label: np.ndarray, called: np.ndarray, weight: np.ndarray, threshold: float) -> float:
    """Net benefit of the calls above that of the better of calling all and calling none."""
    model, everybody = net_benefit(label, called, weight, threshold)
    return model - max(everybody, 0.0)


def decision_curve(label: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    """`threshold`, and the net benefit of the `model` and of calling `all` positive at each."""
    weight = np.ones(len(label))
    pairs = [net_benefit(label, (probability >= t).astype(int), weight, t) for t in THRESHOLDS]
    return {
        "threshold": THRESHOLDS.tolist(),
        "model": [model for model, _ in pairs],
        "all": [everybody for _, everybody in pairs],
    }

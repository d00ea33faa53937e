"""Temperature scaling, and how far a probability can be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

BINS = 10
_LOG_TEMPERATURE = (-2.5, 2.5)


def calibrated(logit: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of a positive, (N,) in [0, 1], from the logit (N,)."""
    return expit(np.asarray(logit, dtype=np.float64) / temperature)


def fit_temperature(label: np.ndarray, logit: np.ndarray) -> float:
    """The temperature, within [0.08, 12], that makes `calibrated` most likely (Guo et al. 2017, section 4.2).

    One number cannot change the order of images, so every rank metric stays as it was.
    """
    found = minimize_scalar(
        lambda log_t: log_loss(label, calibrated(logit, np.exp(log_t)), labels=[0, 1]),
        bounds=_LOG_TEMPERATURE,
        method="bounded",
    )
    return float(np.exp(found.x))


def calibration(label: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    """`ece`, `brier` and the `reliability` curve of one set of probabilities."""
    return {
        "ece": expected_calibration_error(label, probability),
        "brier": float(brier_score_loss(label, probability)),
        "reliability": reliability(label, probability),
    }


def reliability(label: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    """`mean_predicted`, `fraction_positive` and `count` of each bin of equal width that holds an image."""
    fraction, mean = calibration_curve(label, probability, n_bins=BINS, strategy="uniform")
    # The same edges as calibration_curve uses, which does not give the counts.
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    count = np.bincount(bins, minlength=BINS)
    return {
        "mean_predicted": mean.tolist(),
        "fraction_positive": fraction.tolist(),
        "count": count[count > 0].tolist(),
    }


def expected_calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean distance between predicted and observed frequency, over bins of equal width, weighted by count."""
    curve = reliability(label, probability)
    gap = np.abs(np.subtract(curve["mean_predicted"], curve["fraction_positive"]))
    return float(np.average(gap, weights=curve["count"]))

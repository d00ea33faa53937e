"""Temperature scaling, and how far a probability can be trusted."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import log_loss

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


def reliability(label: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    """`mean_predicted`, `fraction_positive` and `count` of each bin of equal width that holds an image."""
    count, positive, predicted = _bins(label, probability, np.ones(len(label)))
    held = count > 0
    return {
        "mean_predicted": (predicted[held] / count[held]).tolist(),
        "fraction_positive": (positive[held] / count[held]).tolist(),
        "count": count[held].astype(int).tolist(),
    }


def expected_calibration_error(label: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> float:
    """Mean distance between predicted and observed frequency, over bins of equal width, weighted by count.

    Noise makes the distances larger and never smaller, so that resamples of a set lie above it on the whole.
    """
    count, positive, predicted = _bins(label, probability, weight)
    return float(np.abs(positive - predicted).sum() / count.sum())


def brier(label: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> float:
    """Mean squared distance of the probability from what is true, as scikit-learn's brier_score_loss."""
    return float(np.average((probability - label) ** 2, weights=weight))


def _bins(label: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each bin the weight of its images, of the positive ones among them, and its sum of probabilities."""
    # The edges of scikit-learn's calibration_curve, which takes no weights.
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    return tuple(
        np.bincount(place, weights=weight * value, minlength=BINS)
        for value in (np.ones(len(label)), label, probability)
    )

"""The threshold and the review band, both chosen on the validation split."""

from __future__ import annotations

import numpy as np
from scipy.special import logit as log_odds
from sklearn.metrics import roc_curve

from hounsfield.evaluation.calibration import calibrated

SENSITIVITY_FLOOR = 0.85
REVIEW_SHARE = 0.15
RULE = f"highest specificity with a sensitivity of at least {SENSITIVITY_FLOOR:.2f} on validation"


def choose_threshold(label: np.ndarray, probability: np.ndarray) -> float:
    """The probability at and above which an image is called positive, by `RULE`.

    Midway to the next lower probability, so that an image on the threshold is not called by a rounding.
    """
    false_positive_rate, true_positive_rate, thresholds = roc_curve(
        label, probability, drop_intermediate=False
    )
    allowed = true_positive_rate >= SENSITIVITY_FLOOR
    chosen = thresholds[allowed][np.argmin(false_positive_rate[allowed])]
    lower = probability[probability < chosen]
    return float((chosen + lower.max()) / 2) if lower.size else float(chosen)


def review_band(probability: np.ndarray, threshold: float) -> tuple[float, float]:
    """Calibrated probabilities (low, high) between which a person decides.

    As wide, in log-odds either side of the threshold, as holds `REVIEW_SHARE` of the validation images: the
    images whose call would change first.
    """
    edge = np.finfo(np.float64).eps
    centre = log_odds(np.clip(threshold, edge, 1 - edge))
    distance = np.abs(log_odds(np.clip(probability, edge, 1 - edge)) - centre)
    half_width = np.quantile(distance, REVIEW_SHARE)
    low, high = calibrated(np.array([centre - half_width, centre + half_width]), temperature=1.0)
    return float(low), float(high)

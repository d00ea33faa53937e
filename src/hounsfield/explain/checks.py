"""What an explanation must withstand before it is believed; each check can fail.

completeness    the attributions of an image sum to the change of the logit that they explain.
pointing game   the strongest point of an attribution lies in the finding, more often than chance (Zhang et
                al., IJCV 126, 2018, section 4.3, here by regions).
stability       two models agree on which regions of the same pictures matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, spearmanr

from hounsfield.explain.packaged import Attribution

COMPLETENESS_BOUND = 1e-3
"""Logits: less than 0.00025 of a probability."""
SIGNIFICANCE = 0.01
LEAST_CASES = 8
"""With fewer pictures that the model calls positive the game says nothing."""


def completeness(found: Sequence[Attribution]) -> dict[str, Any]:
    """The largest distance, in logits, between a sum of attributions and the change that it should be."""
    worst = max(each.completeness_error for each in found)
    return {
        "images": len(found),
        "worst": worst,
        "bound": COMPLETENESS_BOUND,
        "passed": worst <= COMPLETENESS_BOUND,
    }


def pointing_game(regions: Sequence[np.ndarray], covered: Sequence[np.ndarray]) -> dict[str, Any]:
    """How often the strongest of `regions`, (G, G) an image, is one of `covered`, bool (G, G).

    A random map hits with the share of the regions that are covered; `p_value` is the chance that it hits as
    often as these did. `passed` is None below LEAST_CASES images.
    """
    hits = [bool(truth.ravel()[np.argmax(map_)]) for map_, truth in zip(regions, covered, strict=True)]
    cases = len(hits)
    chance = float(np.mean([truth.mean() for truth in covered])) if cases else None
    p_value = float(binomtest(sum(hits), cases, chance, "greater").pvalue) if cases else None
    return {
        "cases": cases,
        "hits": sum(hits),
        "rate": sum(hits) / cases if cases else None,
        "random_rate": chance,
        "p_value": p_value,
        "significance": SIGNIFICANCE,
        "passed": None if cases < LEAST_CASES else p_value < SIGNIFICANCE,
    }


def stability(candidate: np.ndarray, champion: np.ndarray) -> dict[str, Any] | None:
    """Spearman's correlation of two models' attributions of the same pictures, (N, G, G) each, over regions.

    `value` is the mean over the pictures, 1 for the same order everywhere, and `lowest` that of one picture;
    None where the two are not of the same regions or one model never attributes anything.
    """
    if candidate.shape != champion.shape:
        return None
    pairs = zip(candidate, champion, strict=True)
    each = [float(spearmanr(ours.ravel(), theirs.ravel()).statistic) for ours, theirs in pairs if ours.any()]
    known = [value for value in each if np.isfinite(value)]
    return {"value": float(np.mean(known)), "lowest": min(known), "images": len(known)} if known else None

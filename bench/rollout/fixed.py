"""The fixed-size test that the rollout is held against: one look, at a number of requests chosen beforehand.

Farrington and Manning, "Test statistics and sample size formulae for comparative binomial trials with null
hypothesis of non-zero risk difference", Stat. Med. 9, 1990: the score test of a difference of two rates
against a margin.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from hounsfield.rollout.evalue import nearest_null


def requests_needed(
    stable: float, canary: float, margin: float, alpha: float, power: float, stable_per_canary: float = 1.0
) -> int:
    """Requests to the canary at which the test reaches `power` when the rates are `stable` and `canary`."""
    null = float(nearest_null(stable, canary, stable_per_canary, 1.0, margin))
    spread = [
        math.sqrt(s * (1 - s) / stable_per_canary + c * (1 - c))
        for s, c in ((null, null + margin), (stable, canary))
    ]
    normal = NormalDist()
    reach = normal.inv_cdf(1 - alpha) * spread[0] + normal.inv_cdf(power) * spread[1]
    return math.ceil((reach / abs(canary - stable - margin)) ** 2)


def wrong_when_peeked_at(
    stable: float, margin: float, alpha: float, batch: int, looks: int, tests: int = 2000, seed: int = 0
) -> float:
    """How often the test for a promotion errs, at its boundary, when it is asked after every batch."""
    random = np.random.default_rng(seed)
    k_s, k_c, passed = np.zeros(tests), np.zeros(tests), np.zeros(tests, bool)
    for number in range(1, looks + 1):
        k_s += random.binomial(batch, stable, tests)
        k_c += random.binomial(batch, stable + margin, tests)
        score = _score(k_s / (number * batch), k_c / (number * batch), number * batch, number * batch, margin)
        passed |= -score > NormalDist().inv_cdf(1 - alpha)
    return float(np.mean(passed))


def _score(p_s: np.ndarray, p_c: np.ndarray, n_s: int, n_c: int, margin: float) -> np.ndarray:
    b_s = nearest_null(p_s, p_c, n_s, n_c, margin)
    b_c = b_s + margin
    spread = np.sqrt(np.maximum(b_s * (1 - b_s) / n_s + b_c * (1 - b_c) / n_c, 1e-12))
    return (p_c - p_s - margin) / spread


def power_at(
    stable: float,
    canary: float,
    margin: float,
    alpha: float,
    requests: int,
    stable_per_canary: float = 1.0,
    tests: int = 20_000,
    seed: int = 0,
) -> float:
    """The power that the test really has at that number, by simulation: the formula is an approximation."""
    random = np.random.default_rng(seed)
    n_s, n_c = round(requests * stable_per_canary), requests
    p_s, p_c = random.binomial(n_s, stable, tests) / n_s, random.binomial(n_c, canary, tests) / n_c
    score = _score(p_s, p_c, n_s, n_c, margin)
    is_harm = canary - stable > margin
    rejected = (score if is_harm else -score) > NormalDist().inv_cdf(1 - alpha)
    return float(np.mean(rejected))

"""E-values for two streams of yes-or-no outcomes: evidence that may be looked at as often as one likes.

An e-value is a number of at least 0 whose mean is at most 1 when the null hypothesis is true. Multiplied from
look to look, such numbers are an e-process, and by Ville's inequality (1939) the chance that it ever reaches
1/alpha is at most alpha, however often and whenever one looks.

Two streams. Between two looks the stable revision had `k_s` bad outcomes of `n_s`, the canary `k_c` of
`n_c`. The null says that the difference of the two rates lies on one side of a `gap`. Before the counts are
seen, an alternative (a_s, a_c) on the other side is chosen. The factor of this look is the likelihood ratio
of the alternative to the point (b_s, b_c) of the null that is nearest to it, in Kullback-Leibler divergence
n_s KL(a_s, b_s) + n_c KL(a_c, b_c) (Turner, Ly and Grünwald, "Generic E-variables for exact sequential
k-sample tests that allow for optional stopping", JSPI 230, 2024; Turner and Grünwald, "Exact anytime-valid
confidence intervals for contingency tables and beyond", Stat. Probab. Lett. 198, 2023).

Why that is an e-value for every n_s and n_c. Under true rates (t_s, t_c) of the null the mean of the factor
is f_s^n_s f_c^n_c with f = 1 + (t - b)(a - b) / (b (1 - b)). By the inequality of the means it is at most
((n_s f_s + n_c f_c) / n)^n, and n_s (f_s - 1) + n_c (f_c - 1) is the derivative of minus the divergence at
the nearest point, in the direction of another point of the null. The null is convex, so that is at most 0.
Nothing but the present look's rates entered: they may drift from look to look as long as they stay in the
null.

One stream against a fixed `limit` is the plain likelihood ratio. Streams that no longer run side by side (all
traffic has gone to the canary) are compared by universal inference (`log_universal`).

All functions take and return numpy arrays that broadcast, natural logarithms throughout; pure.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SMALLEST_RATE = 1e-4
"""No alternative bets more than this on an outcome being impossible, so no single outcome can ruin it."""

_BISECTIONS = 60


def nearest_null(a_s: ArrayLike, a_c: ArrayLike, n_s: ArrayLike, n_c: ArrayLike, gap: ArrayLike) -> Floats:
    """The stable rate b_s of the point (b_s, b_s + gap) that is nearest to (a_s, a_c), weighted by n_s and
    n_c.

    With a = k / n it is the most likely such point. Rates are 0 to 1, `gap` -1 to 1. By bisection of the
    divergence's derivative, in additions, products and quotients only: every machine gets the same bits.
    """
    a_s, a_c, n_s, n_c, gap = np.broadcast_arrays(
        *(np.asarray(x, np.float64) for x in (a_s, a_c, n_s, n_c, gap))
    )
    low, high = np.maximum(0.0, -gap), np.minimum(1.0, 1.0 - gap)
    for _ in range(_BISECTIONS):
        b_s = (low + high) / 2
        b_c = b_s + gap
        # The sign of n_s (b_s - a_s) / (b_s (1 - b_s)) + n_c (b_c - a_c) / (b_c (1 - b_c)).
        rising = n_s * (b_s - a_s) * b_c * (1 - b_c) + n_c * (b_c - a_c) * b_s * (1 - b_s) > 0
        low, high = np.where(rising, low, b_s), np.where(rising, b_s, high)
    return (low + high) / 2


def log_likelihood_ratio(k: ArrayLike, n: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
    """log of (chance of `k` bad of `n` at rate `a`) / (the same at rate `b`); 0 for n = 0."""
    k, n, a, b = (np.asarray(x, np.float64) for x in (k, n, a, b))
    return k * np.log(a / b) + (n - k) * np.log((1 - a) / (1 - b))


def log_two_streams(
    k_s: ArrayLike,
    n_s: ArrayLike,
    k_c: ArrayLike,
    n_c: ArrayLike,
    a_s: ArrayLike,
    a_c: ArrayLike,
    gap: ArrayLike,
) -> Floats:
    """log of the factor of one look against "canary less stable is on the other side of `gap`".

    (a_s, a_c) has to be chosen without these counts. It is 0 when one of the streams had nothing.
    """
    b_s = nearest_null(a_s, a_c, n_s, n_c, gap)
    with np.errstate(divide="ignore", invalid="ignore"):  # a rate of exactly 0 or 1 where a stream is empty
        factor = log_likelihood_ratio(k_s, n_s, a_s, b_s) + log_likelihood_ratio(k_c, n_c, a_c, b_s + gap)
    return np.where((np.asarray(n_s) > 0) & (np.asarray(n_c) > 0), factor, 0.0)


def log_mean(log_values: Floats, weights: Floats, axis: int = -1) -> Floats:
    """log of the weighted mean of exp(log_values); weights sum to 1, a weight of 0 is left out."""
    with np.errstate(divide="ignore"):
        terms = log_values + np.log(weights)
    top = np.max(terms, axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.sum(np.exp(terms - top), axis=axis))


def log_universal(k_s: ArrayLike, n_s: ArrayLike, k_c: ArrayLike, n_c: ArrayLike, gap: ArrayLike) -> Floats:
    """log e-value against "canary less stable is at most `gap`" for streams that need not run side by side.

    Universal inference (Wasserman, Ramdas and Balakrishnan, PNAS 117, 2020): the chance of all outcomes
    when each rate is drawn from Jeffreys' Beta(1/2, 1/2), over their greatest chance under the null. The
    numerator over the chance under the true rates is a martingale, and the denominator is at least that
    chance, whatever rule said which stream gave its next outcome. The rates must stay what they are all the
    time.
    """
    k_s, n_s, k_c, n_c, gap = (np.asarray(x, np.float64) for x in (k_s, n_s, k_c, n_c, gap))
    with np.errstate(divide="ignore", invalid="ignore"):
        a_s, a_c = np.where(n_s > 0, k_s / n_s, 1.0), np.where(n_c > 0, k_c / n_c, 0.0)
    b_s = nearest_null(a_s, a_c, n_s, n_c, gap)
    inside = a_c - a_s <= gap
    b_s, b_c = np.where(inside, a_s, b_s), np.where(inside, a_c, b_s + gap)
    most = _log_chance(k_s, n_s, b_s) + _log_chance(k_c, n_c, b_c)
    return _log_mixture(k_s, n_s) + _log_mixture(k_c, n_c) - most


def _log_chance(k: Floats, n: Floats, rate: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        bad, good = np.where(k > 0, k * np.log(rate), 0.0), np.where(n > k, (n - k) * np.log1p(-rate), 0.0)
    return bad + good


def _log_mixture(k: Floats, n: Floats) -> Floats:
    """log of B(k + 1/2, n - k + 1/2) / B(1/2, 1/2)."""
    return _log_gamma(k + 0.5) + _log_gamma(n - k + 0.5) - _log_gamma(n + 1.0) - math.log(math.pi)


_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])

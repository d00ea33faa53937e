"""E-values: their means are at most 1 under the null, by summing over every outcome there is."""

import itertools
import math

import numpy as np
import pytest

from hounsfield.rollout import evalue


def outcomes(n_s, n_c):
    """Every (k_s, k_c) there is, as two arrays."""
    return tuple(np.array(list(itertools.product(range(n_s + 1), range(n_c + 1)))).T)


def mean_under(t_s, t_c, n_s, n_c, log_e):
    """Exact mean of exp(log_e), given for each of `outcomes`, when the rates are t_s and t_c."""
    k_s, k_c = outcomes(n_s, n_c)
    ways = [math.comb(n_s, k) * math.comb(n_c, j) for k, j in zip(k_s, k_c, strict=True)]
    chance = ways * t_s**k_s * (1 - t_s) ** (n_s - k_s) * t_c**k_c * (1 - t_c) ** (n_c - k_c)
    return float(np.sum(chance * np.exp(log_e)))


NULLS = [(t_s, t_c) for t_s in np.linspace(0, 1, 21) for t_c in np.linspace(0, 1, 21)]


@pytest.mark.parametrize(("n_s", "n_c"), [(1, 1), (19, 1), (3, 7), (12, 4)])
@pytest.mark.parametrize(
    ("gap", "a_s", "a_c", "null"),
    [
        (0.05, 0.02, 0.02, "at least"),
        (0.05, 0.1, 0.125, "at least"),
        (0.1, 0.02, 0.2, "at most"),
        (0.3, 0.1, 0.9, "at most"),
    ],
)
def test_the_factor_of_a_look_is_an_e_value_at_every_point_of_the_null(n_s, n_c, gap, a_s, a_c, null):
    k_s, k_c = outcomes(n_s, n_c)
    factor = evalue.log_two_streams(k_s, n_s, k_c, n_c, a_s, a_c, gap)
    means = [
        mean_under(t_s, t_c, n_s, n_c, factor)
        for t_s, t_c in NULLS
        if (t_c - t_s >= gap if null == "at least" else t_c - t_s <= gap)
    ]
    assert max(means) <= 1 + 1e-9
    assert max(means) > 0.9  # and not by being small for nothing


def test_the_e_value_grows_under_its_alternative():
    k_s, k_c = outcomes(10, 10)
    assert mean_under(0.1, 0.1, 10, 10, evalue.log_two_streams(k_s, 10, k_c, 10, 0.1, 0.1, 0.3)) > 1.5


def test_the_nearest_point_of_the_null_by_hand():
    # Equal weights, and symmetric about one half: so is the nearest point.
    assert evalue.nearest_null(0.45, 0.55, 1, 1, 0.2) == pytest.approx(0.4)
    # A stream of no weight gives way altogether.
    assert evalue.nearest_null(0.3, 0.3, 1, 0, 0.05) == pytest.approx(0.3)
    assert evalue.nearest_null(0.3, 0.3, 0, 1, 0.05) == pytest.approx(0.25)


def test_a_stream_that_gave_nothing_proves_nothing():
    assert evalue.log_two_streams(0, 0, 3, 50, 0.01, 0.01, 0.05) == 0
    assert evalue.log_two_streams(3, 50, 0, 0, 0.01, 0.01, 0.05) == 0


def test_one_stream_against_a_limit_is_the_likelihood_ratio():
    # 59 good outcomes, rate 1e-4 against 0.05: 59 log(0.9999 / 0.95).
    found = evalue.log_likelihood_ratio(0, 59, 1e-4, 0.05)
    assert found == pytest.approx(59 * math.log(0.9999 / 0.95))


def test_universal_inference_is_an_e_value():
    k_s, k_c = outcomes(8, 8)
    log_e = evalue.log_universal(k_s, 8, k_c, 8, 0.05)
    for t_s, t_c in [(0.0, 0.05), (0.2, 0.25), (0.5, 0.3), (0.95, 1.0), (0.4, 0.45)]:
        assert mean_under(t_s, t_c, 8, 8, log_e) <= 1 + 1e-9


def test_universal_inference_sees_a_canary_that_fails_after_stable_has_gone():
    assert evalue.log_universal(0, 1000, 30, 30, 0.05) > 50
    assert evalue.log_universal(0, 1000, 0, 30, 0.05) < 0
    assert evalue.log_universal(0, 0, 30, 30, 0.05) < 0  # nothing to compare with


def test_log_mean_is_the_log_of_the_weighted_mean():
    found = evalue.log_mean(np.log([1.0, 4.0]), np.array([0.75, 0.25]))
    assert found == pytest.approx(math.log(1.75))
    assert evalue.log_mean(np.array([1000.0, -1000.0]), np.array([0.5, 0.5])) == pytest.approx(
        1000 - math.log(2)
    )

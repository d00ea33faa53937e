"""The decision: exact bounds, and never a promotion on what is not known."""

import dataclasses
import math

import pytest

from hounsfield.rollout.decide import Decision, decide, lower_bound, upper_bound
from hounsfield.rollout.evidence import Evidence, Window
from hounsfield.rollout.policy import Policy

POLICY = Policy(
    steps=(5, 100),
    interval_s=2,
    min_requests=30,
    max_error_rate_increase=0.05,
    max_refusal_rate_increase=0.05,
    max_latency_p95_s=0.5,
    max_review_share_increase=0.25,
    max_duration_s=300,
    failures_allowed=3,
)
FAST = ((0.1, 1.0), (math.inf, 1.0))


def window(requests, errors=0, refused=0, reviewed=0, latency=FAST):
    return Window(10, requests, errors, refused, reviewed, latency)


def judged(canary, stable=None, now=10, policy=POLICY):
    return decide(Evidence(stable or window(2000), canary, started_at=0), policy, now)


def test_bounds_are_those_of_clopper_and_pearson():
    # No event in n: 1 - error^(1/n). All of n: error^(1/n).
    assert upper_bound(0, 30, 0.025) == pytest.approx(1 - 0.025 ** (1 / 30), abs=1e-10)
    assert lower_bound(6, 6, 0.025) == pytest.approx(0.025 ** (1 / 6), abs=1e-10)
    assert (lower_bound(0, 9, 0.025), upper_bound(9, 9, 0.025)) == (0.0, 1.0)
    # 5 of 10, two-sided 95 %: the value of the standard tables.
    assert upper_bound(5, 10, 0.025) == pytest.approx(0.8129, abs=1e-4)
    assert lower_bound(5, 10, 0.025) == pytest.approx(0.1871, abs=1e-4)


def test_no_errors_in_thirty_requests_is_not_read_as_zero():
    verdict = judged(window(30))
    assert verdict.decision is Decision.HOLD
    assert verdict.numbers["error_rate_high"] == pytest.approx(0.115703, abs=1e-6)
    assert not verdict.breaches


def test_a_clean_canary_is_promoted_at_the_72nd_request():
    # 1 - 0.025^(1/72) = 0.0499, and 0.0506 at 71.
    assert judged(window(71)).decision is Decision.HOLD
    assert judged(window(72)).decision is Decision.PROMOTE


def test_a_few_requests_are_never_enough_even_with_a_wide_margin():
    margins = ("max_error_rate_increase", "max_refusal_rate_increase", "max_review_share_increase")
    wide = dataclasses.replace(POLICY, **dict.fromkeys(margins, 1.0))
    assert judged(window(29), policy=wide).decision is Decision.HOLD
    assert judged(window(30), policy=wide).decision is Decision.PROMOTE


def test_a_canary_that_fails_is_rolled_back_after_six_requests():
    # All of 6 failed: the rate is at least 0.025^(1/6) = 54 %.
    verdict = judged(window(6, errors=6))
    assert verdict.decision is Decision.ROLLBACK
    assert verdict.numbers["error_rate_low"] == pytest.approx(0.5389, abs=1e-3)
    assert "error rate 100.0%" in verdict.reasons[0]


def test_refusals_and_reviews_roll_back_too():
    assert judged(window(60, refused=30)).decision is Decision.ROLLBACK
    assert judged(window(60, reviewed=50)).decision is Decision.ROLLBACK


def test_errors_that_the_stable_revision_makes_too_are_not_held_against_the_canary():
    assert judged(window(500, errors=50), stable=window(5000, errors=500)).decision is Decision.PROMOTE
    assert judged(window(500, errors=50), stable=window(5000)).decision is Decision.ROLLBACK


def test_a_worse_rate_that_is_not_proven_holds_and_is_named_as_a_breach():
    verdict = judged(window(40, errors=3))
    assert verdict.decision is Decision.HOLD
    assert verdict.breaches == ("error_rate",)


def test_a_slow_canary_holds_with_a_breach():
    slow = ((0.5, 0.0), (1.0, 100.0), (math.inf, 100.0))
    verdict = judged(window(100, latency=slow))
    assert verdict.decision is Decision.HOLD
    assert verdict.breaches == ("latency_p95_s",)
    assert verdict.numbers["latency_p95_s_canary"] == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        (window(2000), None),
        (None, window(2000)),
        (None, None),
        (window(2000), window(0)),
        (window(0), window(2000)),
        (window(2000), window(100, latency=())),
        (window(2000), window(100, latency=((0.1, math.nan), (math.inf, math.nan)))),
        (window(2000), window(100, errors=200)),
    ],
    ids=[
        "no canary",
        "no stable",
        "neither",
        "no requests",
        "no comparison",
        "no latency",
        "NaN",
        "nonsense",
    ],
)
def test_what_is_not_known_holds(stable, canary):
    verdict = decide(Evidence(stable, canary, started_at=0), POLICY, now=10)
    assert verdict.decision is Decision.HOLD
    assert verdict.reasons


def test_a_canary_that_answers_nothing_but_refusals_is_not_promoted():
    stable = window(2000, refused=2000)
    assert judged(window(2000, refused=2000), stable=stable).decision is Decision.HOLD


def test_a_rollout_beyond_its_longest_time_is_rolled_back():
    assert judged(window(10), now=300).decision is Decision.HOLD
    verdict = judged(window(10), now=301)
    assert verdict.decision is Decision.ROLLBACK
    assert "300 s" in verdict.reasons[0]


def test_a_clock_that_is_not_a_number_is_not_a_promotion():
    assert judged(None, now=math.nan).decision is not Decision.PROMOTE


def test_the_same_evidence_gives_the_same_verdict():
    assert judged(window(100, errors=1)) == judged(window(100, errors=1))

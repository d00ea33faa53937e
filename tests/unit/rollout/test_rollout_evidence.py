"""Counters become evidence, and a gap in them becomes no evidence."""

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hounsfield.errors import RolloutError
from hounsfield.rollout.evidence import Snapshot, between, histogram_quantile, parse
from hounsfield.serving.metrics import Metrics

INFINITY = math.inf


@pytest.fixture
def page():
    import numpy

    registry = CollectorRegistry()
    metrics = Metrics("opacity", "3", registry)
    metrics.count_answers(numpy.array([0.1, 0.5, 0.9]), numpy.array([False, True, False]))
    metrics.count("error")
    metrics.count_refusal("NOT_DICOM")
    for seconds in (0.004, 0.02, 0.02, 7.0):
        metrics.observe_latency_s(seconds)
    return generate_latest(registry).decode()


def test_the_page_of_our_own_server_is_read(page):
    snapshot = parse(page, at=100.0)
    assert (snapshot.ok, snapshot.errors, snapshot.refused, snapshot.reviewed) == (3, 1, 1, 1)
    assert snapshot.model_versions == ("3",)
    assert dict(snapshot.latency)[0.005] == 1
    assert dict(snapshot.latency)[0.025] == 3
    assert dict(snapshot.latency)[INFINITY] == 4


def test_a_server_without_requests_has_counters_at_zero():
    registry = CollectorRegistry()
    Metrics("opacity", "3", registry)
    snapshot = parse(generate_latest(registry).decode(), at=0)
    assert (snapshot.ok, snapshot.errors, snapshot.refused) == (0, 0, 0)


@pytest.mark.parametrize("name", ["hounsfield_requests", "hounsfield_review", "hounsfield_request_latency"])
def test_a_page_that_lacks_a_metric_is_refused_not_read_as_zero(page, name):
    text = "".join(line for line in page.splitlines(keepends=True) if name not in line)
    with pytest.raises(RolloutError, match=f"has no {name}"):
        parse(text, at=0)


def test_a_counter_that_is_not_a_number_is_refused(page):
    with pytest.raises(RolloutError, match="not a number"):
        parse(page.replace('outcome="ok",traffic="live"} 3.0', 'outcome="ok",traffic="live"} NaN'), at=0)


def test_a_page_that_is_no_metrics_page_is_refused():
    with pytest.raises(RolloutError):
        parse("<html>502 Bad Gateway</html>", at=0)


def test_a_window_is_the_difference_of_two_snapshots():
    before = Snapshot(10, ok=100, refused=2, errors=1, reviewed=9, latency=((0.1, 90), (INFINITY, 100)))
    after = Snapshot(14, ok=150, refused=3, errors=4, reviewed=14, latency=((0.1, 120), (INFINITY, 150)))
    window = between(before, after)
    assert (window.seconds, window.requests, window.errors, window.refused) == (4, 54, 3, 1)
    assert (window.reviewed, window.scored) == (5, 50)
    assert window.latency == ((0.1, 30), (INFINITY, 50))


@pytest.mark.parametrize("counter", ["ok", "refused", "errors", "reviewed"])
def test_a_counter_that_fell_is_no_data(counter):
    high = {"ok": 5, "refused": 5, "errors": 5, "reviewed": 5}
    assert between(Snapshot(0, **high), Snapshot(1, **{**high, counter: 4})) is None


def test_another_model_version_in_between_is_no_data():
    before, after = Snapshot(0, ok=5, model_versions=("3",)), Snapshot(1, ok=9, model_versions=("4",))
    assert between(before, after) is None


def test_a_source_that_was_down_is_no_data():
    assert between(None, Snapshot(1)) is None
    assert between(Snapshot(1), None) is None


def test_quantile_is_linear_within_a_bucket():
    # 50 observations below 0.1, 40 in (0.1, 0.2], 10 in (0.2, 0.4]: rank 95 is halfway through the last ten.
    buckets = ((0.1, 50.0), (0.2, 90.0), (0.4, 100.0), (INFINITY, 100.0))
    assert histogram_quantile(0.95, buckets) == pytest.approx(0.3)
    assert histogram_quantile(0.25, buckets) == pytest.approx(0.05)


def test_quantile_beyond_the_last_bound_is_that_bound():
    assert histogram_quantile(0.95, ((0.1, 90.0), (5.0, 90.0), (INFINITY, 100.0))) == 5.0


def test_quantile_without_observations_is_none():
    assert histogram_quantile(0.95, ((0.1, 0.0), (INFINITY, 0.0))) is None
    assert histogram_quantile(0.95, ()) is None

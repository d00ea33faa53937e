import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hounsfield.serving.metrics import SHED, Metrics
from tests.unit.serving.parts import LABELS

NAMES = [
    "hounsfield_requests_total",
    "hounsfield_request_latency_seconds_count",
    "hounsfield_score_count",
    "hounsfield_review_total",
    "hounsfield_feedback_total",
    "hounsfield_queue_waiting",
    "hounsfield_inflight_requests",
    "hounsfield_batch_size_count",
    "hounsfield_shed_total",
    "hounsfield_log_backlog",
    "hounsfield_log_commit_seconds_count",
    "hounsfield_sink_backlog",
    "hounsfield_sink_errors_total",
    "hounsfield_cache_hits_total",
]


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_what_has_not_happened_yet_is_zero_and_not_missing(registry):
    Metrics(**LABELS, registry=registry)
    lines = generate_latest(registry).decode().splitlines()
    for name in NAMES:
        found = [line for line in lines if line.startswith(name + "{")]
        assert found, name
        assert all(line.endswith(" 0.0") for line in found)
        assert all('model_name="opacity",model_version="3"' in line for line in found)
    for why in SHED:
        assert registry.get_sample_value("hounsfield_shed_total", {**LABELS, "why": why}) == 0


def test_a_gauge_is_asked_at_every_scrape(registry):
    waiting = [3]
    Metrics(**LABELS, registry=registry).watch("queue_waiting", lambda: waiting[0])
    assert registry.get_sample_value("hounsfield_queue_waiting", LABELS) == 3
    waiting[0] = 5
    assert registry.get_sample_value("hounsfield_queue_waiting", LABELS) == 5


def test_what_the_sink_counts_is_a_counter(registry):
    Metrics(**LABELS, registry=registry).watch_sink_errors(lambda: 7)
    assert registry.get_sample_value("hounsfield_sink_errors_total", LABELS) == 7


def test_causes_and_sizes_are_counted_apart(registry):
    first = Metrics(**LABELS, registry=registry)
    first.count_shed("queue")
    first.observe_batch(4)
    assert registry.get_sample_value("hounsfield_shed_total", {**LABELS, "why": "queue"}) == 1
    assert registry.get_sample_value("hounsfield_batch_size_bucket", {**LABELS, "le": "2.0"}) == 0
    assert registry.get_sample_value("hounsfield_batch_size_bucket", {**LABELS, "le": "4.0"}) == 1

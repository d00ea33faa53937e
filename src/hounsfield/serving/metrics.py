"""The Prometheus series that a rollout decides on and a ward's engineer looks at.

Names and labels are part of the interface. The label `traffic` tells answers that somebody read ("live", and
"first" where a rollout sent the caller to the canary by name) from those to mirrored requests ("shadow").
Every label comes from a small fixed set, none from a patient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from hounsfield.config import CLASS_NAMES
from hounsfield.dicom.groups import COUNTED

OUTCOMES = ("ok", "refused", "error")
LIVE, SHADOW, FIRST = "live", "shadow", "first"
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
COMMIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
SCORE_BUCKETS = tuple(round(0.1 * step, 1) for step in range(1, 11))
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LABELS = ("model_name", "model_version")

SHED = ("queue", "bytes", "draining", "client_gone", "log")
"""Why a request was not answered though nothing was wrong with it."""


class Metrics:
    """The series of one served model version. Outcomes and scores count instances, latency requests."""

    def __init__(self, model_name: str, model_version: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._labels = {"model_name": model_name, "model_version": model_version}
        counter = functools.partial(_series, Counter, registry, self._labels)
        histogram = functools.partial(_series, Histogram, registry, self._labels)
        self._requests = counter("hounsfield_requests", "Instances, by outcome", "traffic", "outcome")
        self._refusals = counter("hounsfield_refusals", "Instances refused, by reason", "traffic", "reason")
        self._latency = histogram(
            "hounsfield_request_latency_seconds",
            "From the request's arrival at the model to its answer",
            "traffic",
            buckets=LATENCY_BUCKETS_S,
        )
        self._score = histogram(
            "hounsfield_score", "Calibrated probabilities", "traffic", buckets=SCORE_BUCKETS
        )
        self._review = counter(
            "hounsfield_review", "Instances whose score lies inside the review band", "traffic"
        )
        group = ("attribute", "group", "traffic")
        self._group_requests = counter(
            "hounsfield_subgroup_requests", "Instances of a group, by outcome", *group, "outcome"
        )
        self._group_review = counter("hounsfield_subgroup_review", "Of a group, sent to a person", *group)
        self._group_positive = counter("hounsfield_subgroup_positive", "Of a group, called positive", *group)
        self._feedback = counter(
            "hounsfield_feedback", "Labels sent by a reader, beside ours", "truth", "predicted"
        )
        self._group_feedback = counter(
            "hounsfield_subgroup_feedback",
            "Of a group, labels sent by a reader, beside ours",
            "attribute",
            "group",
            "truth",
            "predicted",
        )
        self._batch = histogram(
            "hounsfield_batch_size", "Instances computed in one run", buckets=BATCH_BUCKETS
        )
        self._shed = counter("hounsfield_shed", "Requests turned away or dropped, by cause", "why")
        self._commit = histogram(
            "hounsfield_log_commit_seconds",
            "From the end of the computing to the record's being on the disk",
            buckets=COMMIT_BUCKETS_S,
        )
        self._cache_hits = counter("hounsfield_cache_hits", "Instances answered from the cache")
        self._sink_errors = _Counted(
            "hounsfield_sink_errors", "Deliveries that the sink did not take", self._labels, registry
        )
        gauge = functools.partial(_series, Gauge, registry, self._labels)
        self._gauges = {
            "queue_waiting": gauge("hounsfield_queue_waiting", "Instances that wait for a thread"),
            "inflight_requests": gauge("hounsfield_inflight_requests", "Requests that have no answer yet"),
            "log_backlog": gauge("hounsfield_log_backlog", "Records that wait for the disk"),
            "sink_backlog": gauge("hounsfield_sink_backlog", "Records that wait for the sink"),
        }
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """A series that is 0 from the start can be told from one that is missing."""
        for outcome in OUTCOMES:
            self._requests(LIVE, outcome)
        for series in (self._latency, self._score, self._review):
            series(LIVE)
        for truth in CLASS_NAMES:
            for predicted in CLASS_NAMES:
                self._feedback(truth, predicted)
        for why in SHED:
            self._shed(why)
        for series in (self._batch, self._commit, self._cache_hits):
            series()
        for series in self._gauges.values():
            series()

    def watch(self, gauge: str, value: Callable[[], float]) -> None:
        """Ask `value` for the gauge hounsfield_`gauge` at every scrape."""
        self._gauges[gauge]().set_function(value)

    def watch_sink_errors(self, value: Callable[[], float]) -> None:
        """Ask `value`, which only grows, for hounsfield_sink_errors_total at every scrape."""
        self._sink_errors.value = value

    def count(self, outcome: str, instances: int = 1, traffic: str = LIVE) -> None:
        self._requests(traffic, outcome).inc(instances)

    def count_refusal(self, reason: str, traffic: str = LIVE) -> None:
        self.count("refused", traffic=traffic)
        self._refusals(traffic, reason).inc()

    def count_answers(
        self, probability: np.ndarray, review_required: np.ndarray, traffic: str = LIVE
    ) -> None:
        """Both (n,): the instances that were answered."""
        self.count("ok", len(probability), traffic)
        score = self._score(traffic)
        for value in probability.tolist():
            score.observe(value)
        self._review(traffic).inc(int(review_required.sum()))

    def count_group(
        self, groups: Sequence[str], label: str, review_required: bool, traffic: str = LIVE
    ) -> None:
        """One instance of `groups`, those of COUNTED; `label` is '' where it was refused."""
        for attribute, group in zip(COUNTED, groups, strict=False):
            self._group_requests(attribute, group, traffic, "ok" if label else "refused").inc()
            if label and review_required:
                self._group_review(attribute, group, traffic).inc()
            if label == CLASS_NAMES[1]:
                self._group_positive(attribute, group, traffic).inc()

    def observe_latency_s(self, seconds: float, traffic: str = LIVE) -> None:
        self._latency(traffic).observe(seconds)

    def observe_commit_s(self, seconds: float) -> None:
        self._commit().observe(seconds)

    def observe_batch(self, instances: int) -> None:
        self._batch().observe(instances)

    def count_shed(self, why: str) -> None:
        """`why` is one of SHED."""
        self._shed(why).inc()

    def count_cache_hits(self, instances: int) -> None:
        self._cache_hits().inc(instances)

    def count_feedback(self, groups: Sequence[str], truth: str, predicted: str) -> None:
        """A reader's label of one instance; `predicted` is a class name, or 'refused'."""
        self._feedback(truth, predicted).inc()
        for attribute, group in zip(COUNTED, groups, strict=False):
            self._group_feedback(attribute, group, truth, predicted).inc()


class _Counted(Collector):
    """A counter that somebody else counts, which prometheus_client's own cannot be."""

    def __init__(self, name: str, meaning: str, labels: dict[str, str], registry: CollectorRegistry) -> None:
        self._name, self._meaning, self._labels = name, meaning, labels
        self.value: Callable[[], float] = lambda: 0
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        family.add_metric(list(self._labels.values()), self.value())
        yield family


def _series(
    kind: type,
    registry: CollectorRegistry,
    fixed: dict[str, str],
    name: str,
    meaning: str,
    *labels: str,
    **options: object,
) -> Callable:
    """`kind` as a function from the values of `labels` to the one series; looked up once, as it is slow."""
    metric = kind(name, meaning, (*fixed, *labels), registry=registry, **options)
    return functools.cache(lambda *values: metric.labels(*fixed.values(), *values))

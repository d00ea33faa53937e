"""The Prometheus series that the rollout decides on. Names and labels are part of the interface."""

from __future__ import annotations

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

OUTCOMES = ("ok", "refused", "error")
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SCORE_BUCKETS = tuple(round(0.1 * step, 1) for step in range(1, 11))
LABELS = ("model_name", "model_version")


class Metrics:
    """The series of one served model version. Outcomes and scores count instances, latency requests."""

    def __init__(self, model_name: str, model_version: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._labels = {"model_name": model_name, "model_version": model_version}
        self._requests = Counter(
            "hounsfield_requests", "Instances answered, by outcome", (*LABELS, "outcome"), registry=registry
        )
        self._refusals = Counter(
            "hounsfield_refusals", "Instances refused, by reason", (*LABELS, "reason"), registry=registry
        )
        self._latency = Histogram(
            "hounsfield_request_latency_seconds",
            "From the request's arrival at the model to its answer",
            LABELS,
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._score = Histogram(
            "hounsfield_score", "Calibrated probabilities", LABELS, buckets=SCORE_BUCKETS, registry=registry
        )
        self._review = Counter(
            "hounsfield_review",
            "Instances whose score lies inside the review band",
            LABELS,
            registry=registry,
        )
        # A series that is 0 from the start can be told from one that is missing.
        for outcome in OUTCOMES:
            self._requests.labels(**self._labels, outcome=outcome)
        for series in (self._latency, self._score, self._review):
            series.labels(**self._labels)

    def count(self, outcome: str, instances: int = 1) -> None:
        self._requests.labels(**self._labels, outcome=outcome).inc(instances)

    def count_refusal(self, reason: str) -> None:
        self.count("refused")
        self._refusals.labels(**self._labels, reason=reason).inc()

    def count_answers(self, probability: np.ndarray, review_required: np.ndarray) -> None:
        """Both (n,): the instances that were answered."""
        self.count("ok", len(probability))
        score = self._score.labels(**self._labels)
        for value in probability.tolist():
            score.observe(value)
        self._review.labels(**self._labels).inc(int(review_required.sum()))

    def observe_latency_s(self, seconds: float) -> None:
        self._latency.labels(**self._labels).observe(seconds)

"""Evidence: what each revision did between two readings of its metrics.

The metrics are the ones that `hounsfield.serving.metrics` exports, in Prometheus' text format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from hounsfield.errors import RolloutError

REVISIONS = ("stable", "canary")

REQUESTS = "hounsfield_requests_total"
REVIEWS = "hounsfield_review_total"
LATENCY = "hounsfield_request_latency_seconds"

Buckets = tuple[tuple[float, float], ...]
"""(upper bound in seconds, number of requests at or below it), rising to +Inf."""


@dataclass(frozen=True)
class Snapshot:
    """The counters of one revision at the unix time `at` (seconds), since its process started.

    `ok`, `refused` and `errors` count images; `reviewed` those of `ok` that were sent to a person.
    """

    at: float
    ok: float = 0
    refused: float = 0
    errors: float = 0
    reviewed: float = 0
    latency: Buckets = ()
    model_versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Window:
    """What one revision did in `seconds`: counts of images, and the latency of requests."""

    seconds: float
    requests: int
    errors: int
    refused: int
    reviewed: int
    latency: Buckets

    @property
    def scored(self) -> int:
        return self.requests - self.errors - self.refused

    @property
    def latency_p95_s(self) -> float | None:
        return histogram_quantile(0.95, self.latency)


@dataclass(frozen=True)
class Evidence:
    """One look at both revisions. None: its source was down, or its process was restarted meanwhile."""

    stable: Window | None
    canary: Window | None
    started_at: float
    """When the rollout began, unix time in seconds: `decide` holds it against the policy's longest time."""


class MetricsProvider(Protocol):
    """Where snapshots come from: the servers themselves (`scrape`), later a Prometheus server."""

    def read(self, now: float) -> Mapping[str, Snapshot | None]:
        """A snapshot for each of REVISIONS, None for one whose source is down."""


def parse(text: str, at: float) -> Snapshot:
    """Read a `/metrics` page; raises RolloutError when it lacks a metric, or holds one that is no number."""
    from prometheus_client.parser import text_string_to_metric_families

    outcomes = {"ok": 0.0, "refused": 0.0, "error": 0.0}
    reviewed, latency, versions, found = 0.0, {}, set(), set()
    try:
        for family in text_string_to_metric_families(text):
            found.add(family.name)
            for sample in family.samples:
                if sample.name == REQUESTS:
                    outcomes[sample.labels["outcome"]] += sample.value
                    versions.add(sample.labels.get("model_version", ""))
                elif sample.name == REVIEWS:
                    reviewed += sample.value
                elif sample.name == f"{LATENCY}_bucket":
                    bound = float(sample.labels["le"])
                    latency[bound] = latency.get(bound, 0.0) + sample.value
    except (ValueError, KeyError) as error:
        raise RolloutError(f"the metrics page is not what a Hounsfield predictor writes: {error}") from None
    for name in (REQUESTS, REVIEWS, LATENCY):
        if name.removesuffix("_total") not in found:
            raise RolloutError(f"the metrics page has no {name}; is this a Hounsfield predictor?")
    counts = [*outcomes.values(), reviewed, *latency.values()]
    if not all(math.isfinite(count) and count >= 0 for count in counts):
        raise RolloutError("the metrics page has a counter that is negative or not a number")
    return Snapshot(
        at=at,
        ok=outcomes["ok"],
        refused=outcomes["refused"],
        errors=outcomes["error"],
        reviewed=reviewed,
        latency=tuple(sorted(latency.items())),
        model_versions=tuple(sorted(versions)),
    )


def between(before: Snapshot | None, after: Snapshot | None) -> Window | None:
    """What happened from `before` to `after`; None when either is missing or they are not of one process.

    A counter that fell, or another model version, means that the server was restarted in between: what it did
    before that is lost, so the window would flatter it.
    """
    if before is None or after is None:
        return None
    if before.model_versions and before.model_versions != after.model_versions:
        return None
    counts = [getattr(after, key) - getattr(before, key) for key in ("ok", "refused", "errors", "reviewed")]
    earlier = dict(before.latency)
    latency = tuple((bound, count - earlier.get(bound, 0.0)) for bound, count in after.latency)
    if min(counts, default=0) < 0 or any(count < 0 for _, count in latency):
        return None
    ok, refused, errors, reviewed = (round(count) for count in counts)
    return Window(after.at - before.at, ok + refused + errors, errors, refused, reviewed, latency)


def histogram_quantile(quantile: float, buckets: Buckets) -> float | None:
    """The quantile of cumulative buckets by Prometheus' rule, in the unit of the bounds; None without
    observations.

    Linear within a bucket, whose lower bound is 0 for the first one. A quantile that falls into the +Inf
    bucket is given as the highest finite bound: read it as "at least that".
    """
    if len(buckets) < 2 or buckets[-1][0] != math.inf or not buckets[-1][1] > 0:
        return None
    rank = quantile * buckets[-1][1]
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= rank:
            if upper == math.inf:
                return lower
            return lower + (upper - lower) * (rank - below) / (count - below) if count > below else upper
        lower, below = upper, count
    return None

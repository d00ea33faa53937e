"""Evidence: what each revision did between two readings of its metrics.

The metrics are the ones that `hounsfield.serving.metrics` exports. A provider gives `Snapshot`s of
counters, from the servers' own pages (`scrape`) or from a Prometheus server (`prometheus`); `Watch` turns
them into `Observation`s, the only thing that decisions are made of and that the ledger has to keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hounsfield.errors import RolloutError

REVISIONS = ("stable", "canary")

REQUESTS = "hounsfield_requests_total"
REVIEWS = "hounsfield_review_total"
LATENCY = "hounsfield_request_latency_seconds"
SCORE = "hounsfield_score"
AGREEMENT = "hounsfield_agreement_total"
FEEDBACK = "hounsfield_feedback_total"
GROUP_REQUESTS = "hounsfield_subgroup_requests_total"
GROUP_REVIEWS = "hounsfield_subgroup_review_total"
GROUP_FEEDBACK = "hounsfield_subgroup_feedback_total"

SHADOW, FIRST = "shadow/", "first/"
"""What the counters of mirrored requests begin with, and of the requests of the first callers."""

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value of one series, as in Prometheus."""


@dataclass(frozen=True)
class Snapshot:
    """The counters of one revision at the unix time `at` (seconds), by process, since that process started.

    A process is named by Prometheus' label `instance`; a page that is scraped directly has one, named ''.
    Keys of the counters: `ok`, `refused`, `error`, `review` (images); `latency` and `latency<=0.5`
    (requests, seconds); `score` and `score<=0.1` (images); `positive/negative` (truth, then what was
    called); `agree`, `differ` (images that both revisions saw). `patient_sex=F/ok` is the same in a
    subgroup, `shadow/ok` of mirrored requests, `first/ok` of the first callers'.
    """

    at: float
    processes: Mapping[str, Mapping[str, float]]
    model_versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observation:
    """One look: what both revisions did in the same `seconds` up to the unix time `at`.

    `stable` and `canary` are both None when anything was amiss (`trouble` says what): a source was down, or
    another model answered. `restarted` names the revisions whose counters began anew: what they did between
    the last reading and their end is lost. `weight` is the canary's percent. `shadow`: its requests were
    mirrored ones. `first`: only the first callers were looked at, whom the canary answered and whose requests
    the stable revision got as a mirror. `late`: labels that came in after the rollout's end. `outcomes`
    names the ledger's records whose labels are counted here, `approved_by` who has let this step go on.
    """

    at: float
    seconds: float
    weight: int
    stable: Mapping[str, int] | None
    canary: Mapping[str, int] | None
    shadow: bool = False
    first: bool = False
    late: bool = False
    outcomes: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "stable": None if self.stable is None else dict(self.stable),
            "canary": None if self.canary is None else dict(self.canary),
            "trouble": list(self.trouble),
            "restarted": list(self.restarted),
            "approved_by": list(self.approved_by),
            "outcomes": list(self.outcomes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Observation:
        names = ("trouble", "restarted", "approved_by", "outcomes")
        lists = {key: tuple(values.get(key, ())) for key in names}
        return cls(**{**values, **lists})


class MetricsProvider(Protocol):
    """Where snapshots come from: the servers themselves (`scrape`), or a Prometheus server (`prometheus`)."""

    def read(self, now: float) -> Mapping[str, Snapshot | None]:
        """A snapshot for each of REVISIONS, None for one whose source is down."""


class Watch:
    """Turns readings into observations. Both revisions' windows begin and end together.

    After an outage the window reaches back to the last reading of both, so nothing is lost to it; a counter
    that fell means that the process began anew, and what it counts since then is the increase (as
    Prometheus' `increase` has it). Another model version is no such thing: its window begins anew, and is
    not judged.
    """

    def __init__(self, provider: MetricsProvider) -> None:
        self._provider = provider
        self._before: dict[str, Snapshot] | None = None
        self._since = math.nan

    def look(
        self,
        now: float,
        weight: int,
        shadow: bool = False,
        first: bool = False,
        approved_by: tuple[str, ...] = (),
    ) -> Observation:
        """The observation up to `now`. The first one only begins the window."""
        read = self._provider.read(now)
        common = {"at": now, "weight": weight, "shadow": shadow, "first": first, "approved_by": approved_by}
        down = tuple(f"{role} does not give its metrics" for role in REVISIONS if read[role] is None)
        if down:
            seconds = 0.0 if self._before is None else now - self._since
            return Observation(**common, seconds=seconds, stable=None, canary=None, trouble=down)
        before, self._before = self._before, dict(read)
        seconds, self._since = now - self._since, now
        if before is None:
            return Observation(**common, seconds=0.0, stable={}, canary={})
        others = tuple(
            f"{role} answers as version {_versions(read[role])}, it was {_versions(before[role])}"
            for role in REVISIONS
            if before[role].model_versions and before[role].model_versions != read[role].model_versions
        )
        if others:
            return Observation(**common, seconds=seconds, stable=None, canary=None, trouble=others)
        increases = {role: increase(before[role], read[role]) for role in REVISIONS}
        return Observation(
            **common,
            seconds=seconds,
            stable=_of_traffic(increases["stable"][0], SHADOW if first else ""),
            canary=_of_traffic(increases["canary"][0], SHADOW if shadow else FIRST if first else ""),
            restarted=tuple(role for role in REVISIONS if increases[role][1]),
        )


def increase(before: Snapshot, after: Snapshot) -> tuple[dict[str, int], bool]:
    """By how much each counter rose, over all processes; and whether one of them ended or was restarted.

    A process that was not there before only begins its window: nobody knows when it started to count.
    """
    rises: dict[str, float] = {}
    restarted = bool(before.processes.keys() - after.processes.keys())
    for name in sorted(after.processes):
        counters = after.processes[name]
        earlier = before.processes.get(name, counters)
        began_anew = any(counters.get(key, 0.0) < value for key, value in earlier.items())
        restarted = restarted or began_anew
        for key, value in counters.items():
            rises[key] = rises.get(key, 0.0) + value - (0.0 if began_anew else earlier.get(key, 0.0))
    return {key: round(rises[key]) for key in sorted(rises)}, restarted


def parse(text: str, at: float) -> Snapshot:
    """Read a `/metrics` page; raises RolloutError when it lacks a metric, or holds one that is no number."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        raise RolloutError(f"the metrics page is not what a Hounsfield predictor writes: {error}") from None
    return snapshot(
        ((sample.name, sample.labels, sample.value) for family in families for sample in family.samples), at
    )


def snapshot(samples: Iterable[Sample], at: float) -> Snapshot:
    """Counters out of samples, summed over the labels that do not matter; other series are passed over.

    Raises RolloutError when a metric is missing, so that it is not read as zero, or holds a value that is
    no count.
    """
    processes: dict[str, dict[str, float]] = {}
    versions, found = set(), set()
    for name, labels, value in samples:
        found.add(name)
        if name == REQUESTS:
            versions.add(labels.get("model_version", ""))
        counters = processes.setdefault(labels.get("instance", ""), {})
        try:
            for key in _keys(name, labels):
                counters[key] = counters.get(key, 0.0) + value
        except (KeyError, ValueError):
            raise RolloutError(
                f"the metric {name} lacks a label that a Hounsfield predictor gives it"
            ) from None
    for name in (REQUESTS, REVIEWS, f"{LATENCY}_count"):
        if name not in found:
            raise RolloutError(f"the metrics have no {name}; is this a Hounsfield predictor?")
    values = [value for counters in processes.values() for value in counters.values()]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise RolloutError("the metrics have a counter that is negative or not a number")
    return Snapshot(at, processes, tuple(sorted(versions)))


def _keys(name: str, labels: Mapping[str, str]) -> Iterator[str]:
    traffic = {"shadow": SHADOW, "first": FIRST}.get(labels.get("traffic", ""), "")
    group = f"{labels['attribute']}={labels['group']}/" if name.startswith("hounsfield_subgroup_") else ""
    prefix = traffic + group
    match name:
        case n if n in (REQUESTS, GROUP_REQUESTS):
            yield prefix + labels["outcome"]
        case n if n in (REVIEWS, GROUP_REVIEWS):
            yield f"{prefix}review"
        case n if n in (FEEDBACK, GROUP_FEEDBACK):
            yield f"{prefix}{labels['truth']}/{labels['predicted']}"
        case n if n == AGREEMENT:
            yield prefix + {"true": "agree", "false": "differ"}[labels["agrees"]]
        case n if n in (f"{LATENCY}_count", f"{SCORE}_count"):
            yield prefix + ("latency" if n.startswith(LATENCY) else "score")
        case n if n in (f"{LATENCY}_bucket", f"{SCORE}_bucket") and labels["le"] != "+Inf":
            yield f"{prefix}{'latency' if n.startswith(LATENCY) else 'score'}<={float(labels['le']):g}"


def _of_traffic(rises: Mapping[str, int], kind: str) -> dict[str, int]:
    """The counters of mirrored requests (`SHADOW`), of the first callers (`FIRST`), or of all others ('').

    Labels know no traffic: they go with the last. Agreement goes with each.
    """
    if not kind:
        return {key: rise for key, rise in rises.items() if not key.startswith((SHADOW, FIRST))}
    theirs = {key.removeprefix(kind): rise for key, rise in rises.items() if key.startswith(kind)}
    return {key: rises[key] for key in ("agree", "differ") if key in rises} | theirs


def _versions(found: Snapshot) -> str:
    return ", ".join(found.model_versions) or "unknown"

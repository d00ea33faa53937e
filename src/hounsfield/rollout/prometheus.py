"""Metrics from a Prometheus server, by its HTTP API: the provider for a cluster.

The instant query returns the raw counters as they were scraped last, so that resets, differences and
everything else are worked out by the same code as for a page that is scraped directly, and give the same
verdicts. https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

from collections.abc import Mapping

import requests

from hounsfield.errors import RolloutError
from hounsfield.rollout.evidence import REQUESTS, REVISIONS, Snapshot, snapshot


class PrometheusProvider:
    """Asks the server at `url`; `selectors` gives each revision's label matchers, such as
    `pod=~"opacity-canary.*"`.

    Targets are told apart by their label `instance`. A target whose last sample is older than `max_age_s`
    is one that has not been scraped since: it is left out, and a revision without any is down.
    """

    def __init__(
        self, url: str, selectors: Mapping[str, str], max_age_s: float = 60.0, timeout_s: float = 5.0
    ) -> None:
        missing = [revision for revision in REVISIONS if not selectors.get(revision)]
        if missing:
            raise RolloutError(f"no Prometheus selector is given for the revision {missing[0]!r}")
        self.url, self.selectors = url.rstrip("/"), dict(selectors)
        self.max_age_s, self.timeout_s = max_age_s, timeout_s
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the hospital's network has no part in this

    def read(self, now: float) -> dict[str, Snapshot | None]:
        """A snapshot a revision, as of `now`; None where the server or its targets do not answer."""
        return {revision: self._read(self.selectors[revision], now) for revision in REVISIONS}

    def _read(self, selector: str, now: float) -> Snapshot | None:
        try:
            # An instant query looks back for five minutes, and gives its own time as the sample's.
            times = self._query(f"timestamp({REQUESTS}{{{selector}}})", now)
            alive = {labels.get("instance", "") for labels, at in times if now - at <= self.max_age_s}
            found = self._query(f'{{__name__=~"hounsfield_.+",{selector}}}', now)
            samples = [
                (labels["__name__"], labels, value)
                for labels, value in found
                if labels.get("instance", "") in alive
            ]
            return snapshot(samples, now)
        except (requests.RequestException, RolloutError, ValueError, KeyError, TypeError, IndexError):
            return None

    def _query(self, query: str, now: float) -> list[tuple[dict[str, str], float]]:
        response = self._session.get(
            f"{self.url}/api/v1/query", params={"query": query, "time": f"{now:.3f}"}, timeout=self.timeout_s
        )
        response.raise_for_status()
        return [(row["metric"], float(row["value"][1])) for row in response.json()["data"]["result"]]

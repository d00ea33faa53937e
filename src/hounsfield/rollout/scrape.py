"""Metrics straight from the servers' own `/metrics` pages, for a platform without a Prometheus server."""

from __future__ import annotations

from collections.abc import Mapping

import requests

from hounsfield.errors import RolloutError
from hounsfield.rollout.evidence import REVISIONS, Snapshot, parse


class ScrapeProvider:
    """Reads `urls`, a mapping of `stable` and `canary` to the address of a metrics page."""

    def __init__(self, urls: Mapping[str, str], timeout_s: float = 2.0) -> None:
        missing = [revision for revision in REVISIONS if revision not in urls]
        if missing:
            raise RolloutError(f"no metrics address is given for the revision {missing[0]!r}")
        self.urls, self.timeout_s = dict(urls), timeout_s
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the hospital's network has no part in this

    def read(self, now: float) -> dict[str, Snapshot | None]:
        """A snapshot a revision; None for a page that does not answer, or is not a predictor's."""
        return {revision: self._read(self.urls[revision], now) for revision in REVISIONS}

    def _read(self, url: str, now: float) -> Snapshot | None:
        try:
            response = self._session.get(url, timeout=self.timeout_s)
            response.raise_for_status()
            return parse(response.text, now)
        except (requests.RequestException, RolloutError):
            return None

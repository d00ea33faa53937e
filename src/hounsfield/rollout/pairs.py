"""Agreement with the champion: the cases that both revisions saw, one of them as a mirror, out of their logs.

No server knows what the other one answered; the inference logs do. A request and its mirrored copy have one
request id (Envoy makes it before it copies), so a case is a pair when both packages predicted it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hounsfield.audit.reader import BEGINNING, Cursor, before_last, read
from hounsfield.errors import AuditError
from hounsfield.rollout.evidence import MetricsProvider, Snapshot

MOST_WAITING = 100_000
"""Predictions that are remembered until the other revision's comes; the oldest are forgotten first."""


class Pairs:
    """Follows every log below `logs` (a folder a pod) from now on, for two packages by their digests."""

    def __init__(self, logs: Path, digests: Mapping[str, str]) -> None:
        self._logs, self._digests = logs, frozenset(digests.values())
        self._waiting: dict[tuple[str, int], tuple[str, str]] = {}
        self._cursors: dict[Path, Cursor] = {folder: before_last(folder, 0) for folder in self._folders()}
        self.agree = self.differ = 0

    def update(self) -> None:
        """Count what was written since the last time; raises AuditError where a log does not hold."""
        for folder in self._folders():
            for record, cursor in read(folder, self._cursors.get(folder, BEGINNING)):
                self._cursors[folder] = cursor
                if record.get("kind") == "prediction" and record["package_digest"] in self._digests:
                    self._count(record)

    def _count(self, record: Mapping[str, Any]) -> None:
        key = record["request_id"], record["instance"]
        mine = record["package_digest"], record["label"]
        other = self._waiting.get(key)
        if other is None or other[0] == mine[0]:
            self._waiting.pop(key, None)
            self._waiting[key] = mine
            if len(self._waiting) > MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
            return
        del self._waiting[key]
        if other[1] == mine[1]:
            self.agree += 1
        else:
            self.differ += 1

    def _folders(self) -> list[Path]:
        return sorted(head.parent for head in self._logs.glob("*/HEAD"))


class WithPairs:
    """`provider`, and beside it the counters `agree` and `differ` of the canary, out of the logs."""

    def __init__(self, provider: MetricsProvider, pairs: Pairs) -> None:
        self._provider, self._pairs = provider, pairs

    def read(self, now: float) -> Mapping[str, Snapshot | None]:
        """As the provider's; None for a canary whose log cannot be read."""
        found = dict(self._provider.read(now))
        canary = found["canary"]
        if canary is None:
            return found
        try:
            self._pairs.update()
        except AuditError:
            return {**found, "canary": None}
        counters = {"agree": float(self._pairs.agree), "differ": float(self._pairs.differ)}
        return {**found, "canary": replace(canary, processes={**canary.processes, "pairs": counters})}

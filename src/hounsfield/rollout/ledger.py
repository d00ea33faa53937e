"""The rollout's ledger: what it saw, decided and changed, as records of the hash-chained log.

Every record has `kind` (`rollout_started`, `weights_set`, `verdict`, `rollout_ended`) and `at` (unix time,
seconds). Metrics are counted a revision, so no record holds anything about a patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hounsfield.audit import log


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, kind: str, at: float, **fields: Any) -> str:
        """Append one record and return the hash of the log's new head, once it is on the disk."""
        return log.append(self.path, {"kind": kind, "at": at, **fields}).hash

    def records(self) -> Iterator[dict[str, Any]]:
        """All records in order; raises AuditError when the log was tampered with."""
        for entry in log.read(self.path):
            yield {**entry.record, "hash": entry.hash}

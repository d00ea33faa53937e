"""Answers to instances that were asked before, byte for byte: off unless a size is given.

A viewer that shows an image twice asks twice. The same bytes to the same package have the same answer, so
nothing is lost; every answer is still logged and counted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """What the model says about one instance: `probability` NaN and `embedding` None where it was refused.

    `groups` are the image's of `dicom.groups.ATTRIBUTES`; `embedding` float32 (E,).
    """

    refusal: str
    groups: tuple[str, ...]
    probability: float
    embedding: np.ndarray | None


class Cache:
    """The `entries` rows that were used last; safe to use from many threads. With 0 entries it holds none."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._rows: OrderedDict[tuple[str, str], Row] = OrderedDict()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return self._entries > 0

    def get(self, kind: str, sha256: str) -> Row | None:
        """The row of the instance of input `kind` whose bytes have that digest."""
        with self._lock:
            row = self._rows.get((kind, sha256))
            if row is not None:
                self._rows.move_to_end((kind, sha256))
            return row

    def put(self, kind: str, sha256: str, row: Row) -> None:
        with self._lock:
            self._rows[kind, sha256] = row
            self._rows.move_to_end((kind, sha256))
            while len(self._rows) > self._entries:
                self._rows.popitem(last=False)

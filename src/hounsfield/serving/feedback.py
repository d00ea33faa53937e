"""A radiologist's label beside ours: taken for what the server remembers to have said, logged and counted."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hounsfield.audit.reader import before_last, read
from hounsfield.config import CLASS_NAMES
from hounsfield.dicom.groups import ATTRIBUTES, NO_GROUPS, SITE
from hounsfield.errors import AuditError
from hounsfield.serving.computing import Log
from hounsfield.serving.metrics import Metrics
from hounsfield.serving.records import feedback_record
from hounsfield.serving.wire import Draining, RequestError

REMEMBERED = 100_000
"""Predictions that feedback is taken for: a busy department's week, in about 15 MB."""

_PREDICTED = ("refused", *CLASS_NAMES)
_TRUTH = ("", *CLASS_NAMES)

_log = logging.getLogger("hounsfield.predictor")


class Predictions:
    """The last `capacity` predictions: what was predicted of which groups, and what a reader said of it.

    Packed into one small integer each, under a hash of the request id and the instance. Safe to use from
    many threads. A request id that is used again stands for its last prediction, and is forgotten when the
    first would be.
    """

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._codes: dict[bytes, int] = {}
        self._order: deque[bytes] = deque()
        self._groups: list[tuple[str, ...]] = []
        self._group_numbers: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._codes)

    def add(
        self, request_id: str, instance: int, label: str, groups: Sequence[str], *, older: bool = False
    ) -> None:
        """Remember a prediction, `label` '' where it was refused; an `older` one displaces no other."""
        key, groups = _key(request_id, instance), tuple(groups)
        with self._lock:
            if older and (key in self._codes or len(self._codes) >= self._capacity):
                return
            number = self._group_numbers.setdefault(groups, len(self._groups))
            if number == len(self._groups):
                self._groups.append(groups)
            if key not in self._codes:
                self._order.append(key)
            self._codes[key] = (number * 3 + _PREDICTED.index(label or "refused")) * 3
            if len(self._order) > self._capacity:
                del self._codes[self._order.popleft()]

    def find(self, request_id: str, instance: int) -> tuple[str, tuple[str, ...], str] | None:
        """(predicted, groups, truth) of a prediction; truth is '' while no reader labelled it."""
        with self._lock:
            code = self._codes.get(_key(request_id, instance))
            if code is None:
                return None
            rest, truth = divmod(code, 3)
            number, predicted = divmod(rest, 3)
            return _PREDICTED[predicted], self._groups[number], _TRUTH[truth]

    def label(self, request_id: str, instance: int, truth: str) -> None:
        """Note the reader's label of a prediction; nothing happens when it is unknown."""
        key = _key(request_id, instance)
        with self._lock:
            code = self._codes.get(key)
            if code is not None:
                self._codes[key] = code - code % 3 + _TRUTH.index(truth)


class Feedback:
    """Takes feedback about `predictions`; `log` None means that no record is kept of it."""

    def __init__(self, metrics: Metrics, log: Log | None = None, capacity: int = REMEMBERED) -> None:
        self._metrics, self._log, self._capacity = metrics, log, capacity
        self.predictions = Predictions(capacity)
        self._is_refilling = False
        self._one_at_a_time = asyncio.Lock()

    async def add(self, request_id: str, instance: int, truth: str, caller: str = "") -> None:
        """Take the class name `truth` of one instance of an earlier request; `caller` is who says so.

        Raises RequestError: 404 for a prediction that is not remembered, 409 for a label that contradicts an
        earlier one; and Draining when it cannot be logged. The same label again is not counted twice.
        """
        # In turn, so that two that come at once cannot both be the first.
        async with self._one_at_a_time:
            found = self.predictions.find(request_id, instance)
            if found is None:
                if self._is_refilling:
                    raise Draining("earlier predictions are still being read from the log; ask again")
                raise RequestError(
                    f"no prediction of that request_id and instance is among the last {self._capacity}", 404
                )
            predicted, groups, earlier = found
            if earlier not in ("", truth):
                raise RequestError("a reader gave this instance the other label before", 409)
            if not earlier:
                await self._write(feedback_record(request_id, instance, truth, caller))
                self.predictions.label(request_id, instance, truth)
                self._metrics.count_feedback(groups, truth, predicted)

    def refill(self, folder: Path) -> threading.Thread:
        """Read the log in `folder` back in a thread of its own: a restart forgets no prediction."""
        self._is_refilling = True
        thread = threading.Thread(target=self._refill, args=(folder,), name="feedback-refill", daemon=True)
        thread.start()
        return thread

    async def _write(self, record: Mapping[str, Any]) -> None:
        if self._log is None:
            return
        try:
            await asyncio.wrap_future(self._log.append([record]))
        except AuditError:
            raise Draining("the inference log cannot be written; nothing was accepted, ask again") from None

    def _refill(self, folder: Path) -> None:
        try:
            # Feedback and errors are records too, so this may be fewer predictions than could be remembered.
            tail = read(folder, before_last(folder, self._capacity))
            for record, _ in itertools.islice(tail, self._capacity):
                self._remember(record)
        except AuditError as error:
            _log.warning("earlier predictions take no feedback: %s", error)
        finally:
            self._is_refilling = False

    def _remember(self, record: Mapping[str, Any]) -> None:
        kind = record.get("kind")
        if kind == "prediction" and not record["shadow"]:
            known = record["subgroups"]
            groups = tuple(known.get(name, unknown) for name, unknown in _UNKNOWN)
            groups += (known[SITE],) if SITE in known else ()
            self.predictions.add(
                record["request_id"], record["instance"], record["label"], groups, older=True
            )
        elif kind == "feedback":
            self.predictions.label(record["request_id"], record["instance"], record["truth"])


_UNKNOWN = tuple(zip(ATTRIBUTES, NO_GROUPS, strict=True))


def _key(request_id: str, instance: int) -> bytes:
    return hashlib.blake2b(f"{instance}:{request_id}".encode(), digest_size=16).digest()

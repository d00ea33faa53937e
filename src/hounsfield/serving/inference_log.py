"""The inference log: no answer leaves before its record is on the disk.

Requests hand their records to one writer thread, which puts all that wait on the disk in one write and one
sync (group commit): the more requests at once, the less each pays. `audit.segments` says what is on the disk,
`audit.reader` reads it back, `audit.verification` checks it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from hounsfield.audit.segments import SEGMENT_AGE_S, SEGMENT_BYTES, Writer, now_text
from hounsfield.errors import AuditError

MAX_BACKLOG = 10_000
"""Records that may wait for the disk (30 MB of them); more are refused, so that memory stays bounded."""

_GROUP_RECORDS = 4096  # of about 3 KB each: one write of 12 MB at most


class InferenceLog:
    """Writes records to the log in `folder`; safe to call from any thread.

    Each start leaves a record of kind `opened` with the log's settings: `retention_days` is what a later
    purge must respect (None: nothing is ever purged by default). Raises AuditError when the folder cannot
    be written, and ChainError when what is in it was tampered with.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sync: bool = True,
        retention_days: float | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        segment_age_s: float = SEGMENT_AGE_S,
        max_backlog: int = MAX_BACKLOG,
    ) -> None:
        self.folder = folder
        self._writer = Writer(folder, sync=sync, segment_bytes=segment_bytes, segment_age_s=segment_age_s)
        opened = {"kind": "opened", "time": now_text(), "retention_days": retention_days, "sync": sync}
        try:
            self._writer.commit([orjson.dumps(opened)])
        except AuditError:
            self._writer.close()
            raise
        self._max_backlog = max_backlog
        self._queue: queue.SimpleQueue[tuple[list[bytes], Future[None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="inference-log", daemon=True)
        self._thread.start()

    def append(self, records: Sequence[Mapping[str, Any]]) -> Future[None]:
        """Hand over the records of one request; returns at once.

        The future ends when all of them are on the disk, or with AuditError when the disk refused them, and
        then none is in the log. Raises AuditError at once when too many records wait, when the log is
        closed, and for a record that is not JSON. Non-finite floats are written as null.
        """
        try:
            lines = [orjson.dumps(record) for record in records]
        except TypeError as error:
            raise AuditError(f"a record for the inference log is not JSON: {error}") from None
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # a client that hangs up does not take its record back
        with self._lock:
            if self._is_closed:
                raise AuditError("the inference log is closed: the server is stopping")
            if self._waiting + len(lines) > self._max_backlog:
                raise AuditError(
                    f"{self._waiting} records wait for the inference log's disk, {self._max_backlog} may; "
                    "the disk is too slow for this load"
                )
            self._waiting += len(lines)
            self._queue.put((lines, future))
        return future

    async def commit(self, records: Sequence[Mapping[str, Any]]) -> None:
        """`append`, and wait on the event loop until the records are on the disk."""
        await asyncio.wrap_future(self.append(records))

    def depth(self) -> int:
        """Records that wait for the disk."""
        return self._waiting

    def close(self) -> None:
        """Write all that waits, then close; a second call does nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group = [self._queue.get()]
            count = 0
            while group[-1] is not None and (count := count + len(group[-1][0])) < _GROUP_RECORDS:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            if group[-1] is None:
                is_open = False
                group.pop()
            if group:
                self._write(group)

    def _write(self, group: list[tuple[list[bytes], Future[None]]]) -> None:
        lines = [line for lines, _ in group for line in lines]
        error: Exception | None = None
        try:
            self._writer.commit(lines)
        except AuditError as refused:
            error = refused
        except Exception as unexpected:  # whatever it is, a request must not wait for ever
            error = AuditError(f"the inference log failed: {type(unexpected).__name__}")
        with self._lock:
            self._waiting -= len(lines)
        for _, future in group:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

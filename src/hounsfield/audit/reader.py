"""Reading a chained log while it is written: in order, each record checked, across segments and restarts.

A reader keeps a `Cursor`, saves it when it has dealt with the records before it, and goes on from there
after a restart: it then sees again what it had not yet saved, and never misses a record that is in the log.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hounsfield.audit.chain import GENESIS, ChainError, Head, check_line, head_before, record_of
from hounsfield.audit.segments import first_sequence, read_head, segment_path, segment_paths
from hounsfield.errors import AuditError


@dataclass(frozen=True)
class Cursor:
    """A place between two records: after `count` records, the last of which has `hash`.

    `segment` (its first sequence) and `offset` (bytes) say where that is on the disk.
    """

    count: int = 0
    hash: str = GENESIS
    segment: int = 0
    offset: int = 0

    def save(self, path: Path) -> None:
        """Write the cursor to `path`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(asdict(self)) + "\n")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Cursor:
        """The cursor saved at `path`, the log's beginning where there is none."""
        try:
            values = json.loads(path.read_text())
            cursor = cls(**values)
            if not (all(type(n) is int and n >= 0 for n in (cursor.count, cursor.segment, cursor.offset))):
                raise ValueError
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError):
            raise AuditError(
                f"{path.name}: this is not a reader's cursor; remove it to read the log from its beginning"
            ) from None
        return cursor


BEGINNING = Cursor()


def read(folder: Path, cursor: Cursor = BEGINNING) -> Iterator[tuple[dict[str, Any], Cursor]]:
    """The records after `cursor` that are on the disk by now, each with the cursor after it, then stops.

    Where the records at the cursor were purged it goes on with the first that is left: `cursor.count` jumps.
    Raises ChainError at the first record that does not fit, and where the log does not reach the cursor.
    """
    for line, after in lines(folder, cursor):
        yield record_of(line), after


def follow(
    folder: Path, cursor: Cursor = BEGINNING, *, poll_s: float = 0.2, stop: threading.Event | None = None
) -> Iterator[tuple[dict[str, Any], Cursor]]:
    """`read`, and then wait for more, for ever or until `stop` is set; the folder need not be there yet."""
    stop = stop or threading.Event()
    while True:
        for record, after in read(folder, cursor):
            cursor = after
            yield record, cursor
            if stop.is_set():
                return
        if stop.wait(poll_s):
            return


def before_last(folder: Path, records: int) -> Cursor:
    """The cursor with `records` records after it, or all there are: `read` from it gives the log's tail."""
    target = read_head(folder).count - records
    older = [path for path in segment_paths(folder) if first_sequence(path) <= target]
    if not older:
        return BEGINNING
    try:
        cursor = start_of(older[-1])
    except FileNotFoundError:  # purged at this moment, and what is left is less than was asked for
        return BEGINNING
    if cursor.count < target:
        for _, after in lines(folder, cursor):
            cursor = after
            if cursor.count >= target:
                break
    return cursor


def backlog(folder: Path, cursor: Cursor) -> int:
    """How many records on the disk a reader at `cursor` has not yet read."""
    return max(0, read_head(folder).count - cursor.count)


def lines(folder: Path, cursor: Cursor = BEGINNING) -> Iterator[tuple[bytes, Cursor]]:
    """`read`, with each record as the checked bytes of its line."""
    end = read_head(folder).count
    if cursor.count > end:
        raise ChainError(
            f"{folder}: a reader stands after record {cursor.count - 1}, and the log has {end} records; "
            "records were cut off, or this is another log"
        )
    while cursor.count < end:
        path = segment_path(folder, cursor.segment)
        try:
            with path.open("rb") as file:
                file.seek(cursor.offset)
                for line in file:
                    where = f"{path.name} record {cursor.count}"
                    head = check_line(line, Head(cursor.count, cursor.hash), where)
                    cursor = Cursor(head.count, head.hash, cursor.segment, cursor.offset + len(line))
                    yield line, cursor
                    if cursor.count >= end:
                        return
        except FileNotFoundError:
            pass  # purged
        if segment_path(folder, cursor.count).exists() and cursor.count != cursor.segment:
            cursor = replace(cursor, segment=cursor.count, offset=0)
        else:
            left = None if path.exists() else _first_left(folder, cursor)
            if left is None:
                raise ChainError(f"{folder}: record {cursor.count} is missing; {end} records were written")
            cursor = left


def _first_left(folder: Path, cursor: Cursor) -> Cursor | None:
    """The beginning of the oldest segment after the cursor's, which was purged."""
    for segment in segment_paths(folder):
        if first_sequence(segment) > cursor.segment:
            with contextlib.suppress(FileNotFoundError):  # a purge goes on while we look
                return start_of(segment)
    return None


def start_of(segment: Path) -> Cursor:
    """The cursor before the first record of `segment`, with the hash that record claims to follow."""
    first = first_sequence(segment)
    try:
        with segment.open("rb") as file:
            head = head_before(file.readline())
        if head.count != first:
            raise ValueError
    except (ValueError, RecursionError):
        raise ChainError(f"{segment.name} line 1: this is not record {first} of the log") from None
    return Cursor(head.count, head.hash, first, 0)

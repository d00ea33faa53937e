"""Does a chained log hold what was written, no more and no less? To the byte, across segments and purges."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hounsfield.audit import log
from hounsfield.audit.chain import START, ChainError, Head, check_line, head_before, record_of
from hounsfield.audit.segments import first_sequence, read_head, segment_paths
from hounsfield.errors import AuditError


def verify(path: Path, expected_head: str | None = None) -> Head:
    """Check every record of the log at `path`, a folder of segments or one file; returns its head.

    Raises ChainError that names the first record that was edited, dropped, added or moved, and AuditError
    where there is no log. `expected_head` is a hash known from elsewhere (a rollout's commit, the id of a
    CloudEvent that was sent): the log must still hold that record, which shows that it was not rewritten up
    to there. A folder may be verified while it is written: what is committed by now is checked.
    """
    if not path.is_dir():
        if not path.is_file():
            raise AuditError(f"{path}: there is no log; give a log's file, or the folder of an inference log")
        return log.verify(path, expected_head)
    head, is_held = START, expected_head is None
    for _, _, head in checked(path):
        is_held = is_held or head.hash == expected_head
    if not is_held:
        raise ChainError(
            f"{path}: no record has the hash {str(expected_head)[:12]}; "
            "records were cut off the end, rewritten or purged, or this is another log"
        )
    return head


def checked(folder: Path) -> Iterator[tuple[Path, bytes, Head]]:
    """Segment, line and head after it, for every record of the log in `folder` that is committed by now.

    Raises ChainError at the first record that does not fit; whether the log's beginning and end are what they
    should be is known, and raised, after the last.
    """
    stored, sizes = _snapshot(folder)
    if not sizes:
        if stored != START:
            raise ChainError(f"{folder}: HEAD knows {stored.count} records, and no segment is left")
        raise AuditError(f"{folder}: there is no log in this folder")
    start = head = _start(next(iter(sizes)))
    attested: set[tuple[int, str]] = set()
    at_stored = head if stored.count == head.count else None
    for path, size in sizes.items():
        first = first_sequence(path)
        if first != head.count:
            raise ChainError(
                f"{path.name}: record {first} stands where record {head.count} belongs; "
                "a segment was dropped, added or renamed, or records were cut off the one before it"
            )
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                if size <= 0:
                    break  # written since the snapshot
                size -= len(line)
                head = check_line(line, head, f"{path.name} line {number} (record {head.count})")
                if head.count == stored.count:
                    at_stored = head
                if start.count and b'"kind":"purge"' in line:
                    attested |= _purged(record_of(line))
                yield path, line, head
    _check_end(folder, head, stored, at_stored)
    if start.count and (start.count, start.hash) not in attested:
        raise ChainError(
            f"{folder}: the log begins with record {start.count}, and no purge in it covers those before it; "
            "they were deleted by hand"
        )


def _purged(record: dict[str, Any]) -> set[tuple[int, str]]:
    """The places where a log may begin after the purge that `record` tells of: a count and a hash each."""
    if record.get("kind") != "purge":
        return set()
    return {(item["first"] + item["count"], item["hash"]) for item in record["segments"]}


def _snapshot(folder: Path) -> tuple[Head, dict[Path, int]]:
    """HEAD and the segments with their sizes, as they are between two commits."""
    try:
        descriptor = os.open(folder / "HEAD", os.O_RDONLY)
    except FileNotFoundError:
        return read_head(folder), {}
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return read_head(folder), {path: path.stat().st_size for path in segment_paths(folder)}
    finally:
        os.close(descriptor)


def _start(segment: Path) -> Head:
    """The head that the oldest segment goes on from."""
    if first_sequence(segment) == 0:
        return START
    with _opened(segment) as file:
        try:
            return head_before(file.readline())
        except (ValueError, RecursionError):
            raise ChainError(f"{segment.name} line 1: this is not a record of the log") from None


def _opened(segment: Path) -> IO[bytes]:
    try:
        return segment.open("rb")
    except FileNotFoundError:
        raise AuditError(f"{segment.name} was deleted while the log was read; try again") from None


def _check_end(folder: Path, head: Head, stored: Head, at_stored: Head | None) -> None:
    if head.count < stored.count:
        raise ChainError(
            f"{folder}: HEAD knows {stored.count} records and the log ends before record {head.count}; "
            "records were cut off its end"
        )
    if at_stored != stored:
        raise ChainError(
            f"{folder}: record {stored.count - 1} is not the one that HEAD knows; one of them was changed"
        )
    if head.count > stored.count:
        raise ChainError(
            f"{folder}: record {stored.count} stands after the end that HEAD knows; it was added by hand, or "
            "by a writer that was killed before it told anyone (the next start then settles it)"
        )

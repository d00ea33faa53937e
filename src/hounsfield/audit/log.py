"""A hash-chained log in one file: the rollout's ledger. `audit.chain` says what a line is.

The hash covers each line's exact bytes, so a changed byte, a dropped, an added or a moved line breaks the
chain at a line that can be named. A log that grows with every prediction is `audit.segments` instead.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from hounsfield.audit.chain import (
    START,
    ChainError,
    Entry,
    Head,
    canonical,
    check_line,
    head_before,
    record_of,
    write_line,
)
from hounsfield.errors import AuditError

_BLOCK_BYTES = 1 << 16


def append(path: Path, record: Mapping[str, Any]) -> Head:
    """Add `record` (JSON without NaN) to the end of the log and return the new head once it is on the disk.

    Costs the same however long the log is: only its last line is checked, `verify` checks the others.
    Writers of several processes take turns by a lock on the file. An unfinished last line, left by a writer
    that was killed, was never acknowledged to anyone: it is taken away first. Raises AuditError when the
    disk refuses; the log is then as it was.
    """
    body = canonical(record)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end, line = last_line(file)
            if end < os.fstat(file.fileno()).st_size:
                file.truncate(end)
            content, head = write_line(_head_after(line, path), body)
            write_whole(file, content, end)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise AuditError(f"{path.name}: cannot write to the log: {error.strerror}") from None
    return head


def read(path: Path) -> Iterator[Entry]:
    """The entries in order, each one verified; raises ChainError at the first line that does not fit."""
    if not path.exists():
        return
    head = START
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            before, head = head, check_line(line, head, f"{path.name} line {number}")
            yield Entry(before.count, before.hash, record_of(line), head.hash)


def verify(path: Path, expected_head: str | None = None) -> Head:
    """Check every line; raises ChainError that names the first line that was edited, dropped, added or moved.

    `expected_head` is a hash known from elsewhere, such as a rollout's commit: the log must still hold it.
    """
    head = START
    is_held = expected_head in (None, head.hash)
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                head = check_line(line, head, f"{path.name} line {number}")
                is_held = is_held or head.hash == expected_head
    if not is_held:
        raise ChainError(
            f"{path.name}: no record has the hash {str(expected_head)[:12]}; "
            "records were cut off the end, or this is another log"
        )
    return head


def mend(path: Path) -> None:
    """Take away an unfinished last line, left by a writer that was killed before anyone was told of it."""
    if not path.exists():
        return
    with path.open("r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end, _ = last_line(file)
        if end < os.fstat(file.fileno()).st_size:
            file.truncate(end)


def last_line(file: IO[bytes]) -> tuple[int, bytes]:
    """The offset after the last whole line of `file`, and that line (empty where there is none).

    Reads backwards from the end, so that the cost is the line's and not the file's.
    """
    position = file.seek(0, os.SEEK_END)
    tail = b""
    while position > 0:
        step = min(_BLOCK_BYTES, position)
        position -= step
        file.seek(position)
        tail = file.read(step) + tail
        stop = tail.rfind(b"\n")
        start = tail.rfind(b"\n", 0, stop) if stop >= 0 else -1
        if start >= 0 or (stop >= 0 and position == 0):
            return position + stop + 1, tail[start + 1 : stop + 1]
    return 0, b""


def write_whole(file: IO[bytes], content: bytes, end: int, sync: bool = True) -> None:
    """Write `content` to the unbuffered `file`, which ends at `end`; on OSError it ends there again."""
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) :]
        if sync:
            os.fdatasync(file.fileno())
    except OSError:
        file.truncate(end)
        raise


def sync_folder(folder: Path) -> None:
    """Put the folder's list of files on the disk: a new file is there after a power cut only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _head_after(line: bytes, path: Path) -> Head:
    if not line:
        return START
    try:
        before = head_before(line)
    except (ValueError, RecursionError):
        raise ChainError(f"{path.name}, last line: this is not a record of the log") from None
    return check_line(line, before, f"{path.name} line {before.count + 1}")

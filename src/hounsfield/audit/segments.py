"""A chained log that grows with every prediction: a folder of segments, one chain across them.

    00000000000000000000.jsonl    lines as `audit.chain` says; named by the sequence of its first record
    00000000000000021845.jsonl
    HEAD                          the chain's end: count, hash, segment, checksum; the writers' lock

`HEAD` is written in place after each commit, when the records are on the disk, and not synced itself: after
a power cut it may be behind the records, never ahead of them. So
- readers go as far as HEAD, and never see a record that may yet be taken back;
- what HEAD covers must be there, and fit: otherwise records were cut off or changed, and nothing is added;
- what lies after HEAD was written by a process that was killed in the middle of a commit. Whole records that
  fit stay, the rest is cut, and a record of kind `recovered` says so.
Of the records' fields this module reads only `time` (ISO 8601), to know how old a segment is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hounsfield.audit.chain import (
    START,
    ChainError,
    Head,
    canonical,
    check_line,
    head_before,
    record_of,
    write_line,
)
from hounsfield.audit.log import last_line, sync_folder, write_whole
from hounsfield.errors import AuditError

SEGMENT_BYTES = 64 << 20
SEGMENT_AGE_S = 86_400.0
_HEAD_BYTES = 20 + 1 + 64 + 1 + 20 + 1 + 8 + 1
_MODE = 0o640  # a record holds no name, but it is about a patient


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}.jsonl"


def first_sequence(segment: Path) -> int:
    return int(segment.stem)


def segment_paths(folder: Path) -> list[Path]:
    """The log's segments in order."""
    return sorted(path for path in folder.glob("*.jsonl") if len(path.stem) == 20 and path.stem.isdigit())


def read_head(folder: Path) -> Head:
    """The chain's end as HEAD has it, START where there is no log; raises ChainError if it is damaged."""
    try:
        descriptor = os.open(folder / "HEAD", os.O_RDONLY)
    except FileNotFoundError:
        if segment_paths(folder):
            raise ChainError(
                f"{folder}: the file HEAD is missing; whether records were cut off cannot be told"
            ) from None
        return START
    try:
        return _parse_head(descriptor, folder)[0]
    finally:
        os.close(descriptor)


def now_text(clock: Callable[[], float] = time.time) -> str:
    """The time as records have it: `2026-11-21T14:30:00.123456Z`."""
    return datetime.fromtimestamp(clock(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Writer:
    """Adds records to the log in `folder`. Several processes may: they take turns by a lock on HEAD.

    `sync=False` leaves the moment of writing to the operating system: a killed process still loses nothing, a
    power cut may. A segment is closed when it has `segment_bytes` or is `segment_age_s` old. Raises
    ChainError where the log's end does not fit HEAD, and AuditError where the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sync: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
        segment_age_s: float = SEGMENT_AGE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._sync, self._segment_bytes, self._segment_age_s = sync, segment_bytes, segment_age_s
        self._clock = clock
        self._head = START
        self._segment: int | None = None
        self._end = 0
        self._started_s = 0.0
        with self._disk_errors(), contextlib.ExitStack() as undo:
            folder.mkdir(parents=True, exist_ok=True)
            read_head(folder)  # raises where there are segments and no HEAD: no other is made in its place
            self._head_file = os.open(folder / "HEAD", os.O_RDWR | os.O_CREAT, _MODE)
            undo.callback(os.close, self._head_file)
            undo.callback(lambda: self._segment is not None and self._file.close())
            with self._turn():
                stored = self._first_head()
                self._open_last(stored)
                self._catch_up(stored)
            undo.pop_all()

    def commit(self, records: Sequence[bytes]) -> Head:
        """Put `records` (JSON objects) on the disk, all or none, and return the new head.

        Raises AuditError when the disk refuses: nothing of the group stays in the log, and the next commit
        tries again.
        """
        with self._disk_errors(), self._turn():
            self._look()
            if self._end and self._is_full():
                self._begin_segment()
            self._write(records)
            return self._head

    def close_segment(self) -> None:
        """Begin a new segment even if the last is neither full nor old; all before it never change again."""
        with self._disk_errors(), self._turn():
            self._look()
            if self._end:
                self._begin_segment()

    def close(self) -> None:
        self._file.close()
        os.close(self._head_file)

    def _look(self) -> None:
        """See what has happened to the log since our last turn."""
        stored, segment = _parse_head(self._head_file, self.folder)
        status = os.fstat(self._file.fileno())
        if not (status.st_nlink and os.fstat(self._head_file).st_nlink):
            self._open_last(stored)  # our segment was purged, or someone deletes files
        if (stored, segment, status.st_size) != (self._head, self._segment, self._end):
            self._catch_up(stored)

    def _begin_segment(self) -> None:
        # HEAD first: killed in between, we leave other writers a reason to look for a new segment.
        self._store_head(self._head.count)
        self._open(self._head.count)

    def _write(self, records: Sequence[bytes]) -> None:
        lines, head = [], self._head
        for record in records:
            line, head = write_line(head, record)
            lines.append(line)
        content = b"".join(lines)
        write_whole(self._file, content, self._end, self._sync)
        self._head, self._end = head, self._end + len(content)
        # The records are on the disk: a HEAD that cannot follow does not undo them, the next one will.
        with contextlib.suppress(OSError):
            self._store_head(self._segment)

    def _is_full(self) -> bool:
        return self._end >= self._segment_bytes or self._clock() - self._started_s >= self._segment_age_s

    def _open(self, first: int) -> None:
        """Make the segment that starts at `first` the one written to."""
        path = segment_path(self.folder, first)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
        file = os.fdopen(descriptor, "a+b", buffering=0)
        try:
            sync_folder(self.folder)
        except OSError:
            file.close()
            raise
        if self._segment is not None:
            self._file.close()
        self._file, self._segment, self._end = file, first, 0
        self._started_s = self._clock()
        file.seek(0)
        if line := file.readline():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._started_s = datetime.fromisoformat(record_of(line)["time"]).timestamp()

    def _first_head(self) -> Head:
        """HEAD as it is stored; a new log gets one that is on the disk before any record is."""
        if os.fstat(self._head_file).st_size == 0 and not segment_paths(self.folder):
            self._store_head(0)
            os.fsync(self._head_file)
            sync_folder(self.folder)
        return _parse_head(self._head_file, self.folder)[0]

    def _open_last(self, stored: Head) -> None:
        """Stand at the start of the last segment, with the head that it follows."""
        paths = segment_paths(self.folder)
        if (stored.count and not paths) or not (self.folder / "HEAD").exists():
            raise ChainError(f"{self.folder}: files of the log were deleted; {_KEEP}")
        self._head = START
        self._open(first_sequence(paths[-1]) if paths else 0)
        if self._segment == 0:
            return
        if len(paths) > 1:
            with paths[-2].open("rb") as file:
                line = last_line(file)[1]
            where = f"{paths[-2].name}, last record"
        else:  # the segments before it were purged
            self._file.seek(0)
            line, where = self._file.readline(), f"{paths[-1].name} line 1"
        try:
            before = head_before(line)
        except (ValueError, RecursionError):
            before = stored  # an empty segment: made by a writer that was killed before it wrote
        self._head = check_line(line, before, where) if len(paths) > 1 else before
        if self._head.count != self._segment:
            raise ChainError(f"{paths[-1].name}: records before it are missing; {_KEEP}")

    def _catch_up(self, stored: Head) -> None:
        """Go to the chain's end, past what other writers added, and cut what one of them left unfinished."""
        known = max(stored.count, self._head.count)
        is_held = stored.count <= self._head.count  # what we wrote ourselves needs no second look
        if stored.count == self._head.count and stored.hash != self._head.hash:
            raise ChainError(f"{self.folder}: HEAD does not fit record {stored.count - 1}; {_KEEP}")
        cut_bytes = 0
        while True:
            self._file.seek(self._end)
            for line in _lines(self._file):
                try:
                    where = f"{segment_path(self.folder, self._segment).name} record {self._head.count}"
                    self._head = check_line(line, self._head, where)
                except ChainError as error:
                    if self._head.count < stored.count or self._later_segment() is not None:
                        raise ChainError(f"{error}; {_KEEP}") from None
                    cut_bytes = os.fstat(self._file.fileno()).st_size - self._end
                    self._file.truncate(self._end)
                    break
                self._end += len(line)
                is_held = is_held or self._head == stored
            later = self._later_segment()
            if later is None:
                break
            if later != self._head.count:
                raise ChainError(
                    f"{self.folder}: the segment of record {self._head.count} is missing; {_KEEP}"
                )
            self._open(later)
        if not is_held:
            raise ChainError(
                f"{self.folder}: HEAD knows {stored.count} records, the log does not hold them all; "
                f"record {self._head.count} and later ones were cut off, or HEAD was changed; {_KEEP}"
            )
        after_head = self._head.count - known
        if after_head or cut_bytes:
            recovered = {"kind": "recovered", "time": now_text(self._clock)}
            self._write([canonical({**recovered, "after_head": after_head, "cut_bytes": cut_bytes})])

    def _later_segment(self) -> int | None:
        return min(
            (n for n in map(first_sequence, segment_paths(self.folder)) if n > self._segment), default=None
        )

    def _store_head(self, segment: int) -> None:
        os.pwrite(self._head_file, _head_text(self._head, segment), 0)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        fcntl.flock(self._head_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._head_file, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AuditError(
                f"the log {self.folder} cannot be written: {error.strerror}; make room or give another folder"
            ) from None


_KEEP = "keep this folder for the auditor and start a log in an empty one"


def _lines(file) -> Iterator[bytes]:
    """The lines from the file's position on. The file is unbuffered for writing; reading wants a buffer."""
    with os.fdopen(os.dup(file.fileno()), "rb") as reader:
        yield from reader


def _head_text(head: Head, segment: int) -> bytes:
    text = b"%020d %b %020d" % (head.count, head.hash.encode("ascii"), segment)
    return b"%b %08x\n" % (text, zlib.crc32(text))


def _parse_head(descriptor: int, folder: Path) -> tuple[Head, int]:
    """The head and the segment in the open file HEAD."""
    for _ in range(3):  # a reader without the lock may see a write in its middle
        text = os.pread(descriptor, _HEAD_BYTES + 1, 0)
        with contextlib.suppress(ValueError):
            head, segment = Head(int(text[:20]), text[21:85].decode("ascii")), int(text[86:106])
            if text == _head_text(head, segment):
                return head, segment
    raise ChainError(f"{folder}: the file HEAD is damaged; {_KEEP}")

"""Deleting what is old enough, and nothing else: a purge is a record of the chain it shortens.

Whole segments go, oldest first. Before the first is deleted, a record of kind `purge` is on the disk that
names each of them, where it ended and with which hash: `verification` accepts a log that begins later than
record 0 only with such a record. How long records must stay is in the log itself: each start of the writer
leaves a record of kind `opened` with `retention_days`, and a purge may keep records longer than that, not
shorter.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path

from hounsfield.audit.chain import Head, canonical, record_of
from hounsfield.audit.log import sync_folder
from hounsfield.audit.reader import lines, start_of
from hounsfield.audit.segments import Writer, first_sequence, now_text, segment_paths
from hounsfield.audit.verification import checked
from hounsfield.errors import AuditError


@dataclass(frozen=True)
class Purged:
    """What a purge deleted, and the first segment that is too young to go (None: all were old enough)."""

    segments: tuple[str, ...]
    records: int
    young: str | None
    young_newest: str | None


@dataclass(frozen=True)
class _Age:
    """A segment: `count` records from `first` on, the last with `hash`, the youngest of time `newest`."""

    segment: str
    first: int
    count: int
    hash: str
    newest: str


def purge(
    folder: Path,
    retention_days: float | None = None,
    *,
    through: str | None = None,
    by: str = "",
    clock: Callable[[], float] = time.time,
) -> Purged:
    """Delete the segments of the log in `folder` whose newest record is older than the retention.

    `retention_days` defaults to what the log itself says. `through` names the segment up to which all must
    go. `by` says in the record who did it. The writer of the log may be at work meanwhile. Raises
    ChainError, and deletes nothing, where the log does not verify; raises AuditError where the retention is
    not known or shorter than the log's own, and where a segment that should go is younger than it.
    """
    settled = _settled_days(folder)
    if retention_days is None:
        retention_days = settled
    if retention_days is None:
        raise AuditError(f"{folder}: the log names no retention; say how many days its records must stay")
    if not retention_days >= 0:
        raise AuditError(f"a retention of {retention_days} days is not one; give 0 or more")
    if settled is not None and retention_days < settled:
        raise AuditError(
            f"{folder}: a retention of {retention_days:g} days is shorter than the log's own of {settled:g} "
            "days; nothing was deleted"
        )
    limit = datetime.fromtimestamp(clock(), UTC) - timedelta(days=retention_days)
    names = [path.name for path in segment_paths(folder)]
    if through is not None and through not in names:
        raise AuditError(f"{folder}: there is no segment {through!r}; the oldest is {names[0]}")
    old, young = _old(folder, names[:-1], limit)
    if young is None and (through is None or through == names[-1]):
        last, young = _old(folder, names[-1:], limit)
        if last:
            # Its writer may be adding to it at this moment: only a segment that is closed has an age.
            writer = Writer(folder, clock=clock)
            writer.close_segment()
            writer.close()
            last, young = _old(folder, names[-1:], limit)
        old += last
    if through is not None:
        if young is not None and young.segment <= through:
            raise AuditError(
                f"{young.segment} holds a record of {young.newest}, younger than the retention of "
                f"{retention_days:g} days; nothing was deleted"
            )
        old = [age for age in old if age.segment <= through]
    if old:
        _record(folder, old, retention_days, settled, by, clock)
        _delete(folder, old)
    return Purged(
        segments=tuple(age.segment for age in old),
        records=sum(age.count for age in old),
        young=None if young is None else young.segment,
        young_newest=None if young is None else young.newest,
    )


def _old(folder: Path, names: list[str], limit: datetime) -> tuple[list[_Age], _Age | None]:
    """The segments older than `limit` from the chain's beginning on, and the first that is younger."""
    old = []
    for name in names:
        try:
            if (folder / name).stat().st_size == 0:
                break  # the last one, begun by a writer that has not written to it yet
            age = _age(folder, folder / name)
        except FileNotFoundError:
            raise AuditError(f"{name} was deleted meanwhile; another purge of {folder} is at work") from None
        if datetime.fromisoformat(age.newest) > limit:
            return old, age
        old.append(age)
    return old, None


def _record(
    folder: Path,
    old: list[_Age],
    days: float,
    settled: float | None,
    by: str,
    clock: Callable[[], float],
) -> None:
    record = {
        "kind": "purge",
        "time": now_text(clock),
        "by": by,
        "retention_days": days,
        "log_retention_days": settled,
        "segments": [asdict(age) for age in old],
    }
    writer = Writer(folder, clock=clock)
    try:
        writer.commit([canonical(record)])
    finally:
        writer.close()


def _delete(folder: Path, old: list[_Age]) -> None:
    try:
        for age in old:
            (folder / age.segment).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise AuditError(f"{folder}: cannot delete a segment: {error.strerror}; purge again") from None


def _settled_days(folder: Path) -> float | None:
    """The retention that the log's last writer was started with; reads and checks the whole log.

    A purge may delete the record that says so: its own record carries it on.
    """
    days = None
    for _, line, _ in checked(folder):
        if b'"kind":"opened"' in line or b'"kind":"purge"' in line:
            record = record_of(line)
            field = {"opened": "retention_days", "purge": "log_retention_days"}.get(record.get("kind"))
            days = record[field] if field else days
    return days


def _age(folder: Path, segment: Path) -> _Age:
    first = first_sequence(segment)
    head, newest = Head(first, ""), ""
    for line, cursor in takewhile(lambda item: item[1].segment == first, lines(folder, start_of(segment))):
        head = Head(cursor.count, cursor.hash)
        newest = max(newest, _time(record_of(line).get("time"), f"{segment.name} record {cursor.count - 1}"))
    return _Age(segment.name, first, head.count - first, head.hash, newest)


def _time(value: object, where: str) -> str:
    with contextlib.suppress(TypeError, ValueError):
        return datetime.fromisoformat(value).astimezone(UTC).isoformat(timespec="microseconds")
    raise AuditError(f"{where}: it has no time in ISO 8601, so its age is not known; nothing was deleted")

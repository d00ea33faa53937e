"""A hash-chained log in one JSONL file.

Line `n` holds `sequence` (n, from 0), `previous` (hash of line n - 1, or 64 zeros), `record` (any JSON
object) and `hash`, the SHA-256 of the other three in canonical JSON. Each line stands in that one canonical
form, so a changed byte, a dropped, an added or a moved line breaks the chain at a line that can be named.

A chain cannot show that its last lines were cut off: keep the head elsewhere (the rollout writes it into
every commit) and give it to `verify`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hounsfield.errors import AuditError

GENESIS = "0" * 64


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many records it has, and the hash of the last one."""

    count: int
    hash: str


@dataclass(frozen=True)
class Entry:
    sequence: int
    previous: str
    record: dict[str, Any]
    hash: str


def append(path: Path, record: Mapping[str, Any]) -> Head:
    """Add `record` (JSON without NaN) to the end of the log and return the new head once it is on the disk.

    Writers of several processes take turns by a lock on the file. An unfinished last line, left by a writer
    that was killed, was never acknowledged to anyone: it is taken away first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)
        head = Head(0, GENESIS)
        for entry in _entries(content[:end], path):
            head = Head(entry.sequence + 1, entry.hash)
        line, digest = _line(head.count, head.hash, record)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _sync_folder(path.parent)
    return Head(head.count + 1, digest)


def read(path: Path) -> Iterator[Entry]:
    """The entries in order, each one verified; raises AuditError at the first line that does not fit."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        line = content.count(b"\n") + 1
        raise AuditError(f"{path.name} line {line}: the record is cut off; the next rollout removes it")
    yield from _entries(content, path)


def verify(path: Path, expected_head: str | None = None) -> Head:
    """Check every line; raises AuditError that names the first line that was edited, dropped, added or moved.

    `expected_head` is a hash known from elsewhere, such as a rollout's commit: the log must still hold it.
    """
    head = Head(0, GENESIS)
    hashes = {GENESIS}
    for entry in read(path):
        head = Head(entry.sequence + 1, entry.hash)
        hashes.add(entry.hash)
    if expected_head is not None and expected_head not in hashes:
        raise AuditError(
            f"{path.name}: no record has the hash {expected_head[:12]}; "
            "records were cut off the end, or this is another log"
        )
    return head


def _entries(content: bytes, path: Path) -> Iterator[Entry]:
    previous = GENESIS
    for sequence, line in enumerate(content.splitlines(keepends=True)):
        where = f"{path.name} line {sequence + 1}"
        try:
            values = json.loads(line)
            entry = Entry(values["sequence"], values["previous"], values["record"], values["hash"])
        except (ValueError, KeyError, TypeError):
            raise AuditError(f"{where}: this is not a record of the log") from None
        if entry.sequence != sequence:
            raise AuditError(
                f"{where}: record {entry.sequence} stands where record {sequence} belongs; "
                "a record was dropped, added or moved"
            )
        if entry.previous != previous:
            raise AuditError(
                f"{where}: the record does not follow from the one before it; one of them was changed"
            )
        if line != _line(sequence, previous, entry.record)[0]:
            raise AuditError(f"{where}: the record was edited; its hash no longer fits")
        previous = entry.hash
        yield entry


def _line(sequence: int, previous: str, record: Mapping[str, Any]) -> tuple[bytes, str]:
    body = {"sequence": sequence, "previous": previous, "record": dict(record)}
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({**body, "hash": digest}) + b"\n", digest


def _canonical(value: Mapping[str, Any]) -> bytes:
    # ASCII and sorted: one value has one text. NaN has no JSON and would not compare equal on replay.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""One record of a hash chain: a line of JSON whose hash covers the exact bytes of the line and the record
before it.

    {"hash":"H","previous":"P","record":{...},"sequence":N}\\n

`sequence` counts from 0, `previous` is the hash of the line before (64 zeros before the first), and `hash`
is the SHA-256 of the line without its hash and newline, which is
`{"previous":"P","record":{...},"sequence":N}`. The hash covers bytes and not values, so a line is checked
without parsing it, and a writer that prints numbers with orjson and a reader that has only the standard
library agree.

A chain cannot show that its last lines were cut off: keep its head elsewhere (`segments.HEAD`, the rollout's
commits, the CloudEvents that were sent) and compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hounsfield.errors import AuditError

try:  # the guard environment has no orjson: it reads the same bytes, more slowly
    from orjson import loads as parse_json
except ModuleNotFoundError:
    from json import loads as parse_json

GENESIS = "0" * 64

_HASH_AT = len('{"hash":"')
_BODY_AT = _HASH_AT + 64 + len('",')
_RECORD_AT = _BODY_AT + len('"previous":"') + 64 + len('","record":')
# hashlib gives the interpreter to other threads for anything of 2048 bytes or more, and must then wait for it
# again. A hash takes 2 us: kept whole, a commit of 64 records beside a busy thread took a quarter longer.
_WITH_THE_LOCK_HELD = 2047


class ChainError(AuditError):
    """A record was edited, dropped, added or moved; the sentence names the first one that does not fit."""

    exit_code = 1


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many records it has, and the hash of the last one."""

    count: int
    hash: str


START = Head(0, GENESIS)


@dataclass(frozen=True)
class Entry:
    sequence: int
    previous: str
    record: dict[str, Any]
    hash: str


def canonical(record: Mapping[str, Any]) -> bytes:
    """`record` as sorted ASCII JSON; raises ValueError for NaN, which would not compare equal on replay."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def write_line(head: Head, record: bytes) -> tuple[bytes, Head]:
    """The line that puts `record` (a JSON object without a newline) after `head`, and the new head."""
    body = b'"previous":"%b","record":%b,"sequence":%d}' % (head.hash.encode("ascii"), record, head.count)
    digest = hashlib.sha256(b"{")
    for start in range(0, len(body), _WITH_THE_LOCK_HELD):
        digest.update(body[start : start + _WITH_THE_LOCK_HELD])
    text = digest.hexdigest()
    return b'{"hash":"%b",%b\n' % (text.encode("ascii"), body), Head(head.count + 1, text)


def check_line(line: bytes, head: Head, where: str) -> Head:
    """The head after `line` (with its newline); raises ChainError, naming `where`, if it does not follow."""
    digest = line[_HASH_AT : _HASH_AT + 64]
    body = line[_BODY_AT:-1]
    if (
        line.startswith(b'{"hash":"%b","previous":"%b","record":' % (digest, head.hash.encode("ascii")))
        and line.endswith(b',"sequence":%d}\n' % head.count)
        and hashlib.sha256(b"{" + body).hexdigest().encode("ascii") == digest
    ):
        return Head(head.count + 1, digest.decode("ascii"))
    raise ChainError(f"{where}: {_what_is_wrong(line, head)}")


def head_before(line: bytes) -> Head:
    """The head that `line` says it follows, unchecked; raises ValueError when it is not a record."""
    values = _values(line)
    return Head(values["sequence"], values["previous"])


def record_bytes(line: bytes) -> bytes:
    """The JSON of the record in a checked line."""
    return line[_RECORD_AT : line.rindex(b',"sequence":')]


def record_of(line: bytes) -> dict[str, Any]:
    """The record in a checked line."""
    return parse_json(record_bytes(line))


def _values(line: bytes) -> dict[str, Any]:
    values = json.loads(line)
    if not isinstance(values, dict) or set(values) != {"hash", "previous", "record", "sequence"}:
        raise ValueError("not a record of the log")
    if type(values["sequence"]) is not int or not isinstance(values["previous"], str):
        raise ValueError("not a record of the log")
    if values["sequence"] < 0 or not values["previous"].isascii():
        raise ValueError("not a record of the log")
    return values


def _what_is_wrong(line: bytes, head: Head) -> str:
    if not line.endswith(b"\n"):
        return "the record is cut off; the next writer removes it"
    try:
        values = _values(line)
    except (ValueError, RecursionError):
        return "this is not a record of the log"
    if values["sequence"] != head.count:
        return (
            f"record {values['sequence']} stands where record {head.count} belongs; "
            "a record was dropped, added or moved"
        )
    if values["previous"] != head.hash:
        return "the record does not follow from the one before it; one of them was changed"
    return "the record was edited; its hash no longer fits"

"""The inference log as Parquet, for whoever analyses it: one file a segment, typed columns, the chain's
hash a row.

The `hash` and `sequence` columns lead back to the record in the log, which stays the evidence. What a file
holds follows from its segment alone, so an export needs no state of its own: a file that already reaches its
segment's end is left as it is, another is written anew beside it and replaces it by a rename.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from hounsfield.audit.chain import Head
from hounsfield.audit.reader import Cursor, lines, read, start_of
from hounsfield.audit.segments import first_sequence, read_head, segment_paths
from hounsfield.errors import AuditError

ROW_GROUP = 8192
"""Rows held in memory at once: about 30 MB with an embedding of 1000 values."""

_TEXT = [
    "kind",
    "request_id",
    "caller",
    "study",
    "door",
    "model_name",
    "model_version",
    "package_digest",
    "contract_digest",
    "input_kind",
    "input_sha256",
    "label",
    "refusal",
    "truth",
    "error",
]
_FLAG = ("shadow", "review_required")
_REAL = ("probability", "latency_s")
_KNOWN = {*_TEXT, *_FLAG, *_REAL, "time", "instance", "embedding", "subgroups"}


@dataclass(frozen=True)
class Export:
    """What an export wrote. `missed`: records before the log's oldest that were purged and no file has."""

    written: tuple[Path, ...]
    unchanged: int
    records: int
    missed: int


def export(folder: Path, out: Path) -> Export:
    """Bring `out` up to date with the log in `folder`: `<segment>.parquet` for each segment that is there.

    Files of segments that were purged since stay. Raises ChainError at the first record that does not fit,
    and AuditError for a record whose values have other types than the columns, with nothing half-written.
    """
    end = read_head(folder)
    segments = [path for path in segment_paths(folder) if first_sequence(path) < end.count]
    if not segments:
        raise AuditError(f"{folder}: there is no log in this folder, or it is empty")
    try:
        out.mkdir(parents=True, exist_ok=True)
        stops = [first_sequence(path) for path in segments[1:]] + [end.count]
        written, records = [], 0
        # A purge shows as a gap: between the last file of an earlier export and the oldest segment that is
        # left.
        missed = _gap(out, first_sequence(segments[0]))
        for segment, stop in zip(segments, stops, strict=True):
            target = out / f"{segment.stem}.parquet"
            first_hash = next(lines(folder, start_of(segment)))[1].hash
            earlier = _exported(target)
            if earlier is not None and earlier[1] != first_hash:
                raise AuditError(
                    f"{target.name} in {out} is of another log; export each log to its own folder"
                )
            if earlier is not None and earlier[0] >= stop:
                continue
            records += _write(folder, segment, target, first_hash)
            written.append(target)
    except OSError as error:
        raise AuditError(f"{out}: cannot write the export: {error.strerror or error}") from None
    return Export(tuple(written), len(segments) - len(written), records, missed)


def _gap(out: Path, first: int) -> int:
    """How many records before `first` no file in `out` holds; 0 for a first export of a purged log's rest."""
    earlier = [path for path in out.glob("*.parquet") if path.stem.isdigit() and int(path.stem) < first]
    last = _exported(max(earlier)) if earlier else None
    return first - last[0] if last is not None else 0


def _exported(target: Path) -> tuple[int, str] | None:
    """Of the file `target`: the sequence after its last record, the hash of its first; None if missing."""
    # Imported where it is used: the guard environment follows and verifies logs, and has no pyarrow.
    import pyarrow.parquet

    if not target.exists():
        return None
    try:
        metadata = pyarrow.parquet.read_metadata(target).metadata
        return int(metadata[b"hounsfield.count"]), metadata[b"hounsfield.first"].decode()
    except (pyarrow.ArrowInvalid, KeyError, ValueError, TypeError):
        raise AuditError(
            f"{target.name} in {target.parent} was not written by this export; remove it"
        ) from None


def _write(folder: Path, segment: Path, target: Path, first_hash: str) -> int:
    import pyarrow
    import pyarrow.parquet

    first = first_sequence(segment)
    rows = takewhile(lambda item: item[1].segment == first, read(folder, start_of(segment)))
    part = target.with_name(target.name + ".part")
    head = Head(first, "")
    schema = _schema(pyarrow)
    try:
        with pyarrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
            for batch in _batches(rows):
                head = Head(batch[-1][1].count, batch[-1][1].hash)
                writer.write_batch(_table(pyarrow, schema, batch, segment))
            writer.add_key_value_metadata(
                {
                    "hounsfield.count": str(head.count),
                    "hounsfield.first": first_hash,
                    "hounsfield.last": head.hash,
                }
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return head.count - first


def _batches(rows: Iterator[tuple[dict[str, Any], Cursor]]) -> Iterator[list[tuple[dict[str, Any], Cursor]]]:
    while batch := list(islice(rows, ROW_GROUP)):
        yield batch


def _schema(pyarrow):
    return pyarrow.schema(
        [
            ("sequence", pyarrow.int64()),
            ("hash", pyarrow.string()),
            ("time", pyarrow.timestamp("us", "UTC")),
            *((name, pyarrow.string()) for name in _TEXT),
            ("instance", pyarrow.int32()),
            *((name, pyarrow.bool_()) for name in _FLAG),
            *((name, pyarrow.float64()) for name in _REAL),
            # float16 in the log; few readers know Parquet's FLOAT16, and float32 holds each of its values
            ("embedding", pyarrow.list_(pyarrow.float32())),
            ("subgroups", pyarrow.map_(pyarrow.string(), pyarrow.string())),
            ("other", pyarrow.string()),  # the fields that have no column, as JSON
        ]
    )


def _table(pyarrow, schema, batch: list[tuple[dict[str, Any], Cursor]], segment: Path):
    """One row group of `batch`; raises AuditError that names the record and the column that do not fit."""
    columns: dict[str, list[Any]] = {
        "sequence": [after.count - 1 for _, after in batch],
        "hash": [after.hash for _, after in batch],
        "subgroups": [_subgroups(record.get("subgroups"), segment, after) for record, after in batch],
        "other": [_other(record) for record, _ in batch],
    }
    for name in (*_TEXT, *_FLAG, *_REAL, "instance"):
        columns[name] = [record.get(name) for record, _ in batch]
    columns["time"] = [_time(record.get("time"), segment, after) for record, after in batch]
    arrays = []
    for field in schema:
        if field.name == "embedding":
            arrays.append(_embeddings(pyarrow, batch, segment))
            continue
        try:
            arrays.append(pyarrow.array(columns[field.name], field.type))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            raise AuditError(
                f"{segment.name}: a record's {field.name!r} is not a {field.type}; nothing of it was exported"
            ) from None
    return pyarrow.record_batch(arrays, schema=schema)


def _embeddings(pyarrow, batch: list[tuple[dict[str, Any], Cursor]], segment: Path):
    """The embeddings as lists of float32, null where a record has none."""
    import numpy as np

    offsets, values = [0], []
    for record, after in batch:
        text = record.get("embedding")
        if text is not None:
            try:
                values.append(np.frombuffer(base64.b64decode(text, validate=True), "<f2"))
            except (ValueError, TypeError):
                raise AuditError(
                    f"{segment.name} record {after.count - 1}: its embedding is not base64 of float16"
                ) from None
        offsets.append(offsets[-1] + (len(values[-1]) if text is not None else 0))
    flat = np.concatenate(values).astype(np.float32) if values else np.zeros(0, np.float32)
    return pyarrow.ListArray.from_arrays(
        pyarrow.array(offsets, pyarrow.int32()),
        pyarrow.array(flat),
        mask=pyarrow.array([record.get("embedding") is None for record, _ in batch]),
    )


def _subgroups(value: Any, segment: Path, after: Cursor) -> list[tuple[str, str]] | None:
    if value is not None and not isinstance(value, dict):
        raise AuditError(f"{segment.name} record {after.count - 1}: its subgroups are not an object")
    return None if value is None else list(value.items())


def _time(text: Any, segment: Path, after: Cursor):
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise AuditError(f"{segment.name} record {after.count - 1}: its time is not ISO 8601") from None


def _other(record: dict[str, Any]) -> str | None:
    rest = {name: value for name, value in record.items() if name not in _KNOWN}
    return json.dumps(rest, sort_keys=True) if rest else None

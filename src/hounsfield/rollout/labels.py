"""Labels of cases, as a hospital hands them in: a CSV file, each row checked before any is used.

Columns: `label` (negative or positive, or 0 and 1), and `request_id` (with `instance` where a request has
several images, else 0) or `study`, the token of ADR 7. Errors name rows by their number (the header is row 1)
and never by what stands in them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hounsfield.config import CLASS_NAMES
from hounsfield.errors import LabelError

LABELS = {**{name: name for name in CLASS_NAMES}, **{str(n): name for n, name in enumerate(CLASS_NAMES)}}
MOST_NAMED = 10
"""Rows that an error names; the rest are counted."""


@dataclass(frozen=True)
class Row:
    """The label `truth`, a class name, of a request's instance, or of a study (`instance` None)."""

    number: int
    name: str
    instance: int | None
    truth: str

    @property
    def unit(self) -> str:
        if self.instance is None:
            return study_unit(self.name)
        return request_unit(self.name, self.instance)


def request_unit(request_id: str, instance: int) -> str:
    """What a label is of, as one text; the same for a row of a file and a record of the inference log."""
    return f"request {instance} {request_id}"


def study_unit(study: str) -> str:
    return f"study {study}"


def read_csv(path: Path) -> list[Row]:
    """The rows of the file at `path`; LabelError names every row that cannot be used (the first ten)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            _check_columns(path, columns)
            found = [_row(number, values) for number, values in enumerate(reader, start=2)]
    except OSError as error:
        raise LabelError(f"{path.name} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise LabelError(f"{path.name} is not a CSV file in UTF-8") from None
    rows = [row for row in found if isinstance(row, Row)]
    refuse(path, [*(said for said in found if isinstance(said, str)), *_contradictions(rows)])
    if not rows:
        raise LabelError(f"{path.name} has no rows")
    return list({row.unit: row for row in rows}.values())


def refuse(path: Path, said: Iterable[str]) -> None:
    """Raise LabelError with what is said of the rows, if anything is; the file is then not used at all."""
    wrong = list(said)
    if wrong:
        more = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise LabelError(f"{path.name}, nothing was added: {'; '.join(wrong[:MOST_NAMED])}{more}")


def _check_columns(path: Path, columns: set[str]) -> None:
    if "label" not in columns or not columns & {"request_id", "study"}:
        raise LabelError(
            f"{path.name} needs a column 'label', and 'request_id' (with 'instance' where a request has "
            "several) or 'study'"
        )
    if unknown := sorted(columns - {"request_id", "instance", "study", "label"}):
        # Not named: without a header they are the first row, and a column that nobody reads may hold a name.
        raise LabelError(f"{path.name} has {len(unknown)} columns that are not read; leave them out")


def _row(number: int, values: Mapping[str | None, Any]) -> Row | str:
    """The row, or what is wrong with it."""
    if None in values or None in values.values():
        return f"row {number}: it has not as many fields as the header"
    request, study = (values.get(name, "").strip() for name in ("request_id", "study"))
    truth = LABELS.get(values["label"].strip().lower())
    instance = values.get("instance", "").strip() or "0"
    if truth is None:
        return f"row {number}: the label is not one of {', '.join(LABELS)}"
    if bool(request) == bool(study):
        return f"row {number}: it must name a request_id or a study, and not both"
    if not (instance.isascii() and instance.isdecimal()):
        return f"row {number}: the instance is not a whole number from 0 up"
    return Row(number, request or study, int(instance) if request else None, truth)


def _contradictions(rows: Iterable[Row]) -> Iterator[str]:
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.unit, row)
        if other.truth != row.truth:
            yield f"row {row.number}: it has another label than row {other.number}, which names the same"

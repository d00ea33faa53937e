"""The labels file: which patient, study or image is positive, and at which site it was made."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hounsfield.config import CLASS_NAMES
from hounsfield.errors import LabelError

KEY_COLUMNS = ("SOPInstanceUID", "StudyInstanceUID", "PatientID")
"""What a label may hang on, the most specific first: of several columns the first of these is used."""

SITE = "site"
"""The column that may be there too: a code of yours. A header's own InstitutionName is not kept."""
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_MOST_SITES = 50
_WORDS = {**{name: number for number, name in enumerate(CLASS_NAMES)}, "0": 0, "1": 1}


@dataclass(frozen=True)
class Labels:
    """Labels by the value of one identifying attribute; `rows` says in which row of the file each stands.

    `sites` holds the site's code of each key, nothing where the file names none.
    """

    file_name: str
    key_column: str
    by_key: Mapping[str, int]
    rows: Mapping[str, int]
    sites: Mapping[str, str] = field(default_factory=dict)

    def find(self, identifiers: Mapping[str, str]) -> int | None:
        """The label of the image with these DICOM identifiers (by keyword), or None."""
        return self.by_key.get(identifiers.get(self.key_column, ""))

    def check_all_used(self, seen: Iterable[str], unread: int = 0) -> None:
        """Raise LabelError when a label's key is not among `seen`, the keys found in the images.

        Not when there are at most `unread` such labels, the number of files whose header could not be read.
        """
        unknown = sorted(self.rows[key] for key in set(self.by_key) - set(seen))
        if len(unknown) > unread:
            others = f" (and {len(unknown) - 1} more rows)" if len(unknown) > 1 else ""
            raise LabelError(
                f"{self.file_name} row {unknown[0]}{others}: no object of the data has this "
                f"{self.key_column}; remove the row or add the images"
            )


def load_labels(path: Path) -> Labels:
    """Read a CSV with a header (comma or semicolon, UTF-8): one key column, `label`, and `site` or not.

    The label is 0, 1, negative or positive; a site is a code of at most 32 letters, digits, dots, hyphens and
    underscores, or empty. Rows are counted as a spreadsheet does: the header is row 1. Raises LabelError.
    """
    name = path.name
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelError(f"labels file {name} cannot be read: {error.strerror or 'not a file'}") from None
    except UnicodeDecodeError:
        raise LabelError(f"labels file {name} is not UTF-8 text: export it as CSV in UTF-8") from None
    header_line = text.split("\n", 1)[0]
    delimiter = ";" if ";" in header_line and "," not in header_line else ","
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    header = [column.strip() for column in rows[0]] if rows else []
    key_column = next((column for column in KEY_COLUMNS if column in header), None)
    if key_column is None or "label" not in header:
        raise LabelError(
            f"{name} row 1: the header needs the column label and one of {', '.join(KEY_COLUMNS)}; "
            f"it has {', '.join(header) or 'nothing'}"
        )
    by_key, row_of = _read_rows(name, rows, header.index(key_column), header.index("label"), key_column)
    if not by_key:
        raise LabelError(f"{name} holds a header and no labels: add one row for each {key_column}")
    sites = _read_sites(name, rows, header, key_column) if SITE in header else {}
    return Labels(name, key_column, by_key, row_of, sites)


def _read_rows(
    name: str, rows: list[list[str]], key_at: int, label_at: int, key_column: str
) -> tuple[dict[str, int], dict[str, int]]:
    by_key: dict[str, int] = {}
    row_of: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(key_at, label_at):
            raise LabelError(f"{name} row {number}: {len(row)} columns where the header has more")
        key, word = row[key_at].strip(), row[label_at].strip()
        if not key:
            raise LabelError(f"{name} row {number}: {key_column} is empty")
        if word.lower() not in _WORDS:
            raise LabelError(
                f"{name} row {number}: label {word[:20]!r} is not one of {', '.join(CLASS_NAMES)}, 0, 1"
            )
        label = _WORDS[word.lower()]
        if by_key.setdefault(key, label) != label:
            raise LabelError(
                f"{name} rows {row_of[key]} and {number}: two different labels for one {key_column}; keep one"
            )
        row_of.setdefault(key, number)
    return by_key, row_of


def _read_sites(name: str, rows: list[list[str]], header: list[str], key_column: str) -> dict[str, str]:
    """The site of each key that has one, of `rows` that `_read_rows` has read."""
    key_at, site_at = header.index(key_column), header.index(SITE)
    sites: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        site = row[site_at].strip() if len(row) > site_at else ""
        if not site:
            continue
        if not _SITE.fullmatch(site):
            raise LabelError(
                f"{name} row {number}: the site is not a code such as north-2, of at most 32 letters, "
                "digits, dots, hyphens and underscores"
            )
        if sites.setdefault(row[key_at].strip(), site) != site:
            raise LabelError(f"{name} row {number}: a second site for one {key_column}; keep one")
    if len(set(sites.values())) > _MOST_SITES:
        raise LabelError(
            f"{name}: {len(set(sites.values()))} sites, and results are told apart for at most "
            f"{_MOST_SITES}; group them"
        )
    return sites

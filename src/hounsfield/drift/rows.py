"""What the detectors look at: of each image its embedding, its score and the groups of its DICOM header."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hounsfield.drift.embeddings import read_embeddings
from hounsfield.errors import GuardError

SCORE_COLUMN = "probability"


@dataclass(frozen=True)
class Rows:
    """Some images, as one model saw them.

    embedding: float32 (N, E). score: float32 (N,), probabilities. fields: for each field the group of M
    images, M <= N: an image that came without a DICOM header has none.
    """

    embedding: np.ndarray
    score: np.ndarray
    fields: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def with_fields(self) -> int:
        """M."""
        return max((len(values) for values in self.fields.values()), default=0)

    def take(self, rows: np.ndarray) -> Rows:
        """The images numbered `rows`; all of these must have fields."""
        fields = {name: tuple(values[row] for row in rows) for name, values in self.fields.items()}
        return Rows(self.embedding[rows], self.score[rows], fields)


def read_rows(embeddings: Path, table: Path, min_rows: int) -> Rows:
    """The images of `embeddings` (.npy, float (N, E)) and of `table`, a CSV of as many rows in that order.

    The table's column `probability` is the score, each other column a field. Raises GuardError that names
    the file, and the row, that does not fit.
    """
    values = read_embeddings(embeddings, min_rows)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, csv.Error, UnicodeDecodeError):
        raise GuardError(f"{table.name} is missing, or is no CSV") from None
    if len(rows) != len(values):
        raise GuardError(f"{table.name} has {len(rows)} rows, {embeddings.name} has {len(values)}")
    names = [name for name in rows[0] if name != SCORE_COLUMN]
    score = []
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise GuardError(f"{table.name} row {number} has not as many values as the header")
        try:
            score.append(float(row[SCORE_COLUMN]))
        except (KeyError, ValueError):
            raise GuardError(f"{table.name} row {number} has no number in column {SCORE_COLUMN}") from None
        if not math.isfinite(score[-1]):
            raise GuardError(f"{table.name} row {number}: {SCORE_COLUMN} is not finite")
    return Rows(
        values, np.array(score, dtype=np.float32), {name: tuple(row[name] for row in rows) for name in names}
    )

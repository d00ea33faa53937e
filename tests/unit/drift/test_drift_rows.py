"""The reference of the detectors: embeddings and a table that must fit each other."""

import numpy as np
import pytest

from hounsfield.drift.rows import read_rows
from hounsfield.errors import GuardError

TABLE = "view_position,probability\nPA,0.25\nAP,0.5\nPA,1\n"


def read(tmp_path, table, rows=3):
    np.save(tmp_path / "embeddings.npy", np.arange(rows * 2, dtype=np.float32).reshape(rows, 2))
    (tmp_path / "table.csv").write_text(table)
    return read_rows(tmp_path / "embeddings.npy", tmp_path / "table.csv", min_rows=1)


def test_score_and_fields_come_from_the_table_in_its_order(tmp_path):
    rows = read(tmp_path, TABLE)
    assert rows.score.tolist() == [0.25, 0.5, 1.0]
    assert rows.fields == {"view_position": ("PA", "AP", "PA")}
    assert (len(rows), rows.with_fields) == (3, 3)


def test_chosen_rows_stay_together(tmp_path):
    rows = read(tmp_path, TABLE).take(np.array([2, 1]))
    assert rows.embedding.tolist() == [[4, 5], [2, 3]]
    assert rows.score.tolist() == [1.0, 0.5]
    assert rows.fields == {"view_position": ("PA", "AP")}


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("view_position,probability\nPA,1\n", r"table\.csv has 1 rows, embeddings\.npy has 3"),
        ("view_position\nPA\nAP\nPA\n", "row 0 has no number in column probability"),
        (TABLE.replace("0.5", "high"), "row 1 has no number in column probability"),
        (TABLE.replace("0.5", "nan"), "row 1: probability is not finite"),
        (TABLE.replace("AP,0.5", "AP"), "row 1 has not as many values as the header"),
        (TABLE.replace("AP,0.5", "AP,0.5,7"), "row 1 has not as many values as the header"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_its_row(tmp_path, table, sentence):
    with pytest.raises(GuardError, match=sentence):
        read(tmp_path, table)


def test_a_missing_table_is_named(tmp_path):
    np.save(tmp_path / "embeddings.npy", np.ones((3, 2), dtype=np.float32))
    with pytest.raises(GuardError, match=r"table\.csv is missing"):
        read_rows(tmp_path / "embeddings.npy", tmp_path / "table.csv", min_rows=1)

"""Embeddings are checked before they are tested, and the guard's errors arrive as sentences."""

import stat

import numpy as np
import pytest

from hounsfield.drift import command
from hounsfield.drift.embeddings import read_embeddings
from hounsfield.errors import GuardError


def saved(tmp_path, values):
    np.save(tmp_path / "batch.npy", values)
    return tmp_path / "batch.npy"


def test_embeddings_are_read_as_float32(tmp_path):
    values = read_embeddings(saved(tmp_path, np.ones((6, 3), dtype=np.float64)), min_rows=5)
    assert values.dtype == np.float32
    assert values.shape == (6, 3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.ones(6), r"shape \(6,\)"),
        (np.ones((6, 3), dtype=np.int64), "dtype int64"),
        (np.ones((4, 3)), "has 4 rows; at least 5 are needed"),
        (np.array([[1.0], [1.0], [np.nan], [1.0], [1.0]]), "row 2 has a value that is not finite"),
        (np.array([[None]], dtype=object), r"no \.npy file of numbers"),
    ],
)
def test_what_is_no_embedding_is_refused(tmp_path, values, sentence):
    with pytest.raises(GuardError, match=sentence):
        read_embeddings(saved(tmp_path, values), min_rows=5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(GuardError, match=r"batch\.npy is missing"):
        read_embeddings(tmp_path / "batch.npy", min_rows=5)


def test_a_guard_environment_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GuardError, match="does not exist; make it, or set HOUNSFIELD_GUARD_PYTHON"):
        command.score(tmp_path, tmp_path / "batch.npy", tmp_path / "python")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo first >&2; echo the last line >&2; exit 2", "hounsfield.drift.score failed: the last line"),
        ("exit 3", "exit code 3"),
        ("echo no json", "is not JSON"),
    ],
)
def test_a_guard_that_fails_is_quoted_by_its_last_line(tmp_path, script, sentence):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(GuardError, match=sentence):
        command.score(tmp_path, tmp_path / "batch.npy", python)


def test_the_guard_gets_our_source_and_not_the_packages_of_the_main_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere/site-packages")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "\\"$PYTHONPATH\\""\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    assert command.score(tmp_path, tmp_path / "batch.npy", python).endswith("/src")

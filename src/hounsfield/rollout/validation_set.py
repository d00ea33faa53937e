"""The frozen validation set that the gate replays: DICOM files, `cases.csv` and `truth.csv`.

    cases.csv  file,patient,patient_sex,age_band,...   what the gate reads: one row a file
    truth.csv  file,label                              what its client tells it afterwards, by feedback

`file` is relative to the folder, as in `dicom/2.25.17.dcm`; `patient` is a number, the same for all images of
one patient; the rest are the groups of `dicom.groups`; `label` is negative or positive. The files are those
that ingest de-identified.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.config import CLASS_NAMES
from hounsfield.errors import DataError

CASES_FILE, TRUTH_FILE = "cases.csv", "truth.csv"
_LABELS = {name: label for label, name in enumerate(CLASS_NAMES)}


@dataclass(frozen=True)
class FrozenSet:
    """The N cases in the order of the file: `names` as the table has them, and the `files` themselves.

    `patient` (N,) whole numbers; `groups` of each attribute, text (N,).
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    patient: np.ndarray
    groups: Mapping[str, np.ndarray]

    def labels(self, truth: Mapping[str, Any]) -> np.ndarray:
        """0 or 1 of each case (N,), from its name's label; DataError unless `truth` has just these cases."""
        if set(truth) != set(self.names):
            missing, extra = len(set(self.names) - set(truth)), len(set(truth) - set(self.names))
            raise DataError(
                f"the truths do not fit the validation set: {missing} cases have none, {extra} are of no case"
            )
        for row, name in enumerate(self.names, start=1):
            if truth[name] not in _LABELS:
                raise DataError(f"the truth of case {row} is not one of {', '.join(CLASS_NAMES)}")
        return np.array([_LABELS[truth[name]] for name in self.names])

    def digest(self, label: np.ndarray) -> str:
        """SHA-256 of every case with its groups and `label` (N,): which set, to the byte, was replayed."""
        whole = hashlib.sha256()
        for row, (name, file) in enumerate(zip(self.names, self.files, strict=True)):
            groups = [f"{attribute}={self.groups[attribute][row]}" for attribute in sorted(self.groups)]
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(repr((name, content, int(self.patient[row]), groups, int(label[row]))).encode())
        return whole.hexdigest()


def freeze(
    dataset: Path,
    out: Path,
    groups_of: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda header: {},
    split: str = "validation",
) -> int:
    """Copy `split` of an ingested dataset to `out`, replacing what is there; the number of cases.

    `groups_of` gives the groups of one row of the index.
    """
    import pandas  # reads parquet: the main environment only

    index = pandas.read_parquet(dataset / "index.parquet")
    rows = index[index["split"] == split].sort_values("file")
    if rows.empty:
        raise DataError(
            f"the dataset has no image in the split {split!r}, so there is nothing for the gate to replay"
        )
    # Numbers in place of pseudonyms: the gate has to know which images belong together, and no more.
    patient = pandas.factorize(rows["patient_id"])[0]
    headers = rows.astype(object).where(rows.notna(), None).to_dict("records")
    groups = [dict(groups_of(header)) for header in headers]
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".validation-", dir=out.parent))
    try:
        for name in rows["file"]:
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dataset / name, target)
        named = list(zip(rows["file"], patient, groups, strict=True))
        _write(
            draft / CASES_FILE,
            ["file", "patient", *groups[0]],
            ([name, number, *group.values()] for name, number, group in named),
        )
        truths = (
            [name, CLASS_NAMES[int(label)]] for name, label in zip(rows["file"], rows["label"], strict=True)
        )
        _write(draft / TRUTH_FILE, ["file", "label"], truths)
        if out.exists():
            shutil.rmtree(out)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(rows)


def read(folder: Path) -> FrozenSet:
    """The cases of `folder`; raises DataError that names the row, never the image."""
    names, files, patients = [], [], []
    groups: dict[str, list[str]] = {}
    for where, values in _rows(folder, CASES_FILE, ("file", "patient")):
        name, patient = values.pop("file"), values.pop("patient")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise DataError(f"{where}: the file it names is not in the validation set")
        if not patient.isdecimal():
            raise DataError(f"{where}: the patient is no number")
        if name in names:
            raise DataError(f"{where}: the file it names stands there twice")
        names.append(name)
        files.append(path)
        patients.append(int(patient))
        for attribute, group in values.items():
            groups.setdefault(attribute, []).append(group)
    return FrozenSet(
        tuple(names),
        tuple(files),
        np.array(patients),
        {attribute: np.array(found) for attribute, found in groups.items()},
    )


def read_truth(folder: Path) -> dict[str, str]:
    """The label of each case of `folder` by its name; raises DataError that names the row."""
    truth = {}
    for where, values in _rows(folder, TRUTH_FILE, ("file", "label")):
        if values["label"] not in _LABELS:
            raise DataError(f"{where}: the label is not one of {', '.join(CLASS_NAMES)}")
        truth[values["file"]] = values["label"]
    return truth


def _rows(folder: Path, name: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    table, count = folder / name, 0
    if not table.is_file():
        raise DataError(
            f"the validation set has no {name}; hounsfield.rollout.validation_set.freeze writes it"
        )
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise DataError(f"{name} must have the columns {' and '.join(columns)}")
        for count, values in enumerate(reader, start=1):
            where = f"{name} row {count + 1}"
            if None in values or None in values.values():
                raise DataError(f"{where} has not as many values as the header")
            yield where, values
    if not count:
        raise DataError(f"{name} has no rows")


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)

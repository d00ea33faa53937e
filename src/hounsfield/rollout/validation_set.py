"""The frozen validation set that the gate replays: `truth.csv` (columns `file,label`) and the DICOM files it
names.

`file` is relative to the folder, as in `dicom/2.25.17.dcm`; `label` is negative or positive. The files are
those that ingest de-identified.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hounsfield.config import CLASS_NAMES
from hounsfield.errors import DataError

TRUTH_FILE = "truth.csv"


@dataclass(frozen=True)
class Case:
    """One file of the set with its truth: 0 negative, 1 positive."""

    path: Path
    label: int


def freeze(dataset: Path, out: Path, split: str = "validation") -> int:
    """Copy `split` of an ingested dataset to `out`, replacing what is there; the number of cases."""
    import pandas  # reads parquet: the main environment only

    index = pandas.read_parquet(dataset / "index.parquet", columns=["file", "label", "split"])
    rows = index[index["split"] == split].sort_values("file")
    if rows.empty:
        raise DataError(
            f"the dataset has no image in the split {split!r}, so there is nothing for the gate to replay"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".validation-", dir=out.parent))
    try:
        with (draft / TRUTH_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label"])
            for name, label in zip(rows["file"], rows["label"], strict=True):
                target = draft / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(dataset / name, target)
                writer.writerow([name, CLASS_NAMES[int(label)]])
        if out.exists():
            shutil.rmtree(out)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(rows)


def read(folder: Path) -> list[Case]:
    """The cases in the order of the file; raises DataError that names the row, never the image."""
    table = folder / TRUTH_FILE
    if not table.is_file():
        raise DataError(
            f"the validation set has no {TRUTH_FILE}; write it with hounsfield.rollout.validation_set.freeze"
        )
    labels = {**{name: label for label, name in enumerate(CLASS_NAMES)}, "0": 0, "1": 1}
    cases = []
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise DataError(f"{TRUTH_FILE} must have the columns file and label")
        for row, values in enumerate(reader, start=2):
            where = f"{TRUTH_FILE} row {row}"
            path = (folder / (values["file"] or "")).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                raise DataError(f"{where}: the file it names is not in the validation set")
            if values["label"] not in labels:
                raise DataError(f"{where}: the label is not one of {', '.join(CLASS_NAMES)}")
            cases.append(Case(path, labels[values["label"]]))
    if not cases:
        raise DataError(f"{TRUTH_FILE} has no rows")
    return cases

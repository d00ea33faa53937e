"""Shards and labels to one data set: index, quarantine, split and profile.

Tables are Arrow's, which hold a row in some hundred bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hounsfield.data.examine import INTENSITY_PERCENTILES, Rules
from hounsfield.data.expectations import CATEGORIES as CATEGORIES_OF_IMAGES
from hounsfield.data.expectations import check, load_expectations
from hounsfield.data.fingerprint import dataset_fingerprint
from hounsfield.data.folder import link, whole_folder
from hounsfield.data.journal import IMAGES, read_journal
from hounsfield.data.labels import Labels, load_labels
from hounsfield.data.profile import CATEGORIES, NUMBERS, profile
from hounsfield.data.split import assign_splits
from hounsfield.dicom.quarantine import Reason
from hounsfield.errors import DataError

MARKER = "dataset.json"

_TEXT = (
    "sop_instance_uid", "study_instance_uid", "patient_id", "file", "modality", "manufacturer",
    "view_position", "patient_sex", "photometric_interpretation", "transfer_syntax_uid", "site", "sha256",
)  # fmt: skip
_WHOLE = ("label", "rows", "columns", "bits_stored")
_REAL = ("age_years", "pixel_spacing_mm", *INTENSITY_PERCENTILES)
INDEX_COLUMNS = (
    "sop_instance_uid", "study_instance_uid", "patient_id", "file", "label", "split",
    "modality", "manufacturer", "view_position", "patient_sex", "age_years", "rows", "columns", "bits_stored",
    "photometric_interpretation", "transfer_syntax_uid", "pixel_spacing_mm", *INTENSITY_PERCENTILES, "site",
    "sha256",
)  # fmt: skip
QUARANTINE_COLUMNS = ("sha256", "size_bytes", "reason", "detail")

_IMAGE = pa.schema(
    [(name, pa.string()) for name in (*_TEXT, "source")]
    + [(name, pa.int64()) for name in (*_WHOLE, "source_bytes")]
    + [(name, pa.float64()) for name in _REAL]
)
"""A row of the index and, beside it, the file of the shard that holds the image, and its object's size."""
_REFUSED = pa.schema(
    [("sha256", pa.string()), ("size_bytes", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
)
_ROWS_A_BATCH, _ROWS_A_GROUP = 1000, 2000

# A file of which nothing could be read may still be the image that a label names.
_PERHAPS_LABELLED = frozenset({Reason.UNREADABLE, Reason.DECODER_ABORTED, Reason.DECODE_TIMEOUT})


@dataclass(frozen=True)
class IngestSummary:
    """Counts of one ingest; `positives` among the accepted, `fingerprint` of files and labels."""

    accepted: int
    quarantined: int
    by_reason: dict[str, int]
    by_split: dict[str, int]
    positives: int
    fingerprint: str


def collect(
    shards: Sequence[Path],
    labels: Path,
    out: Path,
    rules: Rules,
    seed: int = 7,
    reference: Path | None = None,
) -> IngestSummary:
    """Write the data set of all `shards` (folders of `read_shard`, by the same key) to `out`.

    An object is in `index.parquet` or in `quarantine.parquet`; the labels file itself is left out when it lay
    in the source. Of several objects with one SOP Instance UID, that with the lowest SHA-256 is taken. Raises
    LabelError for a label that fits no object, DataError when the set cannot be used: nothing readable, one
    class only, too few patients, a hard limit of the profile `reference` broken; what only warns is printed.
    `out` appears only when everything went well.
    """
    table = load_labels(labels)
    expected = {} if reference is None else load_expectations(reference)
    with whole_folder(out, MARKER) as folder:
        gathered = _gather(shards, table, rules, hashlib.sha256(labels.read_bytes()).hexdigest())
        if not gathered.accepted and not gathered.reasons[Reason.NO_LABEL]:
            raise DataError(_nothing_readable(gathered.reasons))
        table.check_all_used(gathered.keys_seen, unread=gathered.unread)
        if not gathered.accepted:
            total = gathered.reasons.total()
            raise DataError(f"none of the {total} files has a label: check the column {table.key_column}")
        index, refused = gathered.tables()
        _check_expected(index, expected)
        splits = assign_splits(_frame(index, ("patient_id", "label", "sha256")), seed)
        index = index.append_column("split", pa.array(splits.to_list()))
        _link_images(shards, index, folder)
        summary = _summarise(index, gathered)
        pq.write_table(index.select(INDEX_COLUMNS), folder / "index.parquet", row_group_size=_ROWS_A_GROUP)
        pq.write_table(refused.sort_by("sha256"), folder / "quarantine.parquet")
        described = profile(_frame(index, (*CATEGORIES, *NUMBERS, "patient_id")))
        _write_json(folder / "profile.json", described | {"deidentified": gathered.deidentified})
        record = _dataset_json(summary, described["patients"], seed, gathered.simulated, table.key_column)
        _write_json(folder / MARKER, record)
    return summary


class _Rows:
    """Rows of one schema, kept as Arrow batches."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self._batches, self._rows = schema, [], []

    def add(self, row: dict) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS_A_BATCH:
            self._batches.append(pa.RecordBatch.from_pylist(self._rows, self.schema))
            self._rows = []

    def table(self) -> pa.Table:
        rest = pa.RecordBatch.from_pylist(self._rows, self.schema)
        return pa.Table.from_batches([*self._batches, rest], self.schema)


@dataclass
class _Gathered:
    """What the journals hold, against the labels."""

    images: _Rows = field(default_factory=lambda: _Rows(_IMAGE))
    refused: _Rows = field(default_factory=lambda: _Rows(_REFUSED))
    reasons: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    keys_seen: set[str] = field(default_factory=set)
    unread: int = 0
    simulated: bool = False
    deidentified: dict = field(default_factory=dict)

    def refuse(self, sha256: str, size_bytes: int, reason: str, detail: str) -> None:
        self.reasons[reason] += 1
        self.refused.add({"sha256": sha256, "size_bytes": size_bytes, "reason": reason, "detail": detail})

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Images, each SOP Instance UID once, in its order; and the refused, duplicates among them.

        The rows leave this object, so that they are not held twice.
        """
        images, self.images = self.images.table(), _Rows(_IMAGE)
        order = pc.sort_indices(images, [("sop_instance_uid", "ascending"), ("sha256", "ascending")])
        uids = images["sop_instance_uid"].take(order).combine_chunks()
        again = pa.concat_arrays([pa.array([False]), pc.equal(uids[1:], uids[:-1])]).slice(0, len(uids))
        twice = images.select(["sha256", "source_bytes"]).take(order.filter(again))
        for row in twice.to_pylist():
            self.refuse(
                row["sha256"],
                row["source_bytes"],
                Reason.DUPLICATE,
                "another file with the same SOP Instance UID was taken",
            )
        order, columns = order.filter(pc.invert(again)), {}
        for name in _IMAGE.names:  # one by one, so that no more than a column is there twice
            columns[name] = images[name].take(order)
            images = images.drop_columns([name])
        pa.default_memory_pool().release_unused()
        return pa.table(columns), self.refused.table()


def _gather(shards: Sequence[Path], table: Labels, rules: Rules, labels_sha256: str) -> _Gathered:
    keys = {rules.digest_of(table.key_column, key): key for key in table.by_key}
    gathered = _Gathered()
    for number, folder in enumerate(shards):
        head, records = read_journal(folder)
        gathered.simulated |= head["simulated"]
        gathered.deidentified = head["deidentified"]
        for record in records:
            key = keys.get(record["matches"].get(table.key_column, ""))
            if key is not None:
                gathered.keys_seen.add(key)
            if record["refusal"]:
                _gather_refused(gathered, record, labels_sha256)
            elif key is None:
                gathered.refuse(
                    record["sha256"],
                    record["size_bytes"],
                    Reason.NO_LABEL,
                    f"no row of the labels file has its {table.key_column}",
                )
            else:
                for image in record["images"]:
                    gathered.accepted += 1
                    gathered.images.add(
                        {
                            **image,
                            "file": f"dicom/{image['sop_instance_uid']}.dcm",
                            "source": f"{number}/{image['file']}",
                            "source_bytes": record["size_bytes"],
                            "sha256": record["sha256"],
                            "label": table.by_key[key],
                            "site": table.sites.get(key, ""),
                        }
                    )
    return gathered


def _gather_refused(gathered: _Gathered, record: dict, labels_sha256: str) -> None:
    reason, detail = record["refusal"]
    if record["sha256"] == labels_sha256:
        return
    if reason in _PERHAPS_LABELLED and not record["matches"]:
        gathered.unread += 1
    gathered.refuse(record["sha256"], record["size_bytes"], reason, detail)


def _link_images(shards: Sequence[Path], index: pa.Table, folder: Path) -> None:
    (folder / "dicom").mkdir()
    for batch in index.select(["source", "file"]).to_batches(_ROWS_A_BATCH):
        for row in batch.to_pylist():
            number, _, name = row["source"].partition("/")
            link(shards[int(number)] / IMAGES / name, folder / row["file"])


def _check_expected(index: pa.Table, expected: Mapping) -> None:
    if not expected:
        return
    findings = check(_frame(index, (*CATEGORIES_OF_IMAGES, *NUMBERS)), expected)
    for finding in findings:
        print(finding)
    failed = [finding for finding in findings if finding.hard]
    if failed:
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        first = f"{failed[0].field}: {failed[0].said}{others}"
        raise DataError(f"the data is not what its reference profile expects: {first}")


def _frame(table: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    return table.select(list(columns)).to_pandas()


def _nothing_readable(reasons: Counter[str]) -> str:
    said = "; ".join(
        f"{count} {reason} ({Reason(reason).meaning.rstrip('.')})" for reason, count in reasons.most_common(3)
    )
    return f"none of the {reasons.total()} files is a readable radiograph: {said}"


def _summarise(index: pa.Table, gathered: _Gathered) -> IngestSummary:
    labels = index["label"].to_pylist()
    return IngestSummary(
        accepted=len(index),
        quarantined=gathered.reasons.total(),
        by_reason={str(reason): count for reason, count in sorted(gathered.reasons.items())},
        by_split=dict(Counter(index["split"].to_pylist()).most_common()),
        positives=sum(labels),
        fingerprint=dataset_fingerprint(zip(index["sha256"].to_pylist(), labels, strict=True)),
    )


def _dataset_json(summary: IngestSummary, patients: int, seed: int, simulated: bool, key_column: str) -> dict:
    return {
        "fingerprint": summary.fingerprint,
        "counts": {
            "accepted": summary.accepted,
            "quarantined": summary.quarantined,
            "positives": summary.positives,
            "patients": patients,
            "by_reason": summary.by_reason,
            "by_split": summary.by_split,
        },
        "labelled_by": key_column,
        "seed": seed,
        "sample": simulated,
    }


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")

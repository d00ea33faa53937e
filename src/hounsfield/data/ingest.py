"""From a folder and a labels file to a data set: every file is accepted or quarantined, with a reason."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from hounsfield.data.fingerprint import dataset_fingerprint, file_sha256, list_files
from hounsfield.data.folder import whole_folder
from hounsfield.data.labels import KEY_COLUMNS, Labels, load_labels
from hounsfield.data.profile import profile
from hounsfield.data.sample import is_simulated
from hounsfield.data.split import assign_splits
from hounsfield.dicom.deidentify import deidentify
from hounsfield.dicom.parsing import load, parse
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import RADIOGRAPHS, decode_image
from hounsfield.dicom.sandbox import Sandbox
from hounsfield.errors import DataError
from hounsfield.progress import Reporter

INDEX_COLUMNS = (
    "sop_instance_uid", "study_instance_uid", "patient_id", "file", "label", "split",
    "modality", "manufacturer", "view_position", "patient_sex", "age_years", "rows", "columns", "bits_stored",
    "photometric_interpretation", "transfer_syntax_uid", "pixel_spacing_mm", "sha256",
)  # fmt: skip
QUARANTINE_COLUMNS = ("sha256", "size_bytes", "reason", "detail")
MARKER = "dataset.json"


@dataclass(frozen=True)
class IngestSummary:
    """Counts of one ingest; `positives` among the accepted, `fingerprint` of files and labels."""

    accepted: int
    quarantined: int
    by_reason: dict[str, int]
    by_split: dict[str, int]
    positives: int
    fingerprint: str


@dataclass(frozen=True)
class _Examined:
    """What a worker found in one file. `identifiers` are the patient's: they never leave the memory."""

    sha256: str
    size_bytes: int
    identifiers: dict[str, str] = field(default_factory=dict, repr=False)
    refusal: tuple[str, str] | None = None
    row: dict[str, object] = field(default_factory=dict)
    written: Path | None = None


def ingest(
    source: Path,
    labels: Path,
    out: Path,
    key: bytes,
    seed: int = 7,
    workers: int = 2,
    allowed_sop_classes: frozenset[str] = RADIOGRAPHS,
) -> IngestSummary:
    """Read every file below `source`, write the data set to `out` (see README of the step for its files).

    `source` is only read. Each file ends in `index.parquet` or in `quarantine.parquet`; the labels file
    itself is left out when it lies in the folder. Raises LabelError for a label that fits no file,
    DataError when the set cannot be used: no file, nothing readable, one class only, too few patients.
    `out` appears only when everything went well.
    """
    table = load_labels(labels)
    files = [path for path in list_files(source) if not path.samefile(labels)]
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"the output folder {out.name} lies in the data folder: choose one outside of it")
    with whole_folder(out, MARKER) as folder:
        (folder / "dicom").mkdir()
        accepted, quarantined, keys_seen = _examine_all(
            files, table, folder / "dicom", key, workers, allowed_sop_classes
        )
        if not accepted and all(entry["reason"] != Reason.NO_LABEL for entry in quarantined):
            raise DataError(_nothing_readable(quarantined))
        table.check_all_used(keys_seen)
        if not accepted:
            raise DataError(
                f"none of the {len(files)} files has a label: check the column {table.key_column}"
            )
        index = pd.DataFrame(accepted).sort_values("sop_instance_uid", ignore_index=True)
        index["split"] = assign_splits(index, seed)
        summary = _summarise(index, quarantined)
        index[list(INDEX_COLUMNS)].to_parquet(folder / "index.parquet", index=False)
        refused = pd.DataFrame(quarantined, columns=list(QUARANTINE_COLUMNS))
        refused.sort_values("sha256").to_parquet(folder / "quarantine.parquet", index=False)
        _write_json(folder / "profile.json", profile(index))
        _write_json(
            folder / MARKER, _dataset_json(summary, index, seed, is_simulated(source), table.key_column)
        )
    return summary


def _examine_all(
    files: list[Path], table: Labels, dicom: Path, key: bytes, workers: int, allowed: frozenset[str]
) -> tuple[list[dict], list[dict], set[str]]:
    """Rows of the index, rows of the quarantine, and the label keys met in any header."""
    accepted: list[dict] = []
    quarantined: list[dict] = []
    keys_seen: set[str] = set()
    uids: set[object] = set()
    progress = Reporter("ingest", len(files))
    work = functools.partial(_examine, key=key, out=dicom, allowed=allowed)
    with Sandbox(workers) as sandbox:
        for done, ((number, path), result) in enumerate(sandbox.map(work, enumerate(files)), start=1):
            examined = _after_crash(sandbox, path, result) if isinstance(result, Refused) else result
            keys_seen.add(examined.identifiers.get(table.key_column, ""))
            label = table.find(examined.identifiers)
            refusal = examined.refusal
            if refusal is None and label is None:
                refusal = (Reason.NO_LABEL, f"no row of the labels file has its {table.key_column}")
            if refusal is None and examined.row["sop_instance_uid"] in uids:
                refusal = (Reason.DUPLICATE, "a file with the same SOP Instance UID came before")
            if refusal is None:
                uids.add(examined.row["sop_instance_uid"])
                file = f"dicom/{examined.row['sop_instance_uid']}.dcm"
                examined.written.rename(dicom.parent / file)
                accepted.append({**examined.row, "file": file, "label": label, "sha256": examined.sha256})
            else:
                (dicom / f"{number}.part").unlink(missing_ok=True)
                quarantined.append(
                    dict(
                        zip(QUARANTINE_COLUMNS, (examined.sha256, examined.size_bytes, *refusal), strict=True)
                    )
                )
            progress.update(done, f"files, {len(quarantined)} quarantined")
    return accepted, quarantined, keys_seen


def _examine(job: tuple[int, Path], key: bytes, out: Path, allowed: frozenset[str]) -> _Examined:
    """In a worker: decode one file, and write it without the patient as `<number>.part`."""
    number, path = job
    identifiers: dict[str, str] = {}
    data = b""
    try:
        data = load(path)
        dataset = parse(data)
        identifiers = _identifiers(dataset)
        image = decode_image(dataset, allowed)
        for keyword in KEY_COLUMNS:
            if keyword not in identifiers:
                raise Refused(Reason.MISSING_ATTRIBUTE, f"{keyword} is missing or empty")
        # CID of PS3.3 C.7.6.1.1.5: the sender itself says that the pixels name the patient.
        if str(dataset.get("BurnedInAnnotation", "")) == "YES":
            raise Refused(Reason.BURNED_IN_TEXT, "BurnedInAnnotation is YES")
        clean = deidentify(dataset, key)
        row = {
            "sop_instance_uid": str(clean.SOPInstanceUID),
            "study_instance_uid": str(clean.StudyInstanceUID),
            "patient_id": str(clean.PatientID),
            **image.attributes,
        }
    except Refused as refusal:
        sha256, size = (hashlib.sha256(data).hexdigest(), len(data)) if data else _hash_of(path)
        return _Examined(sha256, size, identifiers, (refusal.reason, refusal.detail))
    written = out / f"{number}.part"
    clean.save_as(written, enforce_file_format=True)
    return _Examined(hashlib.sha256(data).hexdigest(), len(data), identifiers, None, row, written)


def _after_crash(sandbox: Sandbox, path: Path, refusal: Refused) -> _Examined:
    """The decoder took its worker along: look at the header alone, so that the label still counts as met."""
    try:
        identifiers = sandbox.call(_identify, path)
    except Refused:
        identifiers = {}
    sha256, size = _hash_of(path)
    return _Examined(sha256, size, identifiers, (refusal.reason, refusal.detail))


def _identify(path: Path) -> dict[str, str]:
    return _identifiers(parse(load(path)))


def _identifiers(dataset: object) -> dict[str, str]:
    found = {keyword: str(dataset.get(keyword, "") or "").strip() for keyword in KEY_COLUMNS}
    return {keyword: value for keyword, value in found.items() if value}


def _hash_of(path: Path) -> tuple[str, int]:
    try:
        return file_sha256(path), path.stat().st_size
    except OSError:
        return "", 0


def _nothing_readable(quarantined: list[dict]) -> str:
    reasons = Counter(Reason(entry["reason"]) for entry in quarantined).most_common(3)
    said = "; ".join(f"{count} {reason} ({reason.meaning.rstrip('.')})" for reason, count in reasons)
    return f"none of the {len(quarantined)} files is a readable radiograph: {said}"


def _summarise(index: pd.DataFrame, quarantined: list[dict]) -> IngestSummary:
    return IngestSummary(
        accepted=len(index),
        quarantined=len(quarantined),
        by_reason=dict(sorted(Counter(str(entry["reason"]) for entry in quarantined).items())),
        by_split={str(split): int(count) for split, count in index["split"].value_counts().items()},
        positives=int(index["label"].sum()),
        fingerprint=dataset_fingerprint(zip(index["sha256"], index["label"], strict=True)),
    )


def _dataset_json(
    summary: IngestSummary, index: pd.DataFrame, seed: int, simulated: bool, key_column: str
) -> dict:
    return {
        "fingerprint": summary.fingerprint,
        "counts": {
            "accepted": summary.accepted,
            "quarantined": summary.quarantined,
            "positives": summary.positives,
            "patients": int(index["patient_id"].nunique()),
            "by_reason": summary.by_reason,
            "by_split": summary.by_split,
        },
        "labelled_by": key_column,
        "seed": seed,
        "sample": simulated,
    }


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")

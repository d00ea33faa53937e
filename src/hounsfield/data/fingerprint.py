"""What a data set is, in one number: a change of any file or label changes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hounsfield.data.sources import open_source
from hounsfield.data.sources.folder import Folder
from hounsfield.errors import DataError, LabelError


def dataset_fingerprint(pairs: Iterable[tuple[str, int]]) -> str:
    """SHA-256 over the sorted (SHA-256 of the source file, label) of every accepted image."""
    lines = sorted(f"{sha256} {label}\n" for sha256, label in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def source_fingerprint(source: str | Path, labels: Path) -> str:
    """A quick hash of what lies in `source` (names, sizes, times of change) and of the labels' content.

    It does not read the images: it is the pipeline's cache key, so that changed inputs are ingested again.
    """
    digest, empty = hashlib.sha256(), True
    for item in open_source(source).items():
        empty = False
        digest.update(f"{item.name}\0{item.version}\n".encode(errors="surrogateescape"))
    if empty:
        raise DataError(f"data source {source} is empty: put DICOM files into it")
    try:
        digest.update(labels.read_bytes())
    except OSError as error:
        raise LabelError(f"labels file {labels.name} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted. Raises DataError when there is no folder or no file."""
    files = [folder / item.name for item in Folder(folder).items()]
    if not files:
        raise DataError(f"data folder {folder} is empty: put DICOM files into it")
    return files


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

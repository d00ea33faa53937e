"""What a data set is, in one number: a change of any file or label changes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hounsfield.errors import DataError, LabelError


def dataset_fingerprint(pairs: Iterable[tuple[str, int]]) -> str:
    """SHA-256 over the sorted (SHA-256 of the source file, label) of every accepted image."""
    lines = sorted(f"{sha256} {label}\n" for sha256, label in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def source_fingerprint(folder: Path, labels: Path) -> str:
    """A quick hash of what lies in `folder` (names, sizes, times of change) and of the labels' content.

    It does not read the images: it is the pipeline's cache key, so that changed inputs are ingested again.
    """
    digest = hashlib.sha256()
    for path in list_files(folder):
        status = path.stat()
        digest.update(
            f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="replace")
        )
    try:
        digest.update(labels.read_bytes())
    except OSError as error:
        raise LabelError(f"labels file {labels.name} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Every file below `folder`, sorted. Raises DataError when there is no folder or no file."""
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist or is not a folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise DataError(f"data folder {folder} is empty: put DICOM files into it")
    return files


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

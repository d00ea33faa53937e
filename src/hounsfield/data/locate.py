"""Find the file that a quarantine entry speaks of; the entry holds no path, for a path may name a patient."""

from __future__ import annotations

import re
from pathlib import Path

from hounsfield.data.fingerprint import file_sha256, list_files
from hounsfield.errors import DataError

MIN_PREFIX = 8


def locate(sha256: str, folder: Path) -> list[Path]:
    """Files below `folder` whose SHA-256 is, or begins with, `sha256` (at least 8 hexadecimal digits)."""
    wanted = sha256.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},64}}", wanted):
        raise DataError(f"{sha256!r} is not a SHA-256: give at least {MIN_PREFIX} hexadecimal digits")
    found = [path for path in list_files(folder) if file_sha256(path).startswith(wanted)]
    if not found:
        raise DataError(f"no file below {folder} has the SHA-256 {wanted}: was it moved or changed?")
    return found

"""A model's detectors beside the inference log that it writes: `LOG/detectors/<package digest>/`.

The predictor puts them there when it starts (`hounsfield.serving.detectors`), so that the worker needs
neither the model store nor its credentials, and no restart when a rollout changes what is served. The folder
holds the package's manifest and its `detectors/`. The digest in each record of the chained log is the SHA-256
of that manifest, and the manifest has that of every file: what is not from the package is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hounsfield.drift.detectors import Detectors
from hounsfield.errors import GuardError

FOLDER = "detectors"
MANIFEST = "manifest.json"


def find(log: Path, digest: str) -> Path | None:
    """The folder of the model `digest` beside the log; None when the model came without detectors."""
    folder = log / FOLDER / digest
    return folder if digest and (folder / MANIFEST).is_file() else None


def load(folder: Path, digest: str) -> Detectors:
    """The detectors in `folder`, each byte of them as it was packaged. Raises GuardError."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
        files = json.loads(manifest)["files"]
        listed = {name: entry["sha256"] for name, entry in files.items() if name.startswith(f"{FOLDER}/")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise GuardError(f"{folder}: {MANIFEST} is missing, or is no package's manifest") from None
    if hashlib.sha256(manifest).hexdigest() != digest:
        raise GuardError(f"{folder}: {MANIFEST} is not that of the model {digest[:12]}")
    present = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / FOLDER).rglob("*")
        if path.is_file()
    }
    for name in sorted(listed.keys() | present.keys()):
        if listed.get(name) != present.get(name):
            raise GuardError(f"{folder}: {name} is not the file that was packaged")
    return Detectors.load(folder / FOLDER)

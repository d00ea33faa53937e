"""Reading a model package. A package that is altered, short or has one file too many is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hounsfield.config import CLASS_NAMES, from_mapping
from hounsfield.errors import ConfigError, PackageError
from hounsfield.imaging.contract import ImageContract

MANIFEST = "manifest.json"
MODEL = "model.onnx"
MODEL_RECORD = "model.json"
METRICS = "metrics.json"
PROFILE = "profile.json"
CARD = "MODEL_CARD.md"
DETECTORS = "detectors"


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """`model.json`: how to read the network's logit, and where the model is from.

    `threshold` and `review_band` (low, high) are calibrated probabilities; the band includes both ends.
    """

    name: str
    architecture: str
    class_names: tuple[str, ...]
    threshold: float
    temperature: float
    review_band: tuple[float, float]
    lineage: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "review_band", tuple(self.review_band))
        if self.class_names != CLASS_NAMES:
            raise ConfigError(f"{MODEL_RECORD}: class_names {self.class_names!r} are not {CLASS_NAMES!r}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"{MODEL_RECORD}: threshold {self.threshold!r} is not in 0 to 1")
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(f"{MODEL_RECORD}: temperature {self.temperature!r} is not a positive number")
        if len(self.review_band) != 2 or not 0.0 <= self.review_band[0] <= self.review_band[1] <= 1.0:
            raise ConfigError(
                f"{MODEL_RECORD}: review_band {self.review_band!r} is not [low, high] in 0 to 1"
            )

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Package:
    """A verified package. `digest` is the SHA-256 of its manifest, and so of every byte in it."""

    path: Path
    digest: str
    contract: ImageContract
    model: ModelRecord

    @property
    def onnx(self) -> Path:
        return self.path / MODEL

    @property
    def detectors(self) -> Path | None:
        """The drift detectors, if the package has any."""
        folder = self.path / DETECTORS
        return folder if folder.is_dir() else None

    @property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`, as the evaluation wrote it."""
        return json.loads((self.path / METRICS).read_text())


def load_package(path: Path) -> Package:
    """Open the package in the folder `path` after checking every file against the manifest.

    Raises PackageError naming the first file that is changed, missing or extra.
    """
    path = Path(path)
    try:
        manifest_bytes = (path / MANIFEST).read_bytes()
    except OSError:
        raise PackageError(f"{path} holds no {MANIFEST}: it is not a model package") from None
    listed = _read_manifest(manifest_bytes)
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} - {MANIFEST}
    for name in sorted(listed.keys() - present):
        raise PackageError(f"model package {path.name}: {name} is missing; fetch the package again")
    for name in sorted(present - listed.keys()):
        raise PackageError(f"model package {path.name}: {name} is not in its manifest; remove it")
    for name, entry in sorted(listed.items()):
        if describe_file(path / name) != entry:
            raise PackageError(f"model package {path.name}: {name} is not the file that was packaged")
    for name in (MODEL, MODEL_RECORD, "contract.json"):
        if name not in listed:
            raise PackageError(f"model package {path.name}: {name} is missing; write the package again")
    try:
        record = from_mapping(ModelRecord, json.loads((path / MODEL_RECORD).read_text()), MODEL_RECORD)
        contract = ImageContract.load(path)
    except (ConfigError, ValueError, TypeError) as error:
        raise PackageError(f"model package {path.name}: {error}") from None
    return Package(path, hashlib.sha256(manifest_bytes).hexdigest(), contract, record)


def describe_file(path: Path) -> dict[str, Any]:
    """The manifest's entry of one file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": sha256, "size": path.stat().st_size}


def _read_manifest(content: bytes) -> dict[str, Any]:
    try:
        files = json.loads(content)["files"]
    except (ValueError, TypeError, KeyError):
        files = None
    if not isinstance(files, dict):
        raise PackageError(f"{MANIFEST} is not a manifest: it has no object 'files'")
    return files

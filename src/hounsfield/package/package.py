"""Reading a model package. A package that is altered, short or has one file too many is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.config import CLASS_NAMES, from_mapping
from hounsfield.errors import ConfigError, PackageError
from hounsfield.imaging.contract import ImageContract
from hounsfield.package.choice import MODEL, EngineChoice
from hounsfield.package.sign import SIGNATURE, verify_package

MANIFEST = "manifest.json"
MODEL_RECORD = "model.json"
ENGINE_RECORD = "engine.json"
METRICS = "metrics.json"
PROFILE = "profile.json"
CARD, CARD_PAGE = "MODEL_CARD.md", "MODEL_CARD.html"
LICENCES = "LICENCES.md"
ONNX_RECORD = "onnx.json"
EXPLANATION, ATTRIBUTIONS = "explanation.json", "attributions.npy"
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
    engine: EngineChoice = dataclasses.field(default_factory=EngineChoice)

    def __post_init__(self) -> None:
        if not isinstance(self.engine, EngineChoice):
            object.__setattr__(self, "engine", from_mapping(EngineChoice, self.engine, MODEL_RECORD))
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

    @property
    def explanation(self) -> dict[str, Any] | None:
        """`explanation.json`: the checks that the engine's attributions were put to; None without any."""
        path = self.path / EXPLANATION
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def attributions(self) -> np.ndarray | None:
        """Of the phantoms, float32 (N, G, G) in logits, or None; `explain.checks.stability` compares them."""
        path = self.path / ATTRIBUTIONS
        return np.load(path, allow_pickle=False) if path.is_file() else None

    @property
    def profile(self) -> dict[str, Any]:
        """`profile.json` of the data that the model was trained on; empty where the package has none."""
        path = self.path / PROFILE
        return json.loads(path.read_text()) if path.is_file() else {}


def load_package(path: Path, verify_key: Path | None = None) -> Package:
    """Open the package in the folder `path` after checking every file against the manifest.

    With `verify_key`, a public key in PEM, every file and the manifest are first checked against the
    signature: an unsigned package, or one that another key signed, is refused. Raises PackageError naming the
    first file that is changed, missing or extra, ConfigError when the key cannot be read.
    """
    path = Path(path)
    try:
        manifest_bytes = (path / MANIFEST).read_bytes()
    except OSError:
        raise PackageError(f"{path} holds no {MANIFEST}: it is not a model package") from None
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    present = describe_files(path)
    del present[MANIFEST]
    if verify_key is not None:
        digests = {name: entry["sha256"] for name, entry in present.items()}
        verify_package(path, {**digests, MANIFEST: digest}, verify_key)
    listed = _read_manifest(manifest_bytes)
    for name in sorted(listed.keys() - present.keys()):
        raise PackageError(f"model package {path.name}: {name} is missing; fetch the package again")
    for name in sorted(present.keys() - listed.keys()):
        raise PackageError(f"model package {path.name}: {name} is not in its manifest; remove it")
    for name, entry in sorted(listed.items()):
        if present[name] != entry:
            raise PackageError(f"model package {path.name}: {name} is not the file that was packaged")
    for name in (MODEL, MODEL_RECORD, "contract.json"):
        if name not in listed:
            raise PackageError(f"model package {path.name}: {name} is missing; write the package again")
    try:
        record = from_mapping(ModelRecord, json.loads((path / MODEL_RECORD).read_text()), MODEL_RECORD)
        contract = ImageContract.load(path)
    except (ConfigError, ValueError, TypeError) as error:
        raise PackageError(f"model package {path.name}: {error}") from None
    if record.engine.file not in listed:
        raise PackageError(f"model package {path.name}: {record.engine.file} is missing; write it again")
    return Package(path, digest, contract, record)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entry of every file in `folder` but the signature, by its name relative to `folder`.

    Raises PackageError for what could hide a file from the list: a link to a folder, a pipe, a dead link.
    """
    entries = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if (file.is_symlink() and file.is_dir()) or not (file.is_file() or file.is_dir()):
            raise PackageError(f"model package {folder.name}: {name} is not a file; remove it")
        if file.is_file() and name != SIGNATURE:
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            entries[name] = {"sha256": sha256, "size": file.stat().st_size}
    return entries


def _read_manifest(content: bytes) -> dict[str, Any]:
    try:
        files = json.loads(content)["files"]
    except (ValueError, TypeError, KeyError):
        files = None
    if not isinstance(files, dict):
        raise PackageError(f"{MANIFEST} is not a manifest: it has no object 'files'")
    return files

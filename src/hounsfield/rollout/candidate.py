"""The package of a candidate as the gate reads it: every byte as it was packaged, signed, and what it says.

The gate runs where model-signing cannot (it needs pydantic 2, Seldon Core pydantic 1). What that writes is a
DSSE envelope with one ECDSA signature, https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md,
so the same check takes `cryptography` alone; a test holds the two to the same answers.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hounsfield.errors import ConfigError, PackageError

MANIFEST, SIGNATURE, ATTRIBUTIONS = "manifest.json", "model.sig", "attributions.npy"
_PAYLOAD_TYPE = b"application/vnd.in-toto+json"


@dataclass(frozen=True)
class Candidate:
    """What a package says of itself: its `model.json`, `profile.json` (of its data) and `contract.json`."""

    digest: str
    model: Mapping[str, Any]
    profile: Mapping[str, Any]
    contract: Mapping[str, Any]

    @property
    def lineage(self) -> Mapping[str, Any]:
        found = self.model.get("lineage")
        return found if isinstance(found, Mapping) else {}


def read_candidate(folder: Path, digest: str, verify_key: Path) -> Candidate:
    """The package `digest` in `folder`, signed with the pair of `verify_key`, an EC public key in PEM.

    Raises PackageError for a package that is another, altered, or not signed with that key, ConfigError for a
    key that cannot be read.
    """
    key, name = _public_key(verify_key), f"model package {digest[:12]}"
    try:
        manifest = (folder / MANIFEST).read_bytes()
        listed = {file: entry["sha256"] for file, entry in json.loads(manifest)["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PackageError(f"{name}: the gate finds no {MANIFEST} of it in {folder}") from None
    if hashlib.sha256(manifest).hexdigest() != digest:
        raise PackageError(f"{name}: the package in {folder} is another one")
    listed[MANIFEST] = digest
    present = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and path != folder / SIGNATURE
    }
    _require_same(f"{name}: {{}} is not the file that was packaged", listed, present)
    _require_same(f"{name}: {{}} is not the file that was signed", _signed(folder, key, name), present)
    return Candidate(
        digest,
        _read(folder, "model.json", name),
        _read(folder, "profile.json", name) if "profile.json" in listed else {},
        _read(folder, "contract.json", name),
    )


def _signed(folder: Path, key: Any, package: str) -> dict[str, str]:
    """SHA-256 of every file that the holder of the key has signed, by its name."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithms = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    try:
        envelope = json.loads((folder / SIGNATURE).read_bytes())["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = (base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"])
        # DSSE's PAE: type and payload, each after its length, so that neither can pass for part of the other.
        message = b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE, len(payload), payload)
        key.verify(signature, message, ec.ECDSA(algorithms[key.curve.key_size]))
        resources = json.loads(payload)["predicate"]["resources"]
        return {entry["name"]: entry["digest"] for entry in resources if entry["algorithm"] == "sha256"}
    except FileNotFoundError:
        raise PackageError(f"{package} is not signed: it holds no {SIGNATURE}") from None
    except InvalidSignature:
        raise PackageError(f"{package}: {SIGNATURE} was not made with the key that the gate knows") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PackageError(f"{package}: {SIGNATURE} is not a signature of model-signing") from None


def _require_same(sentence: str, expected: Mapping[str, str], present: Mapping[str, str]) -> None:
    for name in sorted(expected.keys() | present.keys()):
        if expected.get(name) != present.get(name):
            raise PackageError(sentence.format(name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path, name: str, package: str) -> dict[str, Any]:
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError
    except (OSError, ValueError):
        raise PackageError(f"{package}: {name} is missing, or is no JSON object") from None
    return values


def _public_key(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"verify key {path} cannot be read: {error.strerror}") from None
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"verify key {path} is not an EC public key in PEM")
    return key

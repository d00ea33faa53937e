"""Statements that a person, or the gate, has signed: what they say, and that nobody changed it since.

    {"statement": {...}, "key": "<base64>", "signature": "<base64>"}

Ed25519 (RFC 8032) over the kind and the statement as sorted ASCII JSON. The kind is signed with it, so that
a signature for one purpose is none for another. Keys are named by their 32 bytes in base64.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hounsfield.audit.chain import canonical
from hounsfield.errors import ConfigError, RolloutError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FIELDS = {"statement", "key", "signature"}


def sign(kind: str, statement: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """`statement` (JSON without NaN) as an entry signed with `key`."""
    return {
        "statement": dict(statement),
        "key": key_name(key),
        "signature": base64.b64encode(key.sign(_message(kind, statement))).decode("ascii"),
    }


def verify(kind: str, entry: Any) -> tuple[dict[str, Any], str]:
    """The statement of `entry` and the name of the key that signed it; RolloutError when it does not hold.

    Whose key that is remains to be asked.
    """
    from cryptography.exceptions import InvalidSignature

    if not isinstance(entry, Mapping) or set(entry) != FIELDS or not isinstance(entry["statement"], Mapping):
        raise RolloutError(f"this is no signed {kind}: it needs {', '.join(sorted(FIELDS))}")
    key = public_key(entry["key"])
    try:
        if key is None:
            raise ValueError
        key.verify(base64.b64decode(entry["signature"], validate=True), _message(kind, entry["statement"]))
    except (InvalidSignature, ValueError, TypeError):
        raise RolloutError(
            f"the signature under this {kind} does not hold: it was edited, or is of something else"
        ) from None
    return dict(entry["statement"]), entry["key"]


def key_name(key: Ed25519PrivateKey) -> str:
    """The public key that goes with `key`, as policies and entries write it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode("ascii")


def public_key(name: Any) -> Ed25519PublicKey | None:
    """The key of that name; None when it is no name of a key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.b64decode(name, validate=True)
        # One key, one name: base64 has several spellings of the same bytes.
        return Ed25519PublicKey.from_public_bytes(raw) if base64.b64encode(raw).decode() == name else None
    except (ValueError, TypeError):
        return None


def make_key(path: Path) -> Ed25519PrivateKey:
    """A new private key (PEM, PKCS8) at `path`, readable by its owner only; never in the place of another."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; what it signed would be refused after a change") from None
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key in the PEM file `path`; ConfigError when it holds none."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an unencrypted Ed25519 private key in PEM")
    return key


def ensure_key(path: Path) -> Ed25519PrivateKey:
    """The private key at `path`, made at first need."""
    return load_key(path) if path.exists() else make_key(path)


def _message(kind: str, statement: Mapping[str, Any]) -> bytes:
    return f"hounsfield {kind}\n".encode() + canonical(statement)

"""Signing a package, and refusing one whose signature does not hold.

`model.sig` is a Sigstore bundle written by OpenSSF's `model-signing` in key mode (EC P-256): a signed list of
the SHA-256 of every other file. Its own command line reads ours and writes what we read:
`model_signing verify key PACKAGE --signature PACKAGE/model.sig --public_key signing.pub`.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hounsfield.errors import ConfigError, PackageError

SIGNATURE = "model.sig"
PRIVATE_KEY, PUBLIC_KEY = "signing.key", "signing.pub"


def ensure_keys(folder: Path) -> tuple[Path, Path]:
    """The private and the public key in `folder` (PEM), made there when there are none.

    The private one is readable by its owner only, and never replaced: what it signed would be refused.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = Path(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    if not private.exists():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        draft = _draft(folder, pem)  # 0600 from its first byte on
        try:
            os.link(draft, private)  # fails where a run beside this one was first: its key is the key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    if not public.exists():
        key = _read_private_key(private)
        pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        draft = _draft(folder, pem)
        draft.chmod(0o644)
        draft.replace(public)
    return private, public


def signing_key(named: str | None) -> Path:
    """The private key's file, once it is known to hold one. Raises ConfigError, also when none is named."""
    if not named:
        raise ConfigError("no signing key was given: name a file that holds an EC private key in PEM")
    _read_private_key(Path(named))
    return Path(named)


def sign_package(folder: Path, private_key: Path) -> None:
    """Write `model.sig` into the package `folder`, over every other file in it; an older one is replaced.

    Raises ConfigError when `private_key` is not an EC key that can be read.
    """
    from model_signing import hashing, signing

    _read_private_key(Path(private_key))
    # Nothing but the signature itself stays out, not even the git files that model-signing leaves out.
    hashes = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key).set_hashing_config(hashes)
    with tempfile.TemporaryDirectory(prefix=".signing-", dir=folder.parent) as work:
        draft = Path(work) / SIGNATURE
        signer.sign(folder, draft)
        draft.replace(folder / SIGNATURE)


def verify_package(folder: Path, digests: Mapping[str, str], public_key: Path) -> None:
    """Return if `model.sig` in `folder` is over exactly these files, and made with the pair of `public_key`.

    `digests` is the SHA-256, in hex, of every file in the package except `model.sig`, by its relative name.
    Raises PackageError that names the file or the key, ConfigError when the key cannot be read.
    """
    _require_public_key(public_key)
    package = f"model package {folder.name}"
    signed = _signed_files(folder, package)
    for name in sorted(signed.keys() - digests.keys()):
        raise PackageError(f"{package}: {name} was signed and is missing; fetch the package again")
    for name in sorted(digests.keys() - signed.keys()):
        raise PackageError(f"{package}: {name} was never signed; remove it")
    for name in sorted(digests):
        if digests[name] != signed[name]:
            raise PackageError(f"{package}: {name} is not the file that was signed")

    from cryptography.exceptions import InvalidSignature
    from model_signing import hashing, verifying

    # KServe's storage initializer links the files of a volume: what a link leads to is what was hashed above.
    hashes = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    hashes.set_allow_symlinks(True)
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key).set_hashing_config(hashes)
    try:
        verifier.verify(folder, folder / SIGNATURE)
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError, IndexError):
        # The files agree with the list, so it is the list that no holder of the key has signed.
        raise PackageError(
            f"{package}: {SIGNATURE} was not made with the key of {public_key}; "
            "sign the package with that key, or name the one it was signed with"
        ) from None


def _signed_files(folder: Path, package: str) -> dict[str, str]:
    """SHA-256 by name as `model.sig` lists them: only a claim, until the signature over the list holds."""
    try:
        bundle = json.loads((folder / SIGNATURE).read_bytes())
    except FileNotFoundError:
        raise PackageError(f"{package} is not signed: it holds no {SIGNATURE}") from None
    except (OSError, ValueError, RecursionError):
        raise PackageError(f"{package}: {SIGNATURE} is not a signature of model-signing") from None
    try:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        return {
            entry["name"]: entry["digest"]
            for entry in statement["predicate"]["resources"]
            if entry["algorithm"] == "sha256"
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PackageError(f"{package}: {SIGNATURE} is not a signature of model-signing") from None


def _read_private_key(path: Path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"signing key {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"signing key {path} is not an unencrypted EC private key in PEM")
    return key


def _require_public_key(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"verify key {path} cannot be read: {error.strerror}") from None
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"verify key {path} is not an EC public key in PEM")


def _draft(folder: Path, content: bytes) -> Path:
    """A new file of mode 0600 in `folder`."""
    descriptor, name = tempfile.mkstemp(prefix=".key-", dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return Path(name)

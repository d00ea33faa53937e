"""The gateway's certificate: the person's own, or one for this machine made at first need."""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from hounsfield.errors import PlatformError

NAMES = ("localhost",)
ADDRESSES = ("127.0.0.1", "::1")
VALID_DAYS = 397  # what browsers accept at most


@dataclass(frozen=True)
class Certificate:
    """Files in PEM, as a Kubernetes TLS Secret names them."""

    chain: Path
    key: Path


def ensure_certificate(folder: Path) -> Certificate:
    """`tls.crt` and `tls.key` of `folder`; both are made when neither is there.

    A person's own must be valid for 127.0.0.1 too, where the release's own requests go. What is made is
    self-signed for this machine's own names: a client trusts it by naming `tls.crt` as a CA.
    PlatformError when only one of the two is there, when they do not fit together, or when it has expired.
    """
    certificate = Certificate(folder / "tls.crt", folder / "tls.key")
    if not certificate.chain.exists() and not certificate.key.exists():
        _make(certificate)
    _check(certificate)
    return certificate


def _make(certificate: Certificate) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Hounsfield on this machine")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(item) for item in NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(item)) for item in ADDRESSES]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(certificate.key, secret)
    write_private(certificate.chain, built.public_bytes(pem))


def _check(certificate: Certificate) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        read = x509.load_pem_x509_certificates(certificate.chain.read_bytes())[0]
        key = serialization.load_pem_private_key(certificate.key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        raise PlatformError(
            f"{certificate.chain} and {certificate.key} must both be there, in PEM and without a password; "
            "remove both to have new ones made"
        ) from None
    if read.public_key() != key.public_key():
        raise PlatformError(
            f"{certificate.key} is not the key of {certificate.chain}; put the right pair there"
        )
    if read.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
        raise PlatformError(f"{certificate.chain} expired on {read.not_valid_after_utc:%Y-%m-%d}; renew it")


def write_private(path: Path, content: bytes) -> None:
    """Replace the file whole, readable by its owner only from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)

"""The secret key, and what is derived from it: pseudonyms, UIDs and each patient's shift in time."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hounsfield.errors import ConfigError

MIN_KEY_BYTES = 16
MAX_SHIFT_DAYS = 3650
MAX_SHIFT_S = 3599
"""Below an hour, so that night stays night and few times of day move across midnight."""

KEY_VARIABLE, KEY_FILE_VARIABLE = "HOUNSFIELD_DEID_KEY", "HOUNSFIELD_DEID_KEY_FILE"


def load_key(path: Path | None) -> bytes:
    """The secret key of the pseudonyms. Raises ConfigError when it is missing or shorter than 16 bytes."""
    if path is None:
        raise ConfigError(
            "no de-identification key was given: name a file that holds at least 16 random bytes in "
            f"{KEY_FILE_VARIABLE}, or the key itself in {KEY_VARIABLE}; `openssl rand -hex 32` makes one, "
            "to be kept as long as the data and as safe"
        )
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"de-identification key {path} cannot be read: {error.strerror}") from None
    return _long_enough(key, f"de-identification key {path}")


def key_from(environment: Mapping[str, str]) -> bytes:
    """The key in HOUNSFIELD_DEID_KEY, else in the file that HOUNSFIELD_DEID_KEY_FILE names; ConfigError."""
    if KEY_VARIABLE in environment:
        return _long_enough(environment[KEY_VARIABLE].strip().encode(), KEY_VARIABLE)
    named = environment.get(KEY_FILE_VARIABLE)
    return load_key(Path(named) if named else None)


def create_key(path: Path) -> bytes:
    """Write a random key that only the owner can read. An existing one is kept, or patients would part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return load_key(path)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    return load_key(path)


def _long_enough(key: bytes, what: str) -> bytes:
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"{what} has {len(key)} bytes; it needs at least {MIN_KEY_BYTES}")
    return key


def pseudonym(patient_id: str, key: bytes) -> str:
    """The new PatientID: 16 letters and digits that only the holder of `key` can compute."""
    return _digest(key, "patient", patient_id).hex()[:16]


def new_uid(uid: str, key: bytes) -> str:
    """A UID under 2.25 (PS3.5 B.2: a UUID as a decimal number) in place of `uid`."""
    return f"2.25.{int.from_bytes(_digest(key, 'uid', uid)[:16])}"


@dataclass(frozen=True)
class Shift:
    """How far one patient's clock is set back. The same for all of the patient's files under one key."""

    days: int
    seconds: int = field(default=0)

    @classmethod
    def of(cls, patient: str, key: bytes) -> Shift:
        return cls(
            1 + int.from_bytes(_digest(key, "dates", patient)[:8]) % MAX_SHIFT_DAYS,
            1 + int.from_bytes(_digest(key, "times", patient)[:8]) % MAX_SHIFT_S,
        )

    @property
    def delta(self) -> datetime.timedelta:
        return datetime.timedelta(days=self.days, seconds=self.seconds)


def _digest(key: bytes, kind: str, value: str) -> bytes:
    return hmac.digest(key, f"{kind}\0{value}".encode(), hashlib.sha256)

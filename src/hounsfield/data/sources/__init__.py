"""Where DICOM comes from: a folder, a bucket, a PACS. One way to list and to fetch for all of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from hounsfield.errors import ConfigError

FETCH_AHEAD = 4
"""Objects that are fetched, or announced to the disk, at once, for each process that decodes."""


class Item(NamedTuple):
    """One object of a source. `name` may name a patient: it is neither logged nor written anywhere.

    `version` changes when the content does. `size_bytes` is None where the source does not say.
    """

    name: str
    version: str
    size_bytes: int | None = None


class Source(Protocol):
    """A place that DICOM objects are read from.

    Every method raises DataError, in one sentence and without credentials, when the place itself cannot be
    used: it does not exist, does not answer, or does not let us in.
    """

    remote: bool
    """Whether fetching waits for a network."""

    def items(self) -> Iterator[Item]:
        """Every object, in an order that does not change as long as nothing is added; never a whole list."""

    def count(self) -> int | None:
        """How many objects there are, None where asking costs as much as listing."""

    def fetch(self, item: Item) -> Path | bytes:
        """The object's bytes, or a local path to them; raises Refused for what is this object's fault."""


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a source: which one an object belongs to depends on its name alone."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `3/8`, the third of eight; raises ConfigError."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard {text!r} is not like 3/8, the third of eight")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, item: Item) -> bool:
        """Whether `item` is in this shard."""
        if self.count == 1:
            return True
        digest = hashlib.sha256(item.name.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1


def open_source(uri: str | Path) -> Source:
    """A folder, `s3://bucket/prefix`, or `dicomweb+https://host/dicom-web?ModalitiesInStudy=DX`.

    Credentials are never part of the address: see docs/dicom.md for where they are read from. Raises
    ConfigError for an address of another kind.
    """
    text = str(uri)
    if text.startswith("s3://"):
        from hounsfield.data.sources.s3 import Bucket

        return Bucket(text)
    if text.startswith(("dicomweb+http://", "dicomweb+https://")):
        from hounsfield.data.sources.dicomweb import Archive

        return Archive(text.removeprefix("dicomweb+"))
    if re.match(r"[a-z0-9+]+://", text):
        raise ConfigError(
            f"source {text.split('://')[0]}:// is not known: give a folder, s3:// or dicomweb+https://"
        )
    from hounsfield.data.sources.folder import Folder

    return Folder(Path(text))

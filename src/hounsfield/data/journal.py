"""The folder of one shard: a line for each object that was examined, and the images that were accepted.

A line is written when its object is done, so that a run that was killed goes on behind the last line, and a
run over a source that has grown examines what is new. Nothing in it names a patient or a source's file.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import hmac
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom

import hounsfield.dicom
from hounsfield.data import examine
from hounsfield.data.examine import Examined, Rules
from hounsfield.data.folder import link
from hounsfield.errors import DataError, PlatformError

JOURNAL = "journal.jsonl"
IMAGES = "images"


class Journal:
    """A context manager: the journal of `folder`, opened for adding, by one process at a time.

    What was made by other rules (another key or policy, another release of the code that reads and
    de-identifies) is removed, for it is not what these rules make. Half a line at the end, left by a kill, is
    dropped, and so is a line whose images are not there in full.
    """

    def __init__(self, folder: Path, rules: Rules, *, simulated: bool = False) -> None:
        self.path, self.images = folder / JOURNAL, folder / IMAGES
        self._head = {
            "made_by": _maker(rules),
            "simulated": simulated,
            "deidentified": rules.profile.record(),
        }
        self._seen: dict[str, bool] = {}

    def __enter__(self) -> Journal:
        self.images.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise PlatformError(
                f"another ingest is writing to {self.path.parent}: wait for it, or name another folder"
            ) from None
        self._keep(self._is_done)
        self._stream = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._lock.close()

    def __contains__(self, item: str) -> bool:
        """Whether `item` is done; asking says that the source still has it."""
        if item not in self._seen:
            return False
        self._seen[item] = True
        return True

    def add(self, item: str, examined: Examined, *, again: bool = False) -> None:
        """Write down what was found in `item`; with `again` the next run examines it anew."""
        line = json.dumps({"item": item, "again": again, **dataclasses.asdict(examined)})
        # To the kernel at once: what a killed process has written, the next one reads.
        self._stream.write(line + "\n")
        self._stream.flush()
        self._seen[item] = True

    def forget_the_gone(self) -> None:
        """Drop what the source has no longer, with its images: all that was neither asked for nor added."""
        if not all(self._seen.values()):
            self._stream.close()
            self._keep(lambda record: self._seen.get(record["item"], False))
            self._stream = self.path.open("a", encoding="utf-8")

    def copy_to(self, folder: Path) -> None:
        """Make `folder` a copy of this one; the images are linked where the disk allows."""
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for image in self.images.iterdir():
            link(image, folder / IMAGES / image.name)
        shutil.copyfile(self.path, folder / JOURNAL)

    def _keep(self, wanted: Callable[[dict], bool]) -> None:
        """Write the journal anew with the records that are `wanted`, and remove the images of all others."""
        scratch = self.path.with_suffix(".new")
        kept: dict[str, bool] = {}
        with scratch.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(self._head) + "\n")
            for record in _records(self.path, self._head):
                if wanted(record):
                    stream.write(json.dumps(record) + "\n")
                    kept[record["item"]] = self._seen.get(record["item"], False)
        scratch.replace(self.path)
        self._seen = kept
        for image in self.images.iterdir():
            if image.name.rpartition("-")[0] not in kept:
                image.unlink()

    def _is_done(self, record: dict) -> bool:
        return not record["again"] and all(
            _size(self.images / image["file"]) == image["file_bytes"] for image in record["images"]
        )


def read_journal(folder: Path) -> tuple[dict, Iterator[dict]]:
    """The first line of a shard's journal (are its objects `simulated`, how were they `deidentified`), and
    its records one by one; raises DataError."""
    path = folder / JOURNAL
    try:
        with path.open(encoding="utf-8") as stream:
            head = json.loads(stream.readline())
    except (OSError, ValueError):
        raise DataError(
            f"{JOURNAL} is missing or damaged in the shard's folder {folder.name}: run ingest again"
        ) from None
    return head, _records(path, head)


def _records(path: Path, head: dict) -> Iterator[dict]:
    """The records of a journal that begins with `head`; none of another one's, nor of one that is missing."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream):
            try:
                record = json.loads(line)
            except ValueError:  # only the last line can be half a line
                return
            if number == 0:
                if record["made_by"] != head["made_by"]:
                    return
            else:
                yield record


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _maker(rules: Rules) -> str:
    """A digest of all that decides what becomes of an object, keyed so that it says nothing about the key."""
    digest = hashlib.sha256(f"pydicom {pydicom.__version__}\n".encode())
    for module in (*sorted(Path(hounsfield.dicom.__file__).parent.rglob("*.py")), Path(examine.__file__)):
        digest.update(module.read_bytes())
    for option in dataclasses.fields(rules):
        value = getattr(rules, option.name)
        if option.name != "key":
            # A set has no order of its own.
            digest.update(
                f"{option.name} {sorted(value) if isinstance(value, frozenset) else value}\n".encode()
            )
    return hmac.digest(rules.key, b"journal\0" + digest.digest(), "sha256").hex()[:32]

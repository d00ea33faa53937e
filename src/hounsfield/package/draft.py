"""Writing a folder of a store: beside what is there, whole or not at all, whenever the writer is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hounsfield.errors import PlatformError

_PREFIX = ".writing-"


@contextlib.contextmanager
def draft(store: Path) -> Iterator[Path]:
    """An empty folder on the file system of `store`, to be filled and then renamed into it by the caller.

    What is left of it is removed, and so are the drafts of writers that were killed. No listing takes it for
    a package: its name begins with a dot. Raises PlatformError when the disk is full.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(store)
        work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=store))
        try:
            with (work / "new").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                (work / "new").rename(work / "lock")  # held from the moment that it has this name
                folder = work / "package"
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError(f"no space is left on the disk of {store}: free some and run again") from None
        raise


def flush(folder: Path) -> None:
    """Have every file in `folder` on the disk before a rename says that they are."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_abandoned(store: Path) -> None:
    """A draft whose lock is free has no living writer."""
    for work in store.glob(f"{_PREFIX}*"):
        # Another may be removing it too, and one without a lock yet has only just begun.
        with contextlib.suppress(OSError), (work / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work, ignore_errors=True)

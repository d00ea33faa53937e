"""Folders written whole or not at all, and files in two of them at the cost of one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hounsfield.errors import DataError, PlatformError


@contextlib.contextmanager
def whole_folder(out: Path, marker: str) -> Iterator[Path]:
    """Yield an empty folder beside `out` that takes its place when the block ends well.

    `out` may exist when it is empty or holds the file `marker`, which says that it is ours to replace;
    else DataError. On any failure the half-written folder is removed. A full disk is a PlatformError.
    """
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and was not made by this step: choose another output folder")
    partial = out.with_name(f"{out.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError(
                f"no space is left on the disk of {out.parent}: free some and run again"
            ) from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def link(file: Path, other: Path) -> None:
    """Make `other` the same file, or a copy where disks differ or know no links; an old one is replaced."""
    other.unlink(missing_ok=True)
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)

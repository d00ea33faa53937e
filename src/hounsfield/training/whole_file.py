"""Write a file whole or not at all, on this machine's disk or in an object store."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec

from hounsfield.errors import PlatformError


def is_remote(place: str | os.PathLike) -> bool:
    """Whether `place` is a URL such as s3://bucket/folder, and not a path."""
    return "://" in str(place)


def join(place: str | os.PathLike, *names: str) -> str:
    return "/".join([str(place).rstrip("/"), *names])


def write_whole(place: str | os.PathLike, data: bytes) -> None:
    """Replace the file at `place` by one with `data`; whatever happens, the old or the new one is there.

    An object store shows an object when all of it has arrived. Raises OSError when a disk, and PlatformError
    when a store cannot be written.
    """
    if is_remote(place):
        with _store(place) as (filesystem, path):
            filesystem.pipe_file(path, data)
        return
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave the new name with no content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_whole(place: str | os.PathLike) -> bytes | None:
    """The content of the file at `place`; None where there is none. Raises as `write_whole` does."""
    try:
        if is_remote(place):
            with _store(place) as (filesystem, path):
                return filesystem.cat_file(path)
        return Path(place).read_bytes()
    except FileNotFoundError:
        return None


def remove_folder(place: str | os.PathLike) -> None:
    """Remove the folder at `place`, if there is one."""
    if not is_remote(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    with _store(place) as (filesystem, path):
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)


def fetch_folder(place: str, into: Path) -> Path:
    """Copy the files below the URL `place` into the folder `into` and return it; raises PlatformError."""
    with _store(place) as (filesystem, path):
        names = sorted(filesystem.find(path))
        for name in names:
            target = into / name.removeprefix(path.rstrip("/") + "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(name, str(target))
    if not names:
        raise PlatformError(f"there is nothing at {place}: name the folder that preprocess wrote")
    return into


def publish_folder(folder: Path, place: str, last: str) -> None:
    """Copy the files of `folder` to the URL `place`; the file `last` comes last: all are there."""
    names = sorted((file.name for file in folder.iterdir() if file.is_file()), key=lambda name: name == last)
    with _store(place) as (filesystem, path):
        for name in names:
            filesystem.put_file(str(folder / name), join(path, name))


@contextlib.contextmanager
def _store(place: str | os.PathLike) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """The file system of the URL `place` and the path in it; what it raises becomes a PlatformError.

    A file that is not there stays FileNotFoundError.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(str(place))
        filesystem.invalidate_cache()
        yield filesystem, path
    except FileNotFoundError:
        raise
    except Exception as error:  # each store has errors of its own, and few are OSErrors
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise PlatformError(f"{place} cannot be read or written: {said}") from error

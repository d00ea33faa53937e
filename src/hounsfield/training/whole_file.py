"""Write a file whole or not at all, on this machine's disk or in an object store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fsspec


def is_remote(place: str | os.PathLike) -> bool:
    """Whether `place` is a URL such as s3://bucket/folder, and not a path."""
    return "://" in str(place)


def join(place: str | os.PathLike, *names: str) -> str:
    return "/".join([str(place).rstrip("/"), *names])


def write_whole(place: str | os.PathLike, data: bytes) -> None:
    """Replace the file at `place` by one with `data`; whatever happens, the old or the new one is there.

    An object store shows an object when all of it has arrived. Raises OSError when it cannot be written.
    """
    if is_remote(place):
        filesystem, path = fsspec.core.url_to_fs(str(place))
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
    """The content of the file at `place`; None where there is none."""
    try:
        if is_remote(place):
            filesystem, path = fsspec.core.url_to_fs(str(place))
            filesystem.invalidate_cache()
            return filesystem.cat_file(path)
        return Path(place).read_bytes()
    except FileNotFoundError:
        return None


def remove_folder(place: str | os.PathLike) -> None:
    """Remove the folder at `place`, if there is one."""
    if not is_remote(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    filesystem, path = fsspec.core.url_to_fs(str(place))
    filesystem.invalidate_cache()
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def fetch_folder(place: str, into: Path) -> Path:
    """Copy the files below the URL `place` into the folder `into` and return it."""
    filesystem, path = fsspec.core.url_to_fs(place)
    filesystem.invalidate_cache()
    for name in sorted(filesystem.find(path)):
        target = into / name.removeprefix(path.rstrip("/") + "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(name, str(target))
    return into


def publish_folder(folder: Path, place: str, last: str) -> None:
    """Copy the files of `folder` to the URL `place`; the file `last` comes last: all are there."""
    filesystem, path = fsspec.core.url_to_fs(place)
    names = sorted((file.name for file in folder.iterdir() if file.is_file()), key=lambda name: name == last)
    for name in names:
        filesystem.put_file(str(folder / name), join(path, name))

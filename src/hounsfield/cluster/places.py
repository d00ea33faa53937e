"""Where data and model lie between the step and the pods of its job: an object store, or a shared volume."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec

from hounsfield.cluster.settings import STORAGE_MOUNT, JobSettings
from hounsfield.errors import ClusterError, ConfigError
from hounsfield.training.whole_file import fetch_folder, is_remote, join, publish_folder, remove_folder

_LAST = "index.parquet"
"""Of the tensors; copied last, so that where it is all of them are."""


def place_tensors(settings: JobSettings, tensors: Path, uri: str) -> str:
    """Where the pods read the output of preprocess: its own `uri` if they can, else a copy in `storage`.

    The copy is named by its content, so that training and every trial share one, and the next run too.
    Raises ClusterError when the storage cannot be used, ConfigError when the volume is not mounted here.
    """
    # KFP's own object store speaks S3 under a scheme of its own.
    address = uri.replace("minio://", "s3://", 1)
    if address.startswith("s3://") and settings.root.startswith("s3://"):
        return address
    _check_mount(settings)
    place = join(settings.root, "tensors", _digest(tensors))
    with _reported(place):
        if is_remote(place):
            filesystem, path = fsspec.core.url_to_fs(place)
            if not filesystem.exists(join(path, _LAST)):
                publish_folder(tensors, place, last=_LAST)
        elif not Path(place).exists():
            part = Path(f"{place}.part")
            shutil.copytree(tensors, part, dirs_exist_ok=True)
            part.rename(place)
    return place


def run_folder(settings: JobSettings, name: str) -> str:
    """The folder of the run `name`: emptied when its model has been collected."""
    return join(settings.root, "runs", name)


def collect(settings: JobSettings, name: str, out: Path) -> None:
    """Bring the model that the run `name` left to `out`, and remove it there."""
    place = join(run_folder(settings, name), "model")
    with _reported(place):
        if is_remote(place):
            fetch_folder(place, out)
        else:
            shutil.copytree(place, out, dirs_exist_ok=True)
        if not (out / "training.json").exists():
            raise ClusterError(f"the job {name} succeeded, and yet there is no model at {place}")
        remove_folder(run_folder(settings, name))


def _check_mount(settings: JobSettings) -> None:
    if settings.claim and not Path(STORAGE_MOUNT).is_dir():
        raise ConfigError(
            f"cluster: storage {settings.storage} is not mounted in this step at {STORAGE_MOUNT}: compile "
            f"the pipeline with HOUNSFIELD_STORAGE_CLAIM={settings.claim}"
        )


def _digest(folder: Path) -> str:
    """SHA-256 over names and contents of the folder's files, shortened."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _reported(place: str) -> Iterator[None]:
    """Whatever the storage's client raises, as one sentence."""
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:  # botocore's errors are of many kinds, and few are OSErrors
        said = " ".join(str(error).split())[:200]
        raise ClusterError(f"the storage {place} cannot be used ({type(error).__name__}): {said}") from error

"""Write, restore and try a backup of the logs, the ledger and the registry.

    STORE/objects/9f2c...                  a file's bytes, by their SHA-256: what is there is not sent again
    STORE/backups/20261121T020000Z.json    the names of one night's files and their digests; written last

A store is a folder or an object store (`s3://bucket/prefix`). A log is copied while it is written: HEAD
first, so that it knows no more than the copy holds. A full segment never changes: a night costs a day.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from hounsfield.audit import verification
from hounsfield.errors import AuditError, ConfigError

_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Drill:
    """What came back."""

    name: str
    age_h: float
    records: Mapping[str, int]
    """Records by log, of which every one was verified."""
    models: int


def write(store: str, logs: Path, ledger: Path, registry: list[dict[str, Any]], now: datetime) -> str:
    """Copy all of it to `store` under a name made of `now` (UTC); returns the name.

    `logs` is a folder with a folder a pod; a missing `ledger` is no error, for no rollout may have been yet.
    ConfigError for a missing folder or a store that cannot be written.
    """
    if not logs.is_dir():
        raise ConfigError(f"there is no folder {logs}; name the inference logs' folder with --logs")
    name = now.astimezone(UTC).strftime(_TIME)
    files = {f"logs/{path.relative_to(logs).as_posix()}": path for path in _logs(logs)}
    if ledger.is_file():
        files["ledger.jsonl"] = ledger
    filesystem, root = _open(store)
    digests = {}
    try:
        filesystem.makedirs(f"{root}/objects", exist_ok=True)
        filesystem.makedirs(f"{root}/backups", exist_ok=True)
        contents = ((target, source.read_bytes()) for target, source in files.items())
        for target, content in itertools.chain(contents, [("registry.json", _json(registry))]):
            digests[target] = hashlib.sha256(content).hexdigest()
            if not filesystem.exists(f"{root}/objects/{digests[target]}"):
                filesystem.pipe_file(f"{root}/objects/{digests[target]}", content)
        filesystem.pipe_file(f"{root}/backups/{name}.json", _json(digests))
    except OSError as error:
        raise ConfigError(f"{store} cannot be written: {error}; this night has no backup") from None
    return name


def restore(store: str, folder: Path) -> str:
    """Fetch the newest backup into `folder`, which must not be there yet; returns its name.

    ConfigError where there is none or `folder` is; AuditError for a file that is not what was written.
    """
    if folder.exists():
        raise ConfigError(f"{folder} is there already; restore into a new folder, and move it afterwards")
    filesystem, root = _open(store)
    try:
        found = sorted(filesystem.glob(f"{root}/backups/*.json"))
    except OSError as error:
        raise ConfigError(f"{store} cannot be read: {error}") from None
    if not found:
        raise ConfigError(f"{store} holds no backup; check its name, then run `hounsfield backup write`")
    name = found[-1].rpartition("/")[2].removesuffix(".json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as half:
        for target, digest in _listed(filesystem.cat_file(found[-1]), name).items():
            try:
                content = filesystem.cat_file(f"{root}/objects/{digest}")
            except FileNotFoundError:
                raise AuditError(f"the backup {name} lacks {target}, object {digest}") from None
            if hashlib.sha256(content).hexdigest() != digest:
                raise AuditError(f"the backup {name}: {target}, object {digest}, is not what was written")
            file = Path(half) / "whole" / target
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        shutil.move(Path(half) / "whole", folder)
    return name


def _listed(content: bytes, name: str) -> dict[str, str]:
    """File -> digest, as the backup `name` lists them; AuditError for a list that `write` did not write."""
    try:
        listed = dict(json.loads(content))
        whole = all(isinstance(digest, str) and _is_inside(target) for target, digest in listed.items())
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise AuditError(f"the list of the backup {name} is not what was written: restore the one before it")
    return listed


def _is_inside(target: str) -> bool:
    path = PurePosixPath(target)
    return not path.is_absolute() and ".." not in path.parts


def drill(store: str, now: datetime, max_age_h: float = 30.0) -> Drill:
    """Restore the newest backup into a folder of its own, verify every chain in it, and remove it.

    AuditError for whatever would be missing or wrong on the day that it is needed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "restored"
        name = restore(store, folder)
        age_h = (now - datetime.strptime(name, _TIME).replace(tzinfo=UTC)) / timedelta(hours=1)
        if age_h > max_age_h:
            raise AuditError(f"the newest backup in {store} is {age_h:.0f} h old, more than {max_age_h:.0f}")
        records = {
            log.name: verification.verify(log).count
            for log in sorted((folder / "logs").glob("*"))
            if log.is_dir()
        }
        if (folder / "ledger.jsonl").is_file():
            records["ledger"] = verification.verify(folder / "ledger.jsonl").count
        registry = json.loads((folder / "registry.json").read_text())
    return Drill(name, age_h, records, len(registry))


def registry_of(tracking_uri: str) -> list[dict[str, Any]]:
    """Every registered model with its versions, tags and aliases, from MLflow at `tracking_uri`."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    return [
        {
            "name": model.name,
            "aliases": dict(model.aliases),
            "versions": [
                {"version": version.version, "source": version.source, "tags": dict(version.tags)}
                for version in client.search_model_versions(f"name='{model.name}'")
            ],
        }
        for model in client.search_registered_models()
    ]


def _logs(folder: Path) -> Iterator[Path]:
    """The files of every log, HEAD before the segments that it must not run ahead of."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    yield from sorted(files, key=lambda path: (path.name != "HEAD", path))


def _open(store: str) -> tuple[Any, str]:
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(store)
    return filesystem, root.rstrip("/")


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()

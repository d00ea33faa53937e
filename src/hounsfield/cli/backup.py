"""`hounsfield backup ...`: keep what cannot be made again elsewhere, and prove that it comes back."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path

from hounsfield.config import Home


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    write = command(
        commands,
        "write",
        _write,
        "copy the inference logs, the ledger and the registry to a store",
        "hounsfield backup write --to s3://backups/hounsfield",
    )
    write.add_argument("--to", required=True, metavar="STORE", help="a folder, or s3://bucket/prefix")
    write.add_argument("--logs", type=Path, help="a folder with a log's folder a pod (default: HOME/log)")
    write.add_argument("--ledger", type=Path, help="default: HOME/ledger.jsonl")
    write.add_argument("--tracking-uri", help="of MLflow (default: HOME/mlflow.db)")

    for name, handler, text, example in (
        (
            "restore",
            _restore,
            "fetch the newest backup into a new folder",
            "restore --from STORE --to restored",
        ),
        (
            "drill",
            _drill,
            "fetch the newest backup, verify all of it, and say how old it is",
            "drill --from STORE",
        ),
    ):
        sub = command(commands, name, handler, text, f"hounsfield backup {example}")
        sub.add_argument("--from", required=True, dest="store", metavar="STORE")
        if name == "restore":
            sub.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="must not be there yet")
        else:
            sub.add_argument("--max-age-h", type=float, default=30.0, help="older is a failure (default: 30)")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _write(arguments: argparse.Namespace) -> None:
    from hounsfield.backup.backup import registry_of, write

    home = Home.at(arguments.home)
    registry = registry_of(arguments.tracking_uri or home.mlflow_uri)
    logs, ledger = arguments.logs or home.root / "log", arguments.ledger or home.ledger
    print(f"written: {write(arguments.to, logs, ledger, registry, _now())}")


def _restore(arguments: argparse.Namespace) -> None:
    from hounsfield.backup.backup import restore

    print(f"restored: {restore(arguments.store, arguments.to)}")


def _drill(arguments: argparse.Namespace) -> None:
    from hounsfield.backup.backup import drill

    done = drill(arguments.store, _now(), arguments.max_age_h)
    print(f"backup {done.name}, {done.age_h:.1f} h old: whole")
    for log, records in done.records.items():
        print(f"  {log}: {records} records, every one verified")
    print(f"  registry: {done.models} models")

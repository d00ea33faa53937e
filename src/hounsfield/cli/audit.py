"""`hounsfield audit ...`: check, export and purge the hash-chained logs.

Exit code 0: as it should be. 1: a log does not hold what was written, and the sentence names the record.
2: the command could not be carried out.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hounsfield.config import Home
from hounsfield.errors import AuditError


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    verify = command(
        commands,
        "verify",
        _verify,
        "find an edited, dropped, added or moved record",
        "hounsfield audit verify .hounsfield/log/stable --expect-head 9f2c...",
    )
    verify.add_argument(
        "log", type=Path, nargs="?", help="an inference log's folder, or a file (default: the rollout ledger)"
    )
    verify.add_argument(
        "--expect-head",
        metavar="HASH",
        help="a record's hash known from elsewhere, which the log must still hold: from a rollout's commit, "
        "a CloudEvent's id, a Parquet row",
    )

    tail = command(
        commands,
        "tail",
        _tail,
        "print the last records, a JSON line each",
        "hounsfield audit tail .hounsfield/log/stable --records 100 --follow",
    )
    tail.add_argument("folder", type=Path, help="an inference log's folder")
    tail.add_argument("--records", type=int, default=10, help="how many (default: 10)")
    tail.add_argument("--follow", action="store_true", help="then wait for more, until interrupted")

    export = command(
        commands,
        "export",
        _export,
        "write an inference log as Parquet, a file a segment; run it again to add what is new",
        "hounsfield audit export .hounsfield/log/stable --out predictions",
    )
    export.add_argument("folder", type=Path, help="an inference log's folder")
    export.add_argument("--out", type=Path, required=True, help="folder to write into")

    purge = command(
        commands,
        "purge",
        _purge,
        "delete the segments of an inference log that are older than its retention",
        "hounsfield audit purge .hounsfield/log/stable --retention-days 3650",
    )
    purge.add_argument("folder", type=Path, help="an inference log's folder")
    purge.add_argument(
        "--retention-days",
        type=float,
        help="keep younger records; not less than what the predictor was started with (default: that)",
    )
    purge.add_argument(
        "--through",
        metavar="SEGMENT",
        help="delete up to this segment, and nothing at all if one of them is too young",
    )


def _verify(arguments: argparse.Namespace) -> None:
    from hounsfield.audit.verification import verify

    path = arguments.log or Home.at(arguments.home).ledger
    head = verify(path, arguments.expect_head)
    print(f"{path}: {head.count} records, the chain holds; its head is {head.hash}")


def _tail(arguments: argparse.Namespace) -> None:
    from hounsfield.audit.reader import before_last, follow, read

    if not arguments.folder.is_dir():
        raise AuditError(f"{arguments.folder}: there is no log; give the folder of an inference log")
    cursor = before_last(arguments.folder, arguments.records)
    try:
        for record, after in (follow if arguments.follow else read)(arguments.folder, cursor):
            print(json.dumps({"sequence": after.count - 1, "hash": after.hash, **record}), flush=True)
    except BrokenPipeError:  # piped into `head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _export(arguments: argparse.Namespace) -> None:
    from hounsfield.audit.parquet import export

    done = export(arguments.folder, arguments.out)
    print(f"{arguments.out}: {done.records} records written, {done.unchanged} files unchanged")
    if done.missed:
        print(f"{done.missed} records were purged before they were exported")


def _purge(arguments: argparse.Namespace) -> None:
    from hounsfield.audit.retention import purge

    try:
        by = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        by = str(os.getuid())
    done = purge(arguments.folder, arguments.retention_days, through=arguments.through, by=by)
    print(f"{arguments.folder}: {len(done.segments)} segments with {done.records} records deleted")
    if done.young is not None:
        print(f"{done.young} stays: it holds a record of {done.young_newest}, younger than the retention")

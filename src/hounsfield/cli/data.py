"""`hounsfield data`: the sample set, and files and batches of a data set."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_commands(commands, command: Callable) -> None:
    check = command(
        commands,
        "check",
        _check,
        "hold an ingested data set against the profile of another one; exit status 1 when a limit is broken",
        "hounsfield data check new-set --profile reference-set/profile.json",
    )
    check.add_argument("dataset", type=Path, help="folder with the index.parquet of what is new")
    check.add_argument(
        "--profile", type=Path, required=True, help="profile.json, or the data set or package that holds it"
    )


def _check(arguments: argparse.Namespace) -> int:
    from hounsfield.data.expectations import check, load_expectations, read_index

    index = read_index(arguments.dataset)
    findings = check(index, load_expectations(arguments.profile))
    for finding in findings:
        print(finding)
    failed = sum(finding.hard for finding in findings)
    said = f": {failed} fail, {len(findings) - failed} warn" if findings else " are as expected"
    print(f"{len(index)} images{said}")
    return int(failed > 0)

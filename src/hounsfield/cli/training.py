"""`hounsfield reproduce`: a training run done again from its record, and compared."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from hounsfield.config import Home


def add_commands(commands, command: Callable) -> None:
    reproduce = command(
        commands,
        "reproduce",
        _reproduce,
        "do a training run again from its MLflow record alone, and compare the weights",
        "hounsfield reproduce 4f1c... --keep rebuilt",
    )
    reproduce.add_argument("run", metavar="RUN", help="id of the MLflow run")
    reproduce.add_argument("--tracking-uri", help="MLflow server (default: that of the last `make run`)")
    reproduce.add_argument("--data", help="where the same DICOM lies now (default: where the record says)")
    reproduce.add_argument("--labels", type=Path, help="where the same labels lie now")
    reproduce.add_argument(
        "--repo", type=Path, help="git repository with the commit (default: this checkout)"
    )
    reproduce.add_argument("--keep", type=Path, help="folder to leave data set, tensors and model in")


def _reproduce(arguments: argparse.Namespace) -> int:
    from hounsfield.training.reproduce import checkout_of_this_code, reproduce

    result = reproduce(
        arguments.run,
        arguments.tracking_uri or Home.at(arguments.home).mlflow_uri,
        arguments.repo or checkout_of_this_code(),
        arguments.data,
        arguments.labels,
        arguments.keep,
    )
    for item in result.identity:
        print(f"{item.what:<10}{'same' if item.same else f'{item.recorded} recorded, {item.now} now'}")
    for item in result.machine:
        if not item.same:
            print(f"{item.what:<10}{item.recorded} recorded, {item.now} here")
    print(result.verdict)
    return 0 if result.succeeded else 1

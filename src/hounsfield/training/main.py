"""`hounsfield train`, the one entry point: a single process, `torchrun`, a PyTorchJob."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hounsfield.config import from_mapping
from hounsfield.errors import HounsfieldError
from hounsfield.training.launcher import launch
from hounsfield.training.orphans import end_with_parent
from hounsfield.training.params import TrainingParams
from hounsfield.training.tracking import Tracking


def parser() -> argparse.ArgumentParser:
    """Arguments of `hounsfield train`: the folders, a flag for each field of TrainingParams, MLflow."""
    arguments = argparse.ArgumentParser(prog="hounsfield train", description="Train a network.")
    arguments.add_argument("--tensors", type=Path, required=True, help="output folder of preprocess")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    for field in dataclasses.fields(TrainingParams):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        arguments.add_argument(flag, type=kind, default=field.default, help=f"default {field.default}")
    arguments.add_argument(
        "--processes", type=int, default=1, help="processes to start on this machine; default 1"
    )
    arguments.add_argument("--checkpoints", type=Path, help="folder to resume from; default OUT/checkpoints")
    arguments.add_argument("--tracking-uri", help="MLflow server; default $MLFLOW_TRACKING_URI")
    arguments.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="tag of the MLflow run; repeatable",
    )
    return arguments


def run(argv: Sequence[str] | None, environment: Mapping[str, str]) -> None:
    """Parse `argv` and train; raises HounsfieldError."""
    options = parser().parse_args(argv)
    fields = [field.name for field in dataclasses.fields(TrainingParams)]
    params = from_mapping(TrainingParams, {name: getattr(options, name) for name in fields}, "arguments")
    tracking = Tracking(
        uri=options.tracking_uri or environment.get("MLFLOW_TRACKING_URI"),
        tags=dict(tag.partition("=")[::2] for tag in options.tag),
    )
    if options.processes > 1 and "RANK" not in environment:
        launch(
            options.tensors,
            options.out,
            params,
            options.processes,
            options.checkpoints,
            tracking.uri,
            tracking.tags,
        )
        return
    if "TORCHELASTIC_RUN_ID" in environment:
        end_with_parent()
    from hounsfield.training.fit import fit  # imports torch and Lightning

    fit(options.tensors, options.out, params, tracking, options.checkpoints)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(argv, os.environ)
    except HounsfieldError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: training was interrupted; start it again to go on", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

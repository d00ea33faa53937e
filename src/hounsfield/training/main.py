"""`hounsfield train`, the one entry point: a single process, `torchrun`, a PyTorchJob, a TrainJob."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hounsfield.errors import HounsfieldError
from hounsfield.training.launcher import is_pod, run_pod, run_torchrun
from hounsfield.training.orphans import end_with_parent
from hounsfield.training.params import IMBALANCE, PRECISION, PRESETS, TRAINED, TrainingParams, training_params
from hounsfield.training.tracking import Tracking

_HELP = {
    "architecture": f"one of {', '.join(TRAINED)}",
    "epochs": "how often every image is seen",
    "batch_size": "images of a step, over all processes",
    "batch_parts": "parts of a batch, each normalised by itself and whole in a process; 0: 2, or processes",
    "learning_rate": "peak of the one-cycle schedule",
    "weight_decay": "AdamW's decay of kernels",
    "dropout": "share of the embedding left out, in [0, 1)",
    "augmentation": "strength; 0 is off, 1 the strength of augmentation.py",
    "imbalance": f"of classes: one of {', '.join(IMBALANCE)}; auto chooses by the size of the set",
    "precision": f"one of {', '.join(PRECISION)}; auto takes what is fastest here",
    "patience_epochs": "stop after so many epochs without a better validation AUROC; 0: never",
    "seed": "of the weights, the order of images and every draw",
}


def parser() -> argparse.ArgumentParser:
    """Arguments of `hounsfield train`: the folders, a flag for each field of TrainingParams, MLflow."""
    arguments = argparse.ArgumentParser(
        prog="hounsfield train",
        description="Train a network on the output of preprocess. Started again after a break it goes on "
        "from its last checkpoint. In a group that torchrun, a PyTorchJob or a TrainJob describes (RANK, "
        "WORLD_SIZE, MASTER_ADDR, PET_*) it does its own part of the work.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  hounsfield train --tensors tensors --out model --preset standard\n"
        "  hounsfield train --tensors tensors --out model --processes 2 --epochs 20\n"
        "  torchrun --nproc-per-node 2 -m hounsfield.training.main --tensors tensors --out model\n"
        "  hounsfield train --tensors s3://data/tensors --out s3://models/run-1\n"
        "  command: [hounsfield, train, --tensors=/data/tensors, --out=/data/model]  # of a pod\n"
        "\n"
        "exit status: 0 trained, 2 something has to be put right (the last line says what), 130 interrupted",
    )
    places = arguments.add_argument_group("places, each a path or a URL such as s3://bucket/folder")
    places.add_argument("--tensors", required=True, help="output folder of preprocess")
    places.add_argument("--out", required=True, help="folder for the trained model")
    places.add_argument("--checkpoints", help="folder to resume from; default OUT/checkpoints")
    places.add_argument(
        "--resume", metavar="CHECKPOINT", help="go on from this file, which must be of this run"
    )
    places.add_argument(
        "--checkpoint-every-s", type=float, default=60.0, metavar="S", help="seconds between two; default 60"
    )
    run = arguments.add_argument_group("parameters of the run")
    run.add_argument(
        "--preset", choices=list(PRESETS), default="quick", help="what the others start from; default quick"
    )
    for field in dataclasses.fields(TrainingParams):
        in_presets = "; ".join(
            f"{name} {values[field.name]}" for name, values in PRESETS.items() if field.name in values
        )
        text = f"{_HELP[field.name]}; default {field.default}" + (f" ({in_presets})" if in_presets else "")
        run.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help=text)
    run.add_argument(
        "--processes",
        type=int,
        help="processes to start on this machine; default one a core, as far as the parts of a batch go, and "
        "one where there is a GPU",
    )
    record = arguments.add_argument_group("MLflow")
    record.add_argument("--tracking-uri", help="server; default $MLFLOW_TRACKING_URI")
    record.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="tag of the run; repeatable"
    )
    return arguments


def run(argv: Sequence[str] | None, environment: Mapping[str, str]) -> None:
    """Parse `argv` and train; raises HounsfieldError."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(given)
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainingParams)}
    named = {name: value for name, value in values.items() if value is not None}
    params = training_params({"preset": options.preset, **named}, "arguments")
    if "TORCHELASTIC_RUN_ID" in environment:
        end_with_parent()
    with tempfile.TemporaryDirectory() as scratch:
        _run(given, options, params, environment, Path(scratch))


def _run(
    given: list[str],
    options: argparse.Namespace,
    params: TrainingParams,
    environment: Mapping[str, str],
    scratch: Path,
) -> None:
    from hounsfield.training.whole_file import fetch_folder, is_remote

    if is_remote(options.tensors):
        # Once a pod: the processes that torchrun starts get the copy's path.
        options.tensors = str(fetch_folder(options.tensors, scratch / "tensors"))
    argv = [*given, "--tensors", options.tensors]
    if is_pod(environment):
        run_pod(argv, environment)
    elif "RANK" not in environment and (processes := _processes(options.processes, params)) > 1:
        run_torchrun(argv, processes, lambda line: print(line, flush=True))
    else:
        from hounsfield.training.fit import Resuming, fit  # imports torch

        tracking = Tracking(
            uri=options.tracking_uri or environment.get("MLFLOW_TRACKING_URI"),
            tags=dict(tag.partition("=")[::2] for tag in options.tag),
        )
        resuming = Resuming(options.checkpoints, options.resume, options.checkpoint_every_s)
        fit(options.tensors, options.out, params, tracking, resuming, environment)


def _processes(wanted: int | None, params: TrainingParams) -> int:
    if wanted is not None:
        return wanted
    import torch

    from hounsfield.training.batch_parts import most_processes

    cores = 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    return most_processes(params.batch_size, params.batch_parts, cores)


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

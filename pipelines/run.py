"""Run the whole road on this machine: the pipeline by kfp.local, then gate, canary and promotion.

`make run` calls this. What was done before is not done again: KFP's cache holds finished steps, training
goes on from its checkpoint, the git tree and the registry hold the rollout.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from hounsfield.cli.console import StepOutput
from hounsfield.cli.rollout_lines import rollout_lines
from hounsfield.config import MODEL_NAME, Home
from hounsfield.errors import DataError, HounsfieldError, LabelError, PlatformError

REPO = Path(__file__).resolve().parents[1]
MIN_FREE_BYTES = 2 * 1024**3
NOT_PROMOTED, INTERRUPTED = 3, 130


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    # Bound to the stream of now: while steps run, standard output goes through StepOutput.
    console = Console(file=sys.stdout, highlight=False)
    home = Home.at(arguments.home)
    try:
        outcome = run(arguments, home, console)
    except KeyboardInterrupt:
        console.print("[yellow]Interrupted.[/] The same command goes on from what is there.")
        return INTERRUPTED
    except HounsfieldError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True, markup=True)
        return error.exit_code
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise
        console.print(
            f"[red]error:[/] no space left on the disk that holds {home.root}: free some, then run again"
        )
        return PlatformError.exit_code
    return outcome


def run(arguments: argparse.Namespace, home: Home, console: Console) -> int:
    """Do it all; return the exit status: 0 promoted, champion already, or through a shadow that is all the
    policy asks for; 3 refused by gate or canary."""
    from hounsfield.laptop import stack
    from hounsfield.laptop.release import release
    from hounsfield.report.run import write_report
    from hounsfield.report.table import summary
    from hounsfield.rollout.controller import SHADOWED

    started_at = _now()
    _check_disk(home)
    stack.check_ports(home, arguments.port)
    guard = Path(
        os.environ.setdefault("HOUNSFIELD_GUARD_PYTHON", str(REPO / ".venv-guard" / "bin" / "python"))
    )
    if not guard.exists():
        raise PlatformError(f"the guard environment has no python at {guard}: run `make install`")
    source, labels = _data(arguments, home, console)
    git_commit = _git_commit()
    artifacts = run_pipeline(
        home,
        console,
        {
            "source": str(source),
            "labels": str(labels),
            "git_commit": git_commit,
            "seed": arguments.seed,
            "size_px": arguments.size_px,
            "parameters": dict(arguments.param),
            "processes": arguments.processes,
            "workers": arguments.processes,
            "tune_trials": arguments.tune_trials,
        },
    )
    registration = json.loads(artifacts["registration"].read_text())
    console.print("[bold]release[/] of version", registration["candidate"]["version"])
    with _steps(home, console, "release"):
        released = release(
            home,
            registration,
            artifacts["validation_set"],
            port=arguments.port,
            say=lambda line: console.print(f"  {line}"),
            on_event=rollout_lines(lambda line: console.print(f"  {line}", soft_wrap=True)),
        )
    record = {
        "artifacts": {name: str(path) for name, path in artifacts.items()},
        "registration": registration,
        "git_commit": git_commit,
        "started_at": started_at,
        "finished_at": _now(),
        "validation_set": sum(1 for _ in (artifacts["validation_set"] / "dicom").iterdir()),
        **_kept(home, registration, released),
    }
    _write_json(home.root / "run.json", record)
    write_report(record, home.report)
    console.print(summary(record))
    is_through = record["promoted"] or (record["rollout"] or {}).get("outcome") == SHADOWED
    return 0 if is_through else NOT_PROMOTED


def run_pipeline(home: Home, console: Console, values: dict[str, Any]) -> dict[str, Path]:
    """Run pipelines/training.py by kfp.local's SubprocessRunner; return the paths of its output artifacts.

    Raises PlatformError with the sentence of the step that failed.
    """
    from hounsfield.data.fingerprint import source_fingerprint
    from hounsfield.data.labels import load_labels
    from hounsfield.package.sign import ensure_keys

    load_labels(Path(values["labels"]))  # wrong labels are said before anything is read
    fingerprint = source_fingerprint(values["source"], Path(values["labels"]))
    if not {"HOUNSFIELD_DEID_KEY", "HOUNSFIELD_DEID_KEY_FILE"} & os.environ.keys():
        os.environ["HOUNSFIELD_DEID_KEY_FILE"] = str(_sample_key(home, str(values["source"])))
    console.print("[bold]pipeline[/] (the same object that `make compile` writes for the Kubeflow dashboard)")
    digest = _source_digest()
    os.environ["HOUNSFIELD_TRAIN_IMAGE"] = f"hounsfield/train:source-{digest}"
    os.environ["HOUNSFIELD_GUARD_IMAGE"] = f"hounsfield/guard:source-{digest}"
    os.environ.setdefault("HOUNSFIELD_SIGNING_KEY_FILE", str(ensure_keys(home.keys)[0]))
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
    # What a step asks of a cluster is no limit here.
    warnings.filterwarnings("ignore", message=r"Task '.*': settings \[", category=UserWarning)
    from kfp import local

    from pipelines.training import training

    home.pipeline_root.mkdir(parents=True, exist_ok=True)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(home.pipeline_root),
        workspace_root=str(home.root / "workspace"),
        enable_caching=True,
    )
    inputs = {
        **values,
        "source_fingerprint": fingerprint,
        "models_uri": str(home.models),
        "tracking_uri": home.mlflow_uri,
        "checkpoints": str(home.root / "checkpoints"),
        "ingest_store": str(home.root / "ingest"),
        "experiment": str(REPO / "katib" / "experiment.yaml"),
        "model_name": MODEL_NAME,
    }
    with _steps(home, console, "pipeline") as output:
        try:
            task = training(**inputs)
        except RuntimeError as error:
            said = output.failure or str(error)
            raise PlatformError(f"{said} (the whole log is {home.logs / 'pipeline.log'})") from None
    steps = len(training.pipeline_spec.root.dag.tasks)
    reused = steps - len(output.finished)
    if reused > 0:
        console.print(f"  {reused} of {steps} steps came from the cache")
    return {name: Path(artifact.path) for name, artifact in task.outputs.items()}


@contextlib.contextmanager
def _steps(home: Home, console: Console, name: str) -> Iterator[StepOutput]:
    """Standard output as bars on `console`, and whole in the log `name`."""
    home.logs.mkdir(parents=True, exist_ok=True)
    with (
        (home.logs / f"{name}.log").open("w", encoding="utf-8") as log,
        StepOutput(console, log) as output,
        contextlib.redirect_stdout(output),
    ):
        yield output


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m pipelines.run                                     the simulated sample set\n"
        "  python -m pipelines.run --data scans --labels labels.csv    your own DICOM\n"
        "  python -m pipelines.run --param epochs=20 --port 9000\n",
    )
    parser.add_argument(
        "--data", help="folder of DICOM files, s3:// or dicomweb+https:// (default: the simulated sample set)"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV: PatientID, StudyInstanceUID or SOPInstanceUID; label; site if you like",
    )
    parser.add_argument(
        "--home",
        default=str(REPO / ".hounsfield"),
        help="folder for everything a run makes (default: .hounsfield)",
    )
    parser.add_argument(
        "--port", type=int, help="the endpoint's port; the nine after it are used too (default: 8080)"
    )
    parser.add_argument("--images", type=int, default=1100, help="size of the sample set (default: 1100)")
    parser.add_argument(
        "--seed", type=int, default=7, help="of split, weights, augmentation, bootstrap (default: 7)"
    )
    parser.add_argument(
        "--size-px", type=int, default=96, help="side of the model input, pixels (default: 96)"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="training and reading processes (default: 2)"
    )
    parser.add_argument(
        "--tune-trials", type=int, default=0, help="trials of katib/experiment.yaml (default: 0, off)"
    )
    parser.add_argument(
        "--param",
        type=_key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a training parameter, for example epochs=20",
    )
    return parser


def _key_value(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _data(arguments: argparse.Namespace, home: Home, console: Console) -> tuple[str | Path, Path]:
    """Source and labels: the person's own, or the sample set, made if it is not there."""
    if arguments.data is None and arguments.labels is None:
        from hounsfield.data.sample import make_sample

        console.print(
            "[bold]data[/] simulated chest radiographs, to learn the tool on; no evidence about a model"
        )
        with _steps(home, console, "sample"):
            make_sample(home.sample, images=arguments.images, workers=arguments.processes)
        return home.sample / "dicom", home.sample / "labels.csv"
    if arguments.data is None:
        raise DataError("labels are given but no data: add DATA=folder (--data)")
    if arguments.labels is None:
        raise LabelError("data is given but no labels: add LABELS=labels.csv (--labels)")
    remote = "://" in str(arguments.data)
    if not remote and not Path(arguments.data).is_dir():
        raise DataError(f"the data folder {arguments.data} does not exist: name a folder of DICOM files")
    if not arguments.labels.is_file():
        raise LabelError(
            f"the labels file {arguments.labels} does not exist: name a CSV file with the labels"
        )
    return arguments.data if remote else Path(arguments.data).resolve(), arguments.labels.resolve()


def _sample_key(home: Home, source: str) -> Path:
    """The key of the sample set's pseudonyms, made on first use; patients need one of yours: ConfigError."""
    from hounsfield.data.sample import is_simulated
    from hounsfield.dicom.deidentify import create_key, load_key

    if "://" in source or not is_simulated(Path(source)):
        load_key(None)  # says which key is missing
    create_key(home.deid_key)
    return home.deid_key


def _check_disk(home: Home) -> None:
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home.root).free
    except OSError as error:
        raise PlatformError(
            f"{home.root} cannot be written: {error.strerror}; name another folder with --home"
        ) from None
    if free < MIN_FREE_BYTES:
        raise PlatformError(
            f"{free / 1024**3:.1f} GiB free at {home.root}, a run needs {MIN_FREE_BYTES / 1024**3:.0f}: "
            "free some space or name another folder with --home"
        )


def _git_commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _source_digest() -> str:
    """Digest of the code that steps run, so that an edit of it is a cache miss."""
    digest = hashlib.sha256()
    for file in sorted((REPO / "src" / "hounsfield").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(file.relative_to(REPO).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _kept(home: Home, registration: dict[str, Any], released: dict[str, Any]) -> dict[str, Any]:
    """What the release said; for a candidate that is champion already, what the run that promoted it said."""
    past = home.root / "run.json"
    if released["rollout"] is None and released["gate"] is None and past.exists():
        before = json.loads(past.read_text())
        if before["registration"]["candidate"]["digest"] == registration["candidate"]["digest"]:
            return {**released, "gate": before["gate"], "rollout": before["rollout"]}
    return released


def _write_json(path: Path, value: Any) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")
    scratch.replace(path)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())

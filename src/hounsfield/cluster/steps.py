"""The pipeline's steps `train` and `tune`, done by jobs of the cluster."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hounsfield.cluster.connection import connect
from hounsfield.cluster.experiments import run_experiment
from hounsfield.cluster.jobs import KINDS
from hounsfield.cluster.places import collect, place_tensors, run_folder
from hounsfield.cluster.run import new_name, run_job
from hounsfield.cluster.settings import JobSettings, read_settings
from hounsfield.errors import ConfigError
from hounsfield.training.launcher import train_arguments
from hounsfield.training.whole_file import is_remote, join


def train_on_cluster(
    launcher: str,
    cluster: Mapping[str, Any],
    image: str,
    tensors: Path,
    tensors_uri: str,
    out: Path,
    params: Mapping[str, Any],
    checkpoints: str = "",
    tracking_uri: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Train by a PyTorchJob or TrainJob, and bring the model to `out`.

    `launcher` is pytorchjob or trainjob, `cluster` the fields of JobSettings, `image` what the pods run
    unless `cluster` names one. Checkpoints go to `checkpoints` if it is a URL, else to the storage. Raises
    ClusterError, TrainingError with the reason of a failed job, and ConfigError.
    """
    if launcher not in KINDS:
        raise ConfigError(f"launcher {launcher!r} is not one of torchrun, {', '.join(KINDS)}")
    settings = _read(cluster, tracking_uri)
    connection = connect(settings.namespace)
    name = new_name(settings, "hounsfield-train")
    arguments = train_arguments(
        place_tensors(settings, tensors, tensors_uri),
        join(run_folder(settings, name), "model"),
        params,
        checkpoints if is_remote(checkpoints) else join(settings.root, "checkpoints"),
        tracking_uri,
        tags,
    )
    with _interrupted_by_sigterm():
        run_job(connection, launcher, name, settings, settings.image or image, arguments, _show)
    collect(settings, name, out)


def tune_on_cluster(
    cluster: Mapping[str, Any],
    image: str,
    experiment: Path,
    tensors: Path,
    tensors_uri: str,
    out: Path,
    max_trials: int,
    fixed: Mapping[str, Any],
) -> dict[str, Any]:
    """Run the Katib Experiment of the file `experiment`; see `hounsfield.training.tuning.tune`."""
    settings = _read(cluster, None)
    connection = connect(settings.namespace)
    with _interrupted_by_sigterm():
        return run_experiment(
            connection,
            experiment,
            settings,
            settings.image or image,
            place_tensors(settings, tensors, tensors_uri),
            out,
            max_trials,
            fixed,
        )


def _read(cluster: Mapping[str, Any], tracking_uri: str | None) -> JobSettings:
    if tracking_uri and tracking_uri.startswith(("sqlite:", "file:", "/")):
        raise ConfigError(
            f"tracking_uri {tracking_uri} is a file of one machine, which a job's pods cannot reach: "
            "name an MLflow server"
        )
    return read_settings(cluster)


def _show(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """A step that Kubernetes ends takes its job along, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

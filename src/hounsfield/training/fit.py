"""Train one network: this process alone, or as one of the processes of `torchrun` or a PyTorchJob."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import KubeflowEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

from hounsfield.errors import RegistryError, TrainingError
from hounsfield.training import checkpoint, precision
from hounsfield.training.batch_parts import count_parts
from hounsfield.training.data import TrainingData, lineage
from hounsfield.training.failures import as_sentences
from hounsfield.training.loop import Loop
from hounsfield.training.network import RECORD_FILE, Classifier, save_network, weights_digest
from hounsfield.training.params import TrainingParams
from hounsfield.training.provenance import code, machine
from hounsfield.training.tracking import RunLog, Tracking
from hounsfield.training.whole_file import is_remote, join, publish_folder, remove_folder

CHECKPOINT_EVERY_S = 60.0


@dataclasses.dataclass(frozen=True)
class Resuming:
    """Where checkpoints are and how often one is written.

    checkpoints: folder or URL for this and other runs, each below its own name; OUT/checkpoints by default.
    checkpoint: one file or URL to go on from; a run that it does not fit is refused.
    every_s: seconds between two checkpoints, which is what a kill can cost; 0 writes one after each step.
    """

    checkpoints: str | None = None
    checkpoint: str | None = None
    every_s: float = CHECKPOINT_EVERY_S


def fit(
    tensors_dir: Path | str,
    out: Path | str,
    params: TrainingParams,
    tracking: Tracking | None = None,
    resuming: Resuming | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Train on the splits `train` and `validation` of `tensors_dir` and leave the best epoch in `out`.

    Every process of a distributed run calls this; `environment` holds the variables that describe the group
    (RANK, WORLD_SIZE, ...). Started again after a break it goes on from the last checkpoint and ends at the
    same weights: to the bit in one process, to 1e-6 in more. `out`, a folder or a URL such as
    s3://bucket/model, gets `weights.pt` and `training.json` at the end, and nothing before. Raises
    TrainingError for data that cannot be trained on, for divergence, for lack of memory and for a checkpoint
    of another run; PlatformError for a full disk; RegistryError.
    """
    environment = os.environ if environment is None else environment
    resuming = resuming or Resuming()
    with _quiet(), _deterministic(), _ending_on_sigterm():
        data = TrainingData(Path(tensors_dir))
        fabric = _fabric(params, environment)
        fabric.launch()
        with as_sentences(params.batch_size, data.shape):
            _fit(
                fabric,
                data,
                Path(tensors_dir),
                str(out),
                params,
                tracking or Tracking(),
                resuming,
                environment,
            )
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _fit(
    fabric: Fabric,
    data: TrainingData,
    tensors_dir: Path,
    out: str,
    params: TrainingParams,
    tracking: Tracking,
    resuming: Resuming,
    environment: Mapping[str, str],
) -> None:
    parts = count_parts(params.batch_size, params.batch_parts, fabric.world_size)
    params = dataclasses.replace(params, batch_parts=parts)
    identity = dataclasses.asdict(params) | {"shape": list(data.shape), "data": data.digest}
    place = checkpoint.folder_of(resuming.checkpoints or join(out, "checkpoints"), identity)
    file = join(place, checkpoint.FILE)
    _check_same_data(fabric, data)
    state = _state(fabric, file, resuming.checkpoint, identity)
    loop = Loop(fabric, params, data)
    if state is not None:
        loop.load(state)
    log, origin = None, {}
    if fabric.is_global_zero:
        origin = _origin(fabric, tensors_dir, environment)
        tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in origin.items()}
        tracking = dataclasses.replace(tracking, tags={**tags, **tracking.tags})
        log = RunLog(tracking, identity, state["run_id"] if state is not None else None)
    succeeded = False
    try:
        loop.run(log, lambda state: checkpoint.save(file, identity, state), resuming.every_s)
        if fabric.is_global_zero:
            network = loop.best_network()
            digest = weights_digest(network.state_dict())
            record = _record(loop, params, data, origin, digest, log.run_id)
            log.tags({"weights_sha256": digest, "best_epoch": str(record["best_epoch"])})
            _save(network, out, record)
        succeeded = True
    except TrainingError:
        if fabric.is_global_zero:  # nothing to go on from: the next start has other parameters
            remove_folder(place)
        raise
    finally:
        if log is not None:
            with contextlib.nullcontext() if succeeded else contextlib.suppress(RegistryError):
                log.end(succeeded)
    if fabric.is_global_zero:
        remove_folder(place)
        if not (resuming.checkpoints or is_remote(out)):
            with contextlib.suppress(OSError):  # not empty: the checkpoint of another run is there
                (Path(out) / "checkpoints").rmdir()


def _check_same_data(fabric: Fabric, data: TrainingData) -> None:
    """Each pod reads its own copy: a process with another one would spoil the weights of all, unseen."""
    if fabric.world_size > 1:
        digests: list[Any] = [None] * fabric.world_size
        distributed.all_gather_object(digests, data.digest)
        if len(set(digests)) > 1:
            raise TrainingError(f"the processes were given different tensors: digests {', '.join(digests)}")


def _state(
    fabric: Fabric, file: str, given: str | None, identity: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What the checkpoint holds, or None; the process of rank 0 reads it for all, whose disks may lack it."""
    found: dict[str, Any] | TrainingError | None = None
    if fabric.is_global_zero:
        try:
            found = checkpoint.load(file, identity)
            if found is None and given:
                found = checkpoint.load(given, identity)
                if found is None:
                    raise TrainingError(f"there is no checkpoint {given}")
        except TrainingError as error:
            found = error
    found = fabric.broadcast(found)
    if isinstance(found, TrainingError):  # in every process, so that all end with the sentence
        raise found
    return found


def _save(network: Classifier, out: str, record: Mapping[str, Any]) -> None:
    if not is_remote(out):
        save_network(network, Path(out), record)
        return
    with tempfile.TemporaryDirectory() as scratch:
        save_network(network, Path(scratch), record)
        publish_folder(Path(scratch), out, last=RECORD_FILE)


def _origin(fabric: Fabric, tensors_dir: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        **lineage(tensors_dir),
        **code(environment),
        "processes": str(fabric.world_size),
        "machine": machine(torch.get_num_threads(), fabric.device.type),
    }


def _record(
    loop: Loop,
    params: TrainingParams,
    data: TrainingData,
    origin: Mapping[str, Any],
    digest: str,
    run_id: Any,
) -> dict[str, Any]:
    return {
        "architecture": params.architecture,
        "spatial_dims": data.spatial_dims,
        "size_px": data.shape[-1],
        "seed": params.seed,
        "epochs": params.epochs,
        "params": dataclasses.asdict(params),
        "imbalance": loop.imbalance,
        "precision": loop.precision,
        "positive_weight": loop.odds_factor,
        "best_epoch": loop.best_row["epoch"],
        "history": loop.history,
        "weights_sha256": digest,
        "data": data.digest,
        "origin": dict(origin),
        "mlflow_run_id": run_id,
    }


def _fabric(params: TrainingParams, environment: Mapping[str, str]) -> Fabric:
    """Fabric for this process: `torchrun` or the operator describe the group in WORLD_SIZE and its kin."""
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    world = int(environment.get("WORLD_SIZE", "1"))
    number = precision.choose(params.precision, params.architecture, torch.device(accelerator))
    common = {"accelerator": accelerator, "precision": precision.FABRIC_NAMES[number]}
    if world == 1:
        return Fabric(devices=1, **common)
    local = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    # Without torchrun, one process a pod: RANK and WORLD_SIZE are what the operator set for the pod.
    plugins = [] if "TORCHELASTIC_RUN_ID" in environment else [KubeflowEnvironment()]
    # `RunningStatistics` shares the buffers, at each step.
    strategy = DDPStrategy(
        process_group_backend="nccl" if accelerator == "cuda" else "gloo",
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    return Fabric(devices=local, num_nodes=world // local, strategy=strategy, plugins=plugins, **common)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Kernels that add in a fixed order; on a GPU a few have no such twin, and torch says which."""
    before, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = filled


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Leave at once on SIGTERM, so that the MLflow run is ended; the last checkpoint is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Fabric's banner and MONAI's advice."""
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield

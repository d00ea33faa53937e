"""Train one network: this process alone, or as one of the processes of `torchrun` or a PyTorchJob."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy

from hounsfield.errors import TrainingError
from hounsfield.training.data import TensorsModule
from hounsfield.training.module import CHECKPOINT_KEY, ClassifierModule
from hounsfield.training.network import save_network
from hounsfield.training.params import TrainingParams
from hounsfield.training.tracking import RunLog, Tracking


def fit(
    tensors_dir: Path,
    out: Path,
    params: TrainingParams,
    tracking: Tracking | None = None,
    checkpoints: Path | None = None,
) -> None:
    """Train on the splits `train` and `validation` of `tensors_dir` and leave the best epoch in `out`.

    Every process of a distributed run calls this. While it runs, checkpoints live in a folder of
    `checkpoints` (`out/checkpoints` by default) named after parameters and data: started again after a
    break it goes on from the last whole epoch, and never from a checkpoint of another run. `out` gets
    `weights.pt` and `training.json` at the end. Raises TrainingError for data that cannot be trained on,
    and for divergence.
    """
    _quiet()
    pl.seed_everything(params.seed, workers=True, verbose=False)
    data = TensorsModule(tensors_dir, params.batch_size, params.seed)
    # The number of processes is part of it: each draws its own augmentation.
    processes = _processes()
    identity = dataclasses.asdict(params) | {
        "size_px": data.size_px,
        "data": _digest(data),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }
    module = ClassifierModule(params, data.positive_weight)
    folder = (checkpoints or out / "checkpoints") / _name(identity)
    last = folder / "last.ckpt"
    resumed = _resumable(last)
    keeper = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="validation_auroc",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    trainer = pl.Trainer(
        max_epochs=params.epochs,
        **processes,
        deterministic=True,
        use_distributed_sampler=False,  # the data module deals the images itself
        callbacks=[keeper, _EndOnSigterm()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    if trainer.is_global_zero:
        module.run_log = RunLog(
            tracking or Tracking(), identity, resumed["run_id"] if resumed is not None else None
        )
    succeeded = False
    try:
        trainer.fit(module, data, ckpt_path=last if resumed is not None else None, weights_only=True)
        succeeded = True
    except TrainingError:
        if trainer.is_global_zero:  # nothing to go on from: the next start has other parameters
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if module.run_log is not None:
            module.run_log.end(succeeded)
    if trainer.is_global_zero:
        _write(module, keeper.best_model_path, data.size_px, out)
        shutil.rmtree(folder)


class _EndOnSigterm(pl.Callback):
    """Leave at once, and orderly, on SIGTERM.

    Lightning would wait for the end of the batch in every process, which never comes once one of them is
    gone. It puts back the handler that was there before when training ends.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _write(module: ClassifierModule, best: str, size_px: int, out: Path) -> None:
    state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    module.remove_prior_shift()
    best_row = max(module.history, key=lambda row: row["validation_auroc"])
    record = {
        "architecture": module.params.architecture,
        "size_px": size_px,
        "seed": module.params.seed,
        "epochs": module.params.epochs,
        "params": dataclasses.asdict(module.params),
        "positive_weight": module.positive_weight,
        "best_epoch": best_row["epoch"],
        "history": module.history,
        "mlflow_run_id": module.run_log.run_id if module.run_log else None,
    }
    save_network(module.network, out, record)


def _resumable(last: Path) -> dict[str, Any] | None:
    """What the last checkpoint says of its run; None without a checkpoint."""
    if not last.exists():
        return None
    try:
        return torch.load(last, map_location="cpu", weights_only=True)[CHECKPOINT_KEY]
    except Exception as error:
        raise TrainingError(
            f"{last} cannot be read as a checkpoint ({type(error).__name__}); "
            f"remove {last.parent} to start over"
        ) from error


def _name(identity: dict[str, Any]) -> str:
    """A folder name that two runs share only when they would end at the same weights."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _digest(data: TensorsModule) -> str:
    """SHA-256 over the tensors and labels that training sees, shortened."""
    digest = hashlib.sha256()
    for part in (data.train_set, data.validation_set):
        for tensor in part.tensors:
            digest.update(tensor.numpy())
    return digest.hexdigest()[:16]


def _processes() -> dict[str, Any]:
    """Trainer arguments for this process: `torchrun` describes the group in WORLD_SIZE."""
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return {"accelerator": accelerator, "devices": 1}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # The module averages the batch statistics itself, once an epoch instead of at every step.
    strategy = DDPStrategy(
        process_group_backend="nccl" if accelerator == "gpu" else "gloo",
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    return {"accelerator": accelerator, "devices": local, "num_nodes": world // local, "strategy": strategy}


def _quiet() -> None:
    """Silence advice of Lightning that does not fit data in memory, and its banner."""
    import logging

    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")

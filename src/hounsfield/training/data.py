"""The training and validation splits in memory, dealt to the processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

from hounsfield.errors import TrainingError
from hounsfield.imaging.preprocess import load_split


class TensorsModule(pl.LightningDataModule):
    """Batches of (image (n, 1, S, S) float32, label (n,) float32), `batch_size` images over all processes.

    Training images are shuffled by (seed, epoch) alone, so that a resumed run sees the same order. Validation
    images are dealt in turn and none is repeated, so that a metric over all processes is exact.
    """

    def __init__(self, tensors_dir: Path, batch_size: int, seed: int) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        self.train_set, self.train_labels = _read(tensors_dir, "train")
        self.validation_set, self.validation_labels = _read(tensors_dir, "validation")

    @property
    def size_px(self) -> int:
        return self.train_set.tensors[0].shape[-1]

    @property
    def positive_weight(self) -> float:
        """Negatives a positive in the training split: the weight that makes both classes count the same."""
        positives = float(self.train_labels.sum())
        return (len(self.train_labels) - positives) / positives

    def train_dataloader(self) -> DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        if self.batch_size % world or self.batch_size // world < 2:
            raise TrainingError(
                f"batch_size {self.batch_size} cannot be dealt to {world} processes: it must be a multiple "
                f"of {world} that leaves each at least 2 images"
            )
        sampler = DistributedSampler(
            self.train_set, num_replicas=world, rank=rank, shuffle=True, seed=self.seed, drop_last=True
        )
        each = min(self.batch_size // world, len(sampler))
        if each < 2:
            raise TrainingError(
                f"the train split has {len(self.train_set)} images, too few for {world} processes"
            )
        # A last batch of one or two images would upset the batch statistics.
        # A loader draws a seed for each pass; its own generator leaves the draws of training alone.
        return DataLoader(
            self.train_set, batch_size=each, sampler=sampler, drop_last=True, generator=torch.Generator()
        )

    def val_dataloader(self) -> DataLoader:
        mine = range(self.trainer.global_rank, len(self.validation_set), self.trainer.world_size)
        return DataLoader(Subset(self.validation_set, mine), batch_size=64, shuffle=False)


def _read(tensors_dir: Path, split: str) -> tuple[TensorDataset, np.ndarray]:
    images, table = load_split(tensors_dir, split)
    labels = table["label"].to_numpy(dtype=np.float32)
    counts = (int((labels == 0).sum()), int((labels == 1).sum()))
    if 0 in counts:
        raise TrainingError(
            f"the {split} split has {counts[0]} negative and {counts[1]} positive images; "
            "both classes are needed"
        )
    if not np.isfinite(images).all():
        raise TrainingError(f"the {split} split holds pixels that are not finite; run preprocess again")
    return TensorDataset(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)), labels

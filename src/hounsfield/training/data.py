"""The training and validation splits: labels in memory, images read from the shards batch by batch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hounsfield.errors import TrainingError
from hounsfield.imaging.preprocess import DATASET, SplitImages, open_split

_CHUNK = 256


class Split:
    """One split, its images in the order of their source files' SHA-256.

    The index is in the order of pseudonyms, which change with the de-identification key; this order does not,
    so that the same files train the same network whatever the key. Frames of one file are in the order of
    the SHA-256 of their pixels. `labels` (N,) float32.
    """

    def __init__(self, tensors_dir: Path, name: str) -> None:
        images, table = open_split(tensors_dir, name)
        order = _by_content(images, table["sha256"]) if "sha256" in table else np.arange(len(table))
        self.name, self._images, self._order = name, images, order
        self.labels = table["label"].to_numpy(dtype=np.float32)[order]
        self.shape = images.shape
        counts = (int((self.labels == 0).sum()), int((self.labels == 1).sum()))
        if 0 in counts:
            raise TrainingError(
                f"the {name} split has {counts[0]} negative and {counts[1]} positive images; "
                "both classes are needed"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, *shape) float32 and labels (n,) float32 at `positions` (n,)."""
        images, labels = self._images[self._order[positions]], self.labels[positions]
        return torch.from_numpy(images), torch.from_numpy(labels)

    def check(self, digest: Any) -> None:
        """Read every image once, into `digest`; TrainingError when a pixel is not finite."""
        digest.update(self.labels)
        for start in range(0, len(self), _CHUNK):
            images, _ = self.batch(np.arange(start, min(start + _CHUNK, len(self))))
            if not torch.isfinite(images).all():
                raise TrainingError(
                    f"the {self.name} split holds pixels that are not finite; run preprocess again"
                )
            digest.update(images.numpy())


def _by_content(images: SplitImages, sha256: pd.Series) -> np.ndarray:
    keys = [(digest, b"") for digest in sha256]
    for position in np.flatnonzero(sha256.duplicated(keep=False)):
        pixels = images[np.array([position])].tobytes()
        keys[position] = (keys[position][0], hashlib.sha256(pixels).digest())
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


class TrainingData:
    """Both splits that training sees; `digest` is SHA-256 over their pixels and labels, shortened.

    Raises TrainingError for a split of one class, and for pixels that are not finite.
    """

    def __init__(self, tensors_dir: Path) -> None:
        self.train, self.validation = Split(tensors_dir, "train"), Split(tensors_dir, "validation")
        self.shape: tuple[int, ...] = self.train.shape
        digest = hashlib.sha256()
        for split in (self.train, self.validation):
            split.check(digest)
        self.digest = digest.hexdigest()[:16]

    @property
    def spatial_dims(self) -> int:
        return len(self.shape) - 1


def lineage(tensors_dir: Path) -> dict[str, Any]:
    """What came with the tensors: their contract, and the data's fingerprint and seed of split."""
    tensors_dir = Path(tensors_dir)
    found = {"contract": json.loads((tensors_dir / "contract.json").read_text())}
    if (tensors_dir / DATASET).is_file():
        dataset = json.loads((tensors_dir / DATASET).read_text())
        found |= {"data_fingerprint": dataset["fingerprint"], "split_seed": dataset["seed"]}
    return found

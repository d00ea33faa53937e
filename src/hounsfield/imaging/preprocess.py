"""The preprocess step: an ingested dataset becomes tensors, and training reads them split by split."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hounsfield.config import SPLITS
from hounsfield.dicom.quarantine import Refused
from hounsfield.errors import DataError
from hounsfield.imaging.contract import FILE_NAME, ImageContract, prepare
from hounsfield.progress import Reporter

if TYPE_CHECKING:
    import pandas as pd

INDEX = "index.parquet"
REFUSED = "refused.parquet"
DATASET = "dataset.json"
IMAGES_PER_SHARD = 4096
_READ_AHEAD = 4
"""Files that the disk is told of, for each process that decodes."""


def preprocess(dataset_dir: Path, out: Path, contract: ImageContract, workers: int = 2) -> dict:
    """Prepare every image of an ingested dataset.

    Writes into `out`: `shard-00000.npy`, ... float32 (N, 1, size, size) in [0, 1], in the order of the index;
    `index.parquet`, the dataset's columns with `shard` and `row`; `refused.parquet`, what the contract could
    not prepare (sop_instance_uid, reason); `dataset.json`, the dataset's own, where it has one; and, last of
    all, `contract.json`, so that a folder with one is whole. Returns counts and the contract's digest.
    Raises DataError when there is nothing to prepare.
    """
    import pandas as pd

    dataset_dir, out = Path(dataset_dir), Path(out)
    try:
        index = pd.read_parquet(dataset_dir / INDEX)
    except FileNotFoundError:
        raise DataError(f"{INDEX} is missing in the dataset folder {dataset_dir}: run ingest first") from None
    if index.empty:
        raise DataError(f"{INDEX} of the dataset folder {dataset_dir} holds no image")

    out.mkdir(parents=True, exist_ok=True)
    for stale in (out / FILE_NAME, *out.glob("shard-*.npy")):
        stale.unlink(missing_ok=True)

    reporter = Reporter("preprocess", len(index))
    shards, refusals, done = [], [], 0
    for number, start in enumerate(range(0, len(index), IMAGES_PER_SHARD)):
        part = index.iloc[start : start + IMAGES_PER_SHARD]
        images: dict[int, np.ndarray] = {}
        for position, outcome in _prepare_files(dataset_dir, list(part["file"]), contract, workers):
            if isinstance(outcome, Refused):
                uid = part["sop_instance_uid"].iloc[position]
                refusals.append({"sop_instance_uid": uid, "reason": str(outcome.reason)})
            else:
                images[position] = outcome
            done += 1
            reporter.update(done, "images")
        if images:
            kept = sorted(images)
            np.save(out / f"shard-{number:05d}.npy", np.stack([images[position] for position in kept]))
            shards.append(part.iloc[kept].assign(shard=number, row=range(len(kept))))
    if not shards:
        raise DataError(
            f"none of the {len(index)} images could be prepared; the first reason is {refusals[0]['reason']}"
        )
    pd.concat(shards, ignore_index=True).to_parquet(out / INDEX)
    refused = pd.DataFrame(refusals, columns=["sop_instance_uid", "reason"])
    refused.sort_values("sop_instance_uid", ignore_index=True).to_parquet(out / REFUSED)
    if (dataset_dir / DATASET).is_file():
        shutil.copy(dataset_dir / DATASET, out / DATASET)  # the fingerprint goes with the tensors
    contract.save(out)
    return {
        "images": len(index) - len(refusals),
        "refused": len(refusals),
        "contract_digest": contract.digest,
    }


class SplitImages:
    """The images of one split, read from the shards as they are asked for: a set may be larger than memory.

    `shape` is that of one image, (1, size, size) or (1, depth, size, size).
    """

    def __init__(self, tensors_dir: Path, rows: pd.DataFrame) -> None:
        self._shard, self._row = rows["shard"].to_numpy(), rows["row"].to_numpy()
        self._files = {
            shard: np.load(tensors_dir / f"shard-{shard:05d}.npy", mmap_mode="r")
            for shard in sorted(set(self._shard.tolist()))
        }
        self.shape: tuple[int, ...] = next(iter(self._files.values())).shape[1:]

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, positions: np.ndarray | slice) -> np.ndarray:
        """float32 (n, *shape), in the order of `positions`."""
        shards, rows = self._shard[positions], self._row[positions]
        images = np.empty((len(rows), *self.shape), dtype=np.float32)
        for shard, file in self._files.items():
            here = shards == shard
            images[here] = file[rows[here]]
        return images


def open_split(tensors_dir: Path, split: str) -> tuple[SplitImages, pd.DataFrame]:
    """One split of a preprocessed dataset: its images, and their rows of the index in the same order.

    Raises DataError when the folder is not whole or the split is empty.
    """
    import pandas as pd

    tensors_dir = Path(tensors_dir)
    if split not in SPLITS:
        raise DataError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if not (tensors_dir / FILE_NAME).is_file():
        raise DataError(f"{FILE_NAME} is missing in the tensors folder {tensors_dir}: run preprocess (again)")
    index = pd.read_parquet(tensors_dir / INDEX)
    rows = index[index["split"] == split].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"split {split!r} of the tensors folder {tensors_dir} holds no image")
    return SplitImages(tensors_dir, rows), rows


def load_split(tensors_dir: Path, split: str) -> tuple[np.ndarray, pd.DataFrame]:
    """As `open_split`, with all images in memory: float32 (N, 1, size, size) in [0, 1]."""
    images, rows = open_split(tensors_dir, split)
    return images[:], rows


def _prepare_files(
    dataset_dir: Path, files: list[str], contract: ImageContract, workers: int
) -> Iterator[tuple[int, np.ndarray | Refused]]:
    """(position in `files`, prepared image or refusal), in any order, decoded where a decoder may die."""
    from hounsfield.dicom.parsing import announce
    from hounsfield.dicom.sandbox import Sandbox

    def announced(item: tuple[int, str]) -> Path:
        path = dataset_dir / item[1]
        announce(path)
        return path

    work = functools.partial(_prepare_file, contract=contract)
    with Sandbox(workers) as sandbox:
        outcomes = sandbox.map(work, enumerate(files), prepare=announced, threads=workers * _READ_AHEAD)
        for (position, _), outcome in outcomes:
            yield position, outcome


def _prepare_file(path: Path, contract: ImageContract) -> np.ndarray:
    from hounsfield.dicom.reading import read_image

    return prepare(read_image(path), contract)

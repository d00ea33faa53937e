"""Reading embeddings: `.npy`, shape (N, E), one row an image, any float dtype, finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hounsfield.errors import GuardError


def read_embeddings(path: Path, min_rows: int) -> np.ndarray:
    """The embeddings at `path` as float32 (N, E); GuardError for another shape, too few rows or NaN."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        raise GuardError(f"{path.name} is missing, or is no .npy file of numbers") from None
    if values.ndim != 2 or values.dtype.kind != "f":
        raise GuardError(
            f"{path.name} has the shape {values.shape} and dtype {values.dtype}; "
            "embeddings are floats of shape (N, E)"
        )
    if len(values) < min_rows:
        raise GuardError(f"{path.name} has {len(values)} rows; at least {min_rows} are needed")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise GuardError(f"{path.name} row {row} has a value that is not finite")
    return values.astype(np.float32)

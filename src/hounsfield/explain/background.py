"""What a hidden part of an image is replaced with: the typical image without the finding.

The choice decides what an attribution means, so the package carries it. Hiding a region by blurring it asks
the network about an image such as it never saw: measured on the sample set, a blurred radiograph scores a
logit of +8 to the network, more than most with the finding, and attributions against it point at nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hounsfield.errors import PackageError
from hounsfield.imaging.preprocess import INDEX, load_split

BACKGROUND = "background.npy"
MOST_IMAGES = 512
LEAST_IMAGES = 16
"""A median of fewer images would show too much of a single patient's."""


def typical_negative(tensors_dir: Path) -> np.ndarray | None:
    """The pixelwise median of training images without the finding, float32 (1, size, size) in [0, 1].

    Of at most MOST_IMAGES, evenly spread over the split. None when there are fewer than LEAST_IMAGES. An
    order statistic of many images at every pixel: no patient's image can be had back from it.
    """
    import pandas as pd

    if not (pd.read_parquet(tensors_dir / INDEX, columns=["split"])["split"] == "train").any():
        return None
    images, table = load_split(tensors_dir, "train")
    negatives = np.flatnonzero(table["label"].to_numpy() == 0)
    if len(negatives) < LEAST_IMAGES:
        return None
    chosen = negatives[np.linspace(0, len(negatives) - 1, min(len(negatives), MOST_IMAGES)).astype(int)]
    return np.median(images[chosen], axis=0).astype(np.float32)


def load_background(package_dir: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The background of the package, float32 `shape`; PackageError when it has none of that shape."""
    path = package_dir / BACKGROUND
    try:
        background = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise PackageError(
            f"model package {package_dir.name} has no {BACKGROUND}, without which it cannot be explained; "
            "write the package again"
        ) from None
    except (OSError, ValueError):
        raise PackageError(f"{BACKGROUND} of model package {package_dir.name} is not an array") from None
    if background.shape != shape or background.dtype != np.float32 or not np.isfinite(background).all():
        raise PackageError(
            f"{BACKGROUND} of model package {package_dir.name} is not float32 {shape} of finite numbers"
        )
    return background

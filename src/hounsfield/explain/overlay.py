"""A picture of an image with its attribution."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

SMOOTHING_PX = 1.5
"""Gradients of a convolutional network flicker from pixel to pixel; the eye reads regions."""


def write_overlay(target: Path | BinaryIO, image: np.ndarray, attribution: np.ndarray, title: str) -> None:
    """Write a PNG of `image` (S, S) in [0, 1], and beside it with `attribution` (S, S) in logits a pixel.

    Red speaks for the finding and blue against it, both on one scale that is symmetric about zero.
    """
    from matplotlib.figure import Figure

    smooth = cv2.GaussianBlur(attribution.astype(np.float32), (0, 0), SMOOTHING_PX)
    limit = max(float(np.quantile(np.abs(smooth), 0.999)), 1e-12)
    figure = Figure(figsize=(6.4, 3.5), dpi=100, layout="constrained")
    plain, overlaid = figure.subplots(1, 2)
    for axes in (plain, overlaid):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    # Where nothing is attributed the radiograph stays visible.
    opacity = np.clip(np.abs(smooth) / limit, 0, 1) * 0.75
    overlaid.imshow(smooth, cmap="seismic", vmin=-limit, vmax=limit, alpha=opacity)
    figure.suptitle(title, fontsize=10)
    # Without the date and the version of the writer the same attribution is the same file.
    figure.savefig(target, format="png", metadata={"Software": None})


def write_global(target: Path | BinaryIO, background: np.ndarray, size: np.ndarray) -> None:
    """Write a PNG of `size` (G, G), the mean size of the attributions, over the `background` (S, S)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    side = background.shape[-1]
    axes.imshow(background, cmap="gray", vmin=0, vmax=1)
    limit = max(float(size.max()), 1e-12)
    drawn = axes.imshow(
        size,
        cmap="inferno",
        vmin=0,
        vmax=limit,
        alpha=0.8 * np.sqrt(size / limit),  # as in an overlay: where nothing is attributed, the radiograph
        extent=(-0.5, side - 0.5, side - 0.5, -0.5),
    )
    axes.set_axis_off()
    figure.colorbar(drawn, label="mean |attribution| of a region, logits", shrink=0.9)
    figure.savefig(target, format="png", metadata={"Software": None})

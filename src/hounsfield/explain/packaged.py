"""SHAP on the packaged model itself: which regions moved its logit, asked of the engine that serves.

The engine is a function from images to logits and nothing more (ONNX Runtime or OpenVINO, fp32 or INT8), so
the method is model-agnostic: Owen values, the Shapley values of a hierarchy of regions, by shap's
PartitionExplainer (Lundberg & Lee, NeurIPS 2017; Owen, 1977). Every split of a region hands the whole change
of the logit to its halves, so the values sum to f(image) - f(background) whatever the number of evaluations;
a smaller budget only leaves some regions coarser.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from hounsfield.errors import HounsfieldError

METHOD = "Owen values (shap.PartitionExplainer) on the logit, against the median negative training image"
GRID = 16
"""Regions a side at the finest (6 pixels each of an image of 96): finer ones pointed no better, measured."""
BATCH = 16
LEAST_EVALUATIONS = 64
MOST_EVALUATIONS = 512


class ExplanationTimeoutError(HounsfieldError):
    """The model was too slow, or the machine too busy, to explain an image within its time."""


@dataclass(frozen=True)
class Attribution:
    """Why the logit of one image differs from the background's.

    regions: float32 (G, G), row and column, in logits; positive speaks for the finding. G is GRID, or the
        image's side where that is less.
    completeness_error: distance, in logits, of their sum from `logit - background_logit`.
    """

    regions: np.ndarray
    logit: float
    background_logit: float
    completeness_error: float
    evaluations: int

    def pixels(self, size_px: int) -> np.ndarray:
        """Logits a pixel, float32 (size, size), each region's spread evenly; its sum is that of `regions`."""
        region = _region_of(size_px)
        share = np.bincount(region)
        return (self.regions / np.outer(share, share)).astype(np.float32)[region][:, region]


class PackagedExplainer:
    """Explains single images by `run`, which maps images float32 (N, 1, S, S) to logits (N,).

    `background` is float32 (1, S, S). An image gets as many evaluations as fit into `target_s` at the speed
    measured on it, LEAST_EVALUATIONS to `most_evaluations`; after `limit_s` it is given up. Safe to use from
    several threads, each computing on its own.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        background: np.ndarray,
        *,
        target_s: float = 8.0,
        limit_s: float = 20.0,
        most_evaluations: int = MOST_EVALUATIONS,
    ) -> None:
        self._run, self._background = run, background
        self._target_s, self._limit_s, self._most = target_s, limit_s, most_evaluations

    def attribute(self, image: np.ndarray) -> Attribution:
        """Attribute the logit of `image`, float32 (1, S, S) in [0, 1].

        Raises ExplanationTimeoutError, and what `run` raises.
        """
        shap = _shap()
        model = _TimedModel(self._run, self._limit_s)
        # One by one, as the predictor asks: an engine may round a batch otherwise than an image.
        logit, background_logit = (model(each[np.newaxis])[0] for each in (image, self._background))
        explainer = shap.explainers.PartitionExplainer(model, _masker(self._background))
        answer = explainer(
            image[np.newaxis], max_evals=self._budget(model, image), batch_size=BATCH, silent=True
        )
        regions = np.asarray(answer.values[0], dtype=np.float64)
        return Attribution(
            regions=regions.astype(np.float32),
            logit=float(logit),
            background_logit=float(background_logit),
            completeness_error=abs(float(regions.sum()) - float(logit - background_logit)),
            evaluations=model.evaluations,
        )

    def attribute_all(self, images: Sequence[np.ndarray], threads: int) -> Iterator[Attribution]:
        """`attribute` of each image, in their order, `threads` at a time."""
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(self.attribute, images)

    def _budget(self, model: _TimedModel, image: np.ndarray) -> int:
        """Evaluations that fit into the target, by the time of one batch of this very model and moment."""
        if self._target_s == float("inf"):
            return self._most
        began_s = time.monotonic()
        model(np.repeat(image[np.newaxis], BATCH, axis=0))
        rate = BATCH / max(time.monotonic() - began_s, 1e-9)
        return int(min(max(self._target_s * rate, LEAST_EVALUATIONS), self._most))


_LOADING = threading.Lock()


def _shap() -> ModuleType:
    """shap, imported and with its numba functions compiled: seconds, which the first image pays and which a
    server that is never asked does not. They are no part of an image's time."""
    with _LOADING:
        import shap

        _compile()
    return shap


@functools.cache
def _compile() -> None:
    import shap

    tiny = np.zeros((1, 8, 8), dtype=np.float32)
    explainer = shap.explainers.PartitionExplainer(lambda images: images.sum((1, 2, 3)), _masker(tiny))
    explainer(tiny[np.newaxis], max_evals=4, batch_size=2, silent=True)


def without_haste(
    run: Callable[[np.ndarray], np.ndarray], background: np.ndarray, evaluations: int
) -> PackagedExplainer:
    """An explainer that spends `evaluations` on an image however slow the machine: the same numbers again."""
    return PackagedExplainer(
        run, background, target_s=float("inf"), limit_s=float("inf"), most_evaluations=evaluations
    )


class _TimedModel:
    """`run` in batches of at most BATCH, counted, and stopped between two of them when the time is over."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], limit_s: float) -> None:
        self._run, self._limit_s = run, limit_s
        self._deadline_s = time.monotonic() + limit_s
        self.evaluations = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        logits = []
        for start in range(0, len(images), BATCH):
            if time.monotonic() > self._deadline_s:
                raise ExplanationTimeoutError(
                    f"no explanation within {self._limit_s:g} s: the explainer is overloaded; ask again later"
                )
            logits.append(self._run(np.ascontiguousarray(images[start : start + BATCH])))
        self.evaluations += len(images)
        return np.concatenate(logits)


def _masker(background: np.ndarray):
    """A shap masker over regions. shap's own image masker has a feature a pixel: no budget that we can pay
    gets down to them, and its tree alone takes seconds to build."""
    import shap

    region = _region_of(background.shape[-1])
    grid = int(region[-1]) + 1

    class Regions(shap.maskers.Masker):
        shape = (1, grid * grid)
        clustering = _halves(grid)
        immutable_outputs = True
        fixed_background = False

        def mask_shapes(self, image: np.ndarray) -> list[tuple[int, int]]:
            return [(grid, grid)]

        def __call__(self, shown: np.ndarray, image: np.ndarray) -> tuple[np.ndarray]:
            pixels = shown.reshape(grid, grid)[region][:, region]
            return (np.where(pixels, image, background)[np.newaxis],)

    return Regions()


def _region_of(size_px: int) -> np.ndarray:
    """The region's row (or column) that each pixel's row (or column) is in."""
    return np.arange(size_px) * min(GRID, size_px) // size_px


@functools.cache
def _halves(grid: int) -> np.ndarray:
    """The hierarchy as a linkage matrix (scipy's form): each rectangle is its two halves, cut across its
    longer side, down to one region, which is number `row * grid + column`."""
    merges: list[tuple[int, int, int, int]] = []

    def build(top: int, bottom: int, left: int, right: int) -> tuple[int, int]:
        rows, columns = bottom - top, right - left
        if rows == columns == 1:
            return top * grid + left, 1
        if rows >= columns:
            middle = top + rows // 2
            first, second = build(top, middle, left, right), build(middle, bottom, left, right)
        else:
            middle = left + columns // 2
            first, second = build(top, bottom, left, middle), build(top, bottom, middle, right)
        merges.append((first[0], second[0], len(merges) + 1, first[1] + second[1]))
        return grid * grid + len(merges) - 1, first[1] + second[1]

    build(0, grid, 0, grid)
    return np.array(merges, dtype=float)

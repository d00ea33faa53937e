"""Intervals by resampling patients: images of one patient are not independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 500

Interval = dict[str, float | None]


def resamples(patient: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `count` arrays of weights (N,): how often each image is drawn when its patient is drawn."""
    _, group = np.unique(patient, return_inverse=True)
    patients = group.max() + 1
    rng = np.random.default_rng(seed)
    for _ in range(count):
        times_drawn = np.bincount(rng.integers(patients, size=patients), minlength=patients)
        yield times_drawn[group].astype(np.float64)


def intervals(
    patient: np.ndarray,
    metrics: Callable[[np.ndarray], dict[str, float | None]],
    seed: int,
    count: int = RESAMPLES,
) -> dict[str, Interval]:
    """`{"value", "low", "high"}` for each metric: percentile bootstrap at `CONFIDENCE` over patients.

    `metrics` takes weights (N,) and answers None for a metric that has no value under them, as the AUROC has
    none when one class only was drawn; such draws are left out, and without any draw left the ends are None.
    """
    value = metrics(np.ones(len(patient)))
    drawn: dict[str, list[float]] = {name: [] for name in value}
    for weight in resamples(patient, count, seed):
        for name, number in metrics(weight).items():
            if number is not None:
                drawn[name].append(number)
    tail = 100 * (1 - CONFIDENCE) / 2
    found: dict[str, Interval] = {}
    for name, number in value.items():
        ends = np.percentile(drawn[name], [tail, 100 - tail]) if drawn[name] and number is not None else None
        found[name] = {
            "value": number,
            "low": None if ends is None else float(ends[0]),
            "high": None if ends is None else float(ends[1]),
        }
    return found

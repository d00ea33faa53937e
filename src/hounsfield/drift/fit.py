"""Fit a model's drift detectors: `python -m hounsfield.drift.fit --reference embeddings.npy --table rows.csv
--out folder` (guard environment).

The reference must be images that the model was not trained on: a network separates its own training images
from new ones, and would call every new window drifted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.drift.detectors import NAMES, Detectors
from hounsfield.drift.rows import Rows, read_rows
from hounsfield.errors import HounsfieldError

MIN_REFERENCE = 40
HELD_OUT_SHARE = 0.25
CHECK_BATCHES = 20


def fit(
    reference: Rows, out: Path, p_value: float, seed: int, operating_point: float = 0.5
) -> dict[str, Any]:
    """Fit on 3/4 of `reference` and count false alarms on batches of the rest.

    Writes `out/` (a folder a detector, and `drift.json`) all at once, and returns the content of the latter.
    """
    order = np.random.default_rng(seed).permutation(len(reference))
    n_held_out = int(len(reference) * HELD_OUT_SHARE)
    held_out, fitted = reference.take(order[:n_held_out]), reference.take(order[n_held_out:])
    detectors = Detectors.fit(fitted, p_value, seed, operating_point)
    detectors.summary = {**detectors.summary, "false_alarms": _false_alarms(detectors, held_out, seed)}
    detectors.save(out)
    return dict(detectors.summary)


def _false_alarms(detectors: Detectors, held_out: Rows, seed: int) -> dict[str, Any]:
    """How often batches without drift raise an alarm; they overlap: a check, not an estimate."""
    generator = np.random.default_rng(seed + 1)
    size = min(50, max(5, len(held_out) // 2))
    alarms, by_detector = 0, dict.fromkeys(NAMES, 0)
    for _ in range(CHECK_BATCHES):
        batch = held_out.take(generator.choice(len(held_out), size, replace=False))
        drifted = [name for name, result in detectors.test(batch).items() if result.is_drift]
        alarms += bool(drifted)
        for name in drifted:
            by_detector[name] += 1
    return {
        "batches": CHECK_BATCHES,
        "batch_size": size,
        "alarms": alarms,
        "rate": alarms / CHECK_BATCHES,
        "by_detector": by_detector,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hounsfield.drift.fit",
        description="Fit drift detectors on what a model saw.",
        allow_abbrev=False,
    )
    parser.add_argument("--reference", type=Path, required=True, help="embeddings, .npy, float (N, E)")
    parser.add_argument("--table", type=Path, required=True, help="CSV: probability, and a column a field")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--p-value", type=float, default=0.05, help="chance of a false alarm a window (0.05)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--operating-point", type=float, default=0.5, help="positive from this score (0.5)")
    options = parser.parse_args(arguments)
    if not 0 < options.p_value < 1:
        parser.error(f"--p-value is {options.p_value}; it must lie between 0 and 1")
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    try:
        reference = read_rows(options.reference, options.table, MIN_REFERENCE)
        summary = fit(reference, options.out, options.p_value, options.seed, options.operating_point)
    except HounsfieldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(summary, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())

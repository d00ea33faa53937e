"""Score a batch: `python -m hounsfield.drift.score --detectors folder --batch batch.npy` (guard environment).

Prints one JSON object: `is_drift`, `p_value`, `threshold`, `distance` (squared MMD), `distance_threshold`,
`n_batch`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.drift.embeddings import read_embeddings
from hounsfield.drift.fit import DETECTOR_FOLDER, SUMMARY_FILE, seed_permutations
from hounsfield.errors import GuardError, HounsfieldError

MIN_BATCH = 5


def score(detectors: Path, batch: np.ndarray) -> dict[str, Any]:
    """Test `batch` (float32 (N, E)) against the detector; the same batch gives the same answer."""
    try:
        summary = json.loads((detectors / SUMMARY_FILE).read_text(encoding="utf-8"))
        size, seed = summary["embedding_size"], summary["seed"]
    except (OSError, ValueError, KeyError):
        raise GuardError(f"{detectors} holds no {SUMMARY_FILE} of hounsfield.drift.fit") from None
    if batch.shape[1] != size:
        raise GuardError(
            f"the batch has embeddings of {batch.shape[1]} values, the detector of {size}; "
            "is it of this model?"
        )
    from alibi_detect.saving import load_detector

    seed_permutations(seed)
    result = load_detector(detectors / DETECTOR_FOLDER).predict(batch)["data"]
    return {
        "detector": summary["detector"],
        "is_drift": bool(result["is_drift"]),
        "p_value": float(result["p_val"]),
        "threshold": float(result["threshold"]),
        "distance": float(result["distance"]),
        "distance_threshold": float(result["distance_threshold"]),
        "n_batch": len(batch),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hounsfield.drift.score", description="Test a batch of embeddings for drift."
    )
    parser.add_argument("--detectors", type=Path, required=True, help="what hounsfield.drift.fit wrote")
    parser.add_argument("--batch", type=Path, required=True, help=".npy, float (N, E)")
    options = parser.parse_args(arguments)
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    try:
        answer = score(options.detectors, read_embeddings(options.batch, MIN_BATCH))
    except HounsfieldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(answer, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())

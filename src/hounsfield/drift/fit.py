"""Fit a drift detector: `python -m hounsfield.drift.fit --reference embeddings.npy --out folder` (guard
environment).

The detector is the maximum mean discrepancy test (Gretton et al., JMLR 13, 2012) with a permutation p-value
and a Gaussian kernel whose width is the median distance of the reference. Its reference must be images that
the model was not trained on: a network separates its own training images from new ones, and would call every
new batch drifted.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.drift.embeddings import read_embeddings
from hounsfield.errors import HounsfieldError

DETECTOR_FOLDER, SUMMARY_FILE = "detector", "drift.json"
MIN_REFERENCE = 40
HELD_OUT_SHARE = 0.25
CHECK_BATCHES = 20
PERMUTATIONS = 200


def fit(reference: np.ndarray, out: Path, p_value: float, seed: int) -> dict[str, Any]:
    """Fit on 3/4 of `reference` (float32 (N, E)) and count false alarms on batches of the rest.

    Writes `out/detector/` and `out/drift.json` all at once, and returns the latter.
    """
    from alibi_detect.cd import MMDDrift
    from alibi_detect.saving import save_detector

    order = np.random.default_rng(seed).permutation(len(reference))
    n_held_out = int(len(reference) * HELD_OUT_SHARE)
    held_out, fitted = reference[order[:n_held_out]], reference[order[n_held_out:]]
    seed_permutations(seed)
    detector = MMDDrift(fitted, backend="pytorch", p_val=p_value, n_permutations=PERMUTATIONS, device="cpu")
    summary = {
        "detector": "MMDDrift",
        "p_value": p_value,
        "permutations": PERMUTATIONS,
        "seed": seed,
        "n_reference": len(fitted),
        "embedding_size": int(reference.shape[1]),
        "false_alarms": _false_alarms(detector, held_out, seed),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".drift-", dir=out.parent))
    try:
        save_detector(detector, draft / DETECTOR_FOLDER)
        (draft / SUMMARY_FILE).write_text(
            json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        if out.exists():
            shutil.rmtree(out)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return summary


def seed_permutations(seed: int) -> None:
    """alibi-detect draws its permutations from the global generators."""
    import torch

    np.random.seed(seed)
    torch.manual_seed(seed)


def _false_alarms(detector: Any, held_out: np.ndarray, seed: int) -> dict[str, Any]:
    """How often batches without drift raise an alarm; they overlap: a check, not an estimate."""
    generator = np.random.default_rng(seed + 1)
    size = min(50, max(5, len(held_out) // 2))
    batches = [held_out[generator.choice(len(held_out), size, replace=False)] for _ in range(CHECK_BATCHES)]
    alarms = sum(int(detector.predict(batch)["data"]["is_drift"]) for batch in batches)
    return {"batches": CHECK_BATCHES, "batch_size": size, "alarms": alarms, "rate": alarms / CHECK_BATCHES}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hounsfield.drift.fit", description="Fit a drift detector on embeddings."
    )
    parser.add_argument("--reference", type=Path, required=True, help=".npy, float (N, E)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--p-value", type=float, default=0.05, help="chance of a false alarm a batch (0.05)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    if not 0 < options.p_value < 1:
        parser.error(f"--p-value is {options.p_value}; it must lie between 0 and 1")
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    try:
        summary = fit(
            read_embeddings(options.reference, MIN_REFERENCE), options.out, options.p_value, options.seed
        )
    except HounsfieldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(summary, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())

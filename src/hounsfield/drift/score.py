"""Score a batch: `python -m hounsfield.drift.score --detectors folder --batch batch.npy` (guard environment).

Prints one JSON object for the embedding detector: `detector`, `is_drift`, `score` (squared MMD), `p_value`,
`threshold`, `n_batch`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.drift.detectors import EMBEDDING, MIN_BATCH, Detectors
from hounsfield.drift.embeddings import read_embeddings
from hounsfield.errors import HounsfieldError


def score(detectors: Path, batch: np.ndarray) -> dict[str, Any]:
    """Test `batch` (float32 (N, E)) against the embedding detector; the same batch gives the same answer."""
    result = Detectors.load(detectors).test_embedding(batch).as_dict()
    del result["by_field"]
    return {"detector": EMBEDDING, **result, "n_batch": len(batch)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hounsfield.drift.score", description="Test a batch of embeddings for drift.", allow_abbrev=False
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

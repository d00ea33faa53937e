"""How often the drift detectors cry wolf, and what they see: `python -m bench.drift EVALUATION` (guard).

EVALUATION is a folder of the evaluate step. Its validation images are shuffled, split into a reference and a
window, and tested, 200 times over: no image is in both, so what is counted is the rate of false alarms of the
method, not of one lucky reference. Then the same with a drift planted in the window.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hounsfield.drift.detectors import Detectors
from hounsfield.drift.rows import Rows, read_rows

P_VALUE = 0.05


def other_manufacturer(window: Rows) -> Rows:
    """The same images from a machine that the reference does not know."""
    return Rows(
        window.embedding, window.score, {**window.fields, "manufacturer": ("elsewhere",) * len(window)}
    )


def moved_embeddings(window: Rows) -> Rows:
    """Each embedding moved by a quarter of the spread of its value: another look of the same pictures."""
    moved = window.embedding + 0.25 * window.embedding.std(axis=0, keepdims=True)
    return Rows(moved.astype(np.float32), window.score, window.fields)


def higher_scores(window: Rows) -> Rows:
    """The model grows more certain of the finding: probabilities to the power of a half."""
    return Rows(window.embedding, np.sqrt(window.score), window.fields)


def rounds(pool: Rows, size: int, repeats: int, plant: Callable[[Rows], Rows]) -> Counter[str]:
    alarms: Counter[str] = Counter()
    generator = np.random.default_rng(5)
    for seed in range(repeats):
        order = generator.permutation(len(pool))
        found = Detectors.fit(pool.take(order[size:]), P_VALUE, seed).test(plant(pool.take(order[:size])))
        alarms.update(name for name, result in found.items() if result.is_drift)
        alarms["any"] += any(result.is_drift for result in found.values())
    return alarms


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drift", description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args(argv)
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    folder = options.evaluation
    pool = read_rows(folder / "embeddings-validation.npy", folder / "reference-validation.csv", 100)
    plants = {
        "none": (lambda window: window, options.repeats),
        "other manufacturer": (other_manufacturer, 20),
        "moved embeddings": (moved_embeddings, 20),
        "higher scores": (higher_scores, 20),
    }
    for planted, (plant, repeats) in plants.items():
        began_s = time.monotonic()
        alarms = rounds(pool, options.window, repeats, plant)
        seconds = (time.monotonic() - began_s) / repeats
        line = {"planted": planted, "windows": repeats, "images": options.window, "alarms": dict(alarms)}
        print(json.dumps({**line, "seconds_a_window": round(seconds, 3)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

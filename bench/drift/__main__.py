"""How often the drift detectors cry wolf, and what they see: `python -m bench.drift PLANTED` (guard).

PLANTED is what `python -m bench.drift.planted` wrote. False alarms: all images without drift are shuffled,
split into a reference and a window, and tested, 200 times over; no image is in both, so what is counted is
the rate of the method, not of one lucky reference. Power: the same with a window of a planted drift.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from hounsfield.drift.detectors import Detectors
from hounsfield.drift.kinds import kinds
from hounsfield.drift.rows import Rows, read_rows

P_VALUE = 0.05
LABEL = "label"


@dataclass(frozen=True)
class Pool:
    """Images without drift, and which of them a planted drift takes: `label` is the truth, (N,)."""

    rows: Rows
    label: np.ndarray
    windowed: Rows

    def of(self, field: str, *values: str) -> np.ndarray:
        return np.isin(self.rows.fields[field], values)


def read_pool(folder: Path) -> Pool:
    """Validation and test, one after the other; `windowed` holds the test images alone."""
    parts = [read_rows(folder / f"{name}.npy", folder / f"{name}.csv", 1) for name in ("validation", "test")]
    windowed = read_rows(folder / "window.npy", folder / "window.csv", 1)
    label = np.concatenate([np.array(part.fields.pop(LABEL), dtype=int) for part in parts])
    windowed.fields.pop(LABEL)
    fields = {name: parts[0].fields[name] + parts[1].fields[name] for name in parts[0].fields}
    joined = Rows(
        np.concatenate([part.embedding for part in parts]),
        np.concatenate([part.score for part in parts]),
        fields,
    )
    return Pool(joined, label, windowed)


Plant = Callable[[Pool, np.random.Generator, int], tuple[Rows, Rows]]
"""(reference, window of so many images), no image in both."""


def none(pool: Pool, generator: np.random.Generator, size: int) -> tuple[Rows, Rows]:
    order = generator.permutation(len(pool.rows))
    return pool.rows.take(order[size:]), pool.rows.take(order[:size])


def another_window(pool: Pool, generator: np.random.Generator, size: int) -> tuple[Rows, Rows]:
    """Validation against test images with another window of intensities: nothing in the header says so."""
    n_validation = len(pool.rows) - len(pool.windowed)
    drawn = generator.permutation(len(pool.windowed))[:size]
    return pool.rows.take(np.arange(n_validation)), pool.windowed.take(drawn)


def of_some(where: Callable[[Pool], np.ndarray], in_reference: bool, share: float = 1.0) -> Plant:
    """A window with `share` of its images where `where` says; the reference holds such images or not."""

    def plant(pool: Pool, generator: np.random.Generator, size: int) -> tuple[Rows, Rows]:
        chosen = where(pool)
        some, rest = (generator.permutation(np.flatnonzero(each)) for each in (chosen, ~chosen))
        # Never more than half of them, so that the reference keeps its share.
        n_some = min(round(share * size), len(some) // 2 if in_reference else len(some))
        window = np.concatenate([some[:n_some], rest[: round(n_some * (1 - share) / share)]])
        left = np.concatenate([some[n_some:] if in_reference else some[:0], rest[len(window) - n_some :]])
        return pool.rows.take(left), pool.rows.take(window)

    return plant


PLANTED: dict[str, Plant] = {
    "none": none,
    "another manufacturer": of_some(lambda pool: pool.of("manufacturer", "SIMULATED Dogwood"), False),
    "another window": another_window,
    "older patients": of_some(lambda pool: pool.of("age_band", "60-79", "80+"), True),
    "other prevalence": of_some(lambda pool: pool.label == 1, True, share=0.85),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drift", description=__doc__.splitlines()[0])
    parser.add_argument("planted", type=Path)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=200, help="windows without drift (200); a tenth with")
    options = parser.parse_args(argv)
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    operating_point = float((options.planted / "operating_point").read_text())
    pool = read_pool(options.planted)
    for name, plant in PLANTED.items():
        generator = np.random.default_rng(5)
        repeats = options.repeats if name == "none" else options.repeats // 10
        began_s, alarms, named = time.monotonic(), Counter(), Counter()
        for seed in range(repeats):
            reference, window = plant(pool, generator, options.window)
            found = Detectors.fit(reference, P_VALUE, seed, operating_point).test(window)
            raised = [detector for detector, result in found.items() if result.is_drift]
            alarms.update(raised + ["any"] * bool(raised))
            named.update([", ".join(kinds(found))] if raised else [])
        low, high = binomtest(alarms["any"], repeats).proportion_ci()
        line = {
            "planted": name,
            "windows": repeats,
            "images": len(window),
            "rate": alarms["any"] / repeats,
            "interval": [round(low, 3), round(high, 3)],
            "alarms": dict(alarms),
            "kinds": dict(named),
            "seconds_a_window": round((time.monotonic() - began_s) / repeats, 3),
        }
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m bench.rollout`: how often the rollout decides wrongly under a look after every batch, and how
soon it decides, beside a fixed-size test and Flagger's threshold rule.

Prints the tables, and writes build/bench/rollout.json, rollout.md and rollout.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.rollout import fixed, report
from bench.rollout.cases import CASES, RACES, Case, Race
from bench.rollout.simulation import Runs, flagger, run

ROOT = Path(__file__).resolve().parents[2]
ALPHA = 0.05
CASE_BATCH, CASE_LOOKS = 50, 200
RACE_BATCH = 10


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rollout", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000, help="simulated rollouts a case")
    parser.add_argument("--only", default="", help="only cases and races whose name contains this")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {"alpha": ALPHA, "rollouts": arguments.rollouts, "cases": [], "races": []}
    for number, case in enumerate(CASES):
        if arguments.only in case.name:
            found["cases"].append(_timed(case.name, lambda c=case, n=number: _case(c, arguments.rollouts, n)))
    for number, race in enumerate(RACES):
        if arguments.only in race.name:
            found["races"].append(_timed(race.name, lambda r=race, n=number: _race(r, arguments.rollouts, n)))
    found["peeking"] = fixed.wrong_when_peeked_at(0.01, 0.02, ALPHA, CASE_BATCH, CASE_LOOKS)
    text = report.tables(found)
    (arguments.out / "rollout.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    (arguments.out / "rollout.md").write_text(text)
    report.picture(found, arguments.out / "rollout.png")
    print(text)
    return 0


def _case(case: Case, rollouts: int, seed: int) -> dict[str, Any]:
    """False decisions of the whole policy; canary and stable share the traffic evenly."""
    runs = run(case.truths, rollouts=rollouts, looks=CASE_LOOKS, batch=CASE_BATCH, alpha=ALPHA, seed=seed)
    is_beyond = any(truth.is_beyond for truth in case.truths)
    at_margin = any(
        math.isclose(truth.canary - (0 if truth.alone else truth.stable), truth.margin)
        for truth in case.truths
    )
    return {
        "name": case.name,
        "batch": CASE_BATCH,
        "looks": CASE_LOOKS,
        "promoted": _rate(runs.promoted_at),
        "rolled_back": _rate(runs.rolled_back_at),
        "promotion_is_wrong": is_beyond or at_margin,
        "rollback_is_wrong": not is_beyond,
        "median_to_promotion": _median(runs.promoted_at),
        "median_to_rollback": _median(runs.rolled_back_at),
    }


def _race(race: Race, rollouts: int, seed: int) -> dict[str, Any]:
    """Requests to the canary until the decision is there, beside a fixed-size test of the same level."""
    truth, alpha = race.truth, ALPHA / (race.guardrails if race.is_loss else 1)
    wanted = {"alpha": alpha, "stable_per_canary": race.stable_per_canary}
    sizes = {
        power: fixed.requests_needed(truth.stable, truth.canary, truth.margin, power=power, **wanted)
        for power in (0.8, 0.9)
    }
    looks = math.ceil(4 * sizes[0.9] / RACE_BATCH)
    runs = run(
        (truth,), rollouts=rollouts, looks=looks, batch=RACE_BATCH, alpha=alpha, seed=100 + seed,
        stable_per_canary=race.stable_per_canary,
    )  # fmt: skip
    decided_at = runs.rolled_back_at if race.is_loss else runs.promoted_at
    median = _median(decided_at)
    is_flaggers = truth.name == "error rate" and race.guardrails == race.stable_per_canary == 1
    return {
        "name": race.name,
        "decision": "rollback" if race.is_loss else "promotion",
        "alpha": alpha,
        "fixed": {str(power): size for power, size in sizes.items()},
        "fixed_power": {
            str(power): fixed.power_at(truth.stable, truth.canary, truth.margin, requests=size, **wanted)
            for power, size in sizes.items()
        },
        "median": median,
        "p90": _quantile(decided_at, 0.9),
        "ratio": {str(power): None if median is None else median / size for power, size in sizes.items()},
        "decided_at_fixed_size": {
            str(power): float(np.mean(decided_at <= size)) for power, size in sizes.items()
        },
        "decided_at_twice_the_fixed_size": float(np.mean(decided_at <= 2 * sizes[0.9])),
        "flagger": _flagger(race, rollouts, seed) if is_flaggers else None,
    }


def _flagger(race: Race, rollouts: int, seed: int) -> dict[str, Any]:
    """Intervals of 20, 50 and 200 requests: what the rule does depends on how much falls into one."""
    found = {}
    for batch in (20, 50, 200):
        runs: Runs = flagger(race.truth, rollouts=rollouts, batch=batch, seed=200 + seed)
        found[str(batch)] = {
            "promoted": _rate(runs.promoted_at),
            "rolled_back": _rate(runs.rolled_back_at),
            "median": _median(runs.rolled_back_at if race.is_loss else runs.promoted_at),
        }
    return found


def _rate(at: np.ndarray) -> dict[str, float]:
    count, total = int(np.isfinite(at).sum()), len(at)
    low, high = report.wilson(count, total)
    return {"count": count, "rate": count / total, "low": low, "high": high}


def _median(at: np.ndarray) -> float | None:
    return _quantile(at, 0.5)


def _quantile(at: np.ndarray, quantile: float) -> float | None:
    value = float(np.quantile(at, quantile, method="higher"))
    return value if math.isfinite(value) else None


def _timed(name: str, work: Any) -> dict[str, Any]:
    began_s = time.monotonic()
    found = work()
    print(f"  {name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The explain step: overlays for true and false calls of the test split, and where the model looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hounsfield.config import CLASS_NAMES
from hounsfield.data.folder import whole_folder
from hounsfield.errors import DataError
from hounsfield.explain.checks import completeness
from hounsfield.explain.overlay import write_global, write_overlay
from hounsfield.explain.packaged import METHOD, Attribution, without_haste
from hounsfield.imaging.preprocess import load_split
from hounsfield.progress import Reporter

EXPLAIN_FILE = "explain.json"
GLOBAL_FILE = "global.png"
CASE_EVALUATIONS = 256
GLOBAL_IMAGES = 12
GLOBAL_EVALUATIONS = 128
KINDS = ("true-positive", "false-negative", "false-positive", "true-negative")


def explain(
    run: Callable[[np.ndarray], np.ndarray],
    background: np.ndarray,
    evaluation_dir: Path,
    tensors_dir: Path,
    out: Path,
    cases: int = 6,
    seed: int = 7,
    threads: int = 2,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `case-01-true-positive.png`, ..., `global.png` and `explain.json`, which is returned.

    `run` maps images float32 (N, 1, S, S) to logits (N,): the engine of the package, whose `background` is
    float32 (1, S, S), and whose explanation.json is `known`. `completeness_error` of a case is the distance,
    in logits, of the sum of its attributions from the change of the logit. `global` is the mean size of the
    attributions of GLOBAL_IMAGES images, half of them called positive. `out` appears whole or not at all.
    Raises DataError when the evaluation is of other tensors or the attributions do not add up.
    """
    images, table = load_split(tensors_dir, "test")
    predictions = _predictions(Path(evaluation_dir), table)
    chosen = choose_cases(predictions, cases)
    drawn = _draw(predictions["called"].to_numpy(), seed)
    reporter = Reporter("explain", len(chosen) + len(drawn))
    found: list[Attribution] = []
    for positions, evaluations in ((chosen["position"], CASE_EVALUATIONS), (drawn, GLOBAL_EVALUATIONS)):
        explainer = without_haste(run, background, evaluations)
        for each in explainer.attribute_all([images[position] for position in positions], threads):
            found.append(each)
            reporter.update(len(found), "images")
    checked = completeness(found)
    if not checked["passed"]:
        raise DataError(
            f"the attributions of an image miss the change of its logit by {checked['worst']:.2g}, more than "
            f"{checked['bound']:g}: the engine does not give the same answer twice"
        )
    size_px = images.shape[-1]
    overall = np.mean([np.abs(each.regions) for each in found[len(chosen) :]], axis=0)
    with whole_folder(Path(out), EXPLAIN_FILE) as folder:
        rows = []
        for number, (case, each) in enumerate(zip(chosen.itertuples(), found, strict=False), start=1):
            file = f"case-{number:02d}-{case.kind}.png"
            kind, truth = case.kind.replace("-", " "), CLASS_NAMES[case.label]
            title = f"{kind}: probability {case.probability:.2f}, {truth}"
            write_overlay(folder / file, images[case.position][0], each.pixels(size_px), title)
            rows.append(
                {
                    "file": file,
                    "kind": case.kind,
                    "probability": float(case.probability),
                    "label": int(case.label),
                    "logit_difference": each.logit - each.background_logit,
                    "completeness_error": each.completeness_error,
                    "evaluations": each.evaluations,
                }
            )
        write_global(folder / GLOBAL_FILE, background[0], overall)
        summary = {
            "method": METHOD,
            "seed": seed,
            "cases": rows,
            "global": {"file": GLOBAL_FILE, "images": len(drawn), "mean_absolute": overall.tolist()},
            "completeness": checked,
            "package": known,
        }
        text = json.dumps(summary, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (folder / EXPLAIN_FILE).write_text(text)
    return summary


def choose_cases(predictions: pd.DataFrame, cases: int) -> pd.DataFrame:
    """At most `cases` rows, taken from the `KINDS` in turn, the most confident of each kind first.

    `predictions` has label, called (0 or 1) and probability; the answer gets `kind` and `position`, the row's
    place in `predictions`.
    """
    found = predictions.reset_index(drop=True)
    right = np.where(found["label"] == found["called"], "true", "false")
    sign = np.where(found["called"] == 1, "positive", "negative")
    found = found.assign(kind=[f"{a}-{b}" for a, b in zip(right, sign, strict=True)], position=found.index)
    found["confidence"] = np.where(found["called"] == 1, found["probability"], 1 - found["probability"])
    found = found.sort_values(["confidence", "position"], ascending=[False, True])
    found["turn"] = found.groupby("kind").cumcount()
    found["order"] = found["kind"].map({kind: place for place, kind in enumerate(KINDS)})
    return found.sort_values(["turn", "order"]).head(cases).reset_index(drop=True)


def _draw(called: np.ndarray, seed: int) -> np.ndarray:
    """Places of GLOBAL_IMAGES images, half of each call as far as there are so many."""
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(np.flatnonzero(called == call))[: GLOBAL_IMAGES // 2] for call in (1, 0)]
    return np.sort(np.concatenate(halves))


def _predictions(evaluation_dir: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the test split in the order of `table`, with `called`."""
    predictions = pd.read_parquet(evaluation_dir / "predictions.parquet").set_index("sop_instance_uid")
    missing = ~table["sop_instance_uid"].isin(predictions.index)
    if missing.any():
        raise DataError(
            f"{int(missing.sum())} of {len(table)} test images have no prediction in {evaluation_dir}: "
            "it evaluates other tensors; run evaluate again"
        )
    threshold = json.loads((evaluation_dir / "metrics.json").read_text())["operating_point"]["threshold"]
    found = predictions.loc[table["sop_instance_uid"]]
    return found.assign(called=(found["probability"] >= threshold).astype(int))

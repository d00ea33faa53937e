"""The explain step: SHAP overlays for true and false positives and negatives of the test split."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from hounsfield.config import CLASS_NAMES
from hounsfield.errors import DataError
from hounsfield.explain.overlay import write_overlay
from hounsfield.imaging.preprocess import load_split
from hounsfield.progress import Reporter
from hounsfield.training.network import Classifier, load_network

EXPLAIN_FILE = "explain.json"
BACKGROUND = 8
SAMPLES = 64
KINDS = ("true-positive", "false-negative", "false-positive", "true-negative")


class _LogitColumn(nn.Module):
    """The logit alone, (N, 1), as SHAP wants it."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)[0].unsqueeze(1)


def explain(
    model_dir: Path, evaluation_dir: Path, tensors_dir: Path, out: Path, cases: int = 6, seed: int = 7
) -> dict[str, Any]:
    """Write `case-01-true-positive.png`, ... and `explain.json`, which is returned.

    The background is `BACKGROUND` negatives of the training split: an attribution says why the logit differs
    from that of an image without the finding. `completeness_error` of a case is the distance, in logits,
    between the sum of its attributions and that difference. Raises DataError when the evaluation is of other
    tensors.
    """
    import shap

    out = Path(out)
    network = load_network(Path(model_dir))
    images, table = load_split(tensors_dir, "test")
    chosen = choose_cases(_predictions(Path(evaluation_dir), table), cases)
    background = _background(tensors_dir, seed)
    column = _LogitColumn(network)
    explainer = shap.GradientExplainer(column, background, batch_size=16)
    with torch.inference_mode():
        expected = float(column(background).mean())

    out.mkdir(parents=True, exist_ok=True)
    for stale in (*out.glob("case-*.png"), out / EXPLAIN_FILE):
        stale.unlink(missing_ok=True)
    reporter = Reporter("explain", len(chosen))
    rows = []
    for number, case in enumerate(chosen.itertuples(), start=1):
        image = images[case.position]
        attribution = explainer.shap_values(torch.from_numpy(image[None]), nsamples=SAMPLES, rseed=seed)
        attribution = np.asarray(attribution).reshape(image.shape[-2:])
        with torch.inference_mode():
            difference = float(column(torch.from_numpy(image[None]))) - expected
        file = f"case-{number:02d}-{case.kind}.png"
        title = (
            f"{case.kind.replace('-', ' ')}: probability {case.probability:.2f}, {CLASS_NAMES[case.label]}"
        )
        write_overlay(out / file, image[0], attribution, title)
        rows.append(
            {
                "file": file,
                "kind": case.kind,
                "probability": float(case.probability),
                "label": int(case.label),
                "logit_difference": difference,
                "completeness_error": abs(float(attribution.sum()) - difference),
            }
        )
        reporter.update(number, "cases")
    summary = {
        "method": "expected gradients (shap.GradientExplainer) on the logit",
        "background": f"{len(background)} negatives of the training split",
        "samples": SAMPLES,
        "seed": seed,
        "cases": rows,
    }
    temporary = out / f".{EXPLAIN_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(summary, indent=2, sort_keys=True, allow_nan=False) + "\n")
    temporary.replace(out / EXPLAIN_FILE)
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


def _background(tensors_dir: Path, seed: int) -> torch.Tensor:
    images, table = load_split(tensors_dir, "train")
    negatives = np.flatnonzero(table["label"].to_numpy() == 0)
    drawn = np.random.default_rng(seed).permutation(negatives)[:BACKGROUND]
    return torch.from_numpy(images[np.sort(drawn)])

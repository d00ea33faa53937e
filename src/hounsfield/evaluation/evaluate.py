"""The evaluate step: predictions, and every number that the model card and the gate read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from hounsfield.config import SPLITS
from hounsfield.data.folder import whole_folder
from hounsfield.errors import DataError, TrainingError
from hounsfield.evaluation.bootstrap import CONFIDENCE, RESAMPLES, intervals
from hounsfield.evaluation.calibration import (
    brier,
    calibrated,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from hounsfield.evaluation.decision_curve import advantage, decision_curve
from hounsfield.evaluation.metrics import auprc, auroc, call_metrics
from hounsfield.evaluation.operating_point import RULE, choose_threshold, review_band
from hounsfield.evaluation.subgroups import (
    JUDGED_BY,
    SUBGROUP_RESAMPLES,
    largest_gaps,
    subgroups,
    with_groups,
)
from hounsfield.imaging.preprocess import load_split
from hounsfield.progress import Reporter
from hounsfield.training.network import Classifier, load_network

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
_BATCH = 64


def evaluate(
    model_dir: Path, baseline_dir: Path | None, tensors_dir: Path, out: Path, seed: int = 7
) -> dict[str, Any]:
    """Judge the model on `test`; threshold, temperature and review band come from `validation` only.

    Writes `metrics.json` (returned too; None where a number has no value) and `predictions.parquet`, one row
    an image of validation and test: sop_instance_uid, patient_id, split, label, logit, probability
    (calibrated) and the subgroup columns. `out` appears whole or not at all. Raises DataError when validation
    or test holds one class only or a pixel that is no number, TrainingError when the network answers with one
    that is not, PlatformError when the disk is full.
    """
    network = load_network(Path(model_dir))
    parts = {split: load_split(tensors_dir, split) for split in SPLITS}
    for split in ("validation", "test"):
        if parts[split][1]["label"].nunique() < 2:
            raise DataError(f"the {split} split holds one class only; evaluation needs both")
        broken = int((~np.isfinite(parts[split][0].reshape(len(parts[split][0]), -1))).any(axis=1).sum())
        if broken:
            raise DataError(
                f"{broken} images of the {split} split hold a pixel that is not a finite number; "
                "run preprocess again"
            )
    reporter = Reporter("evaluate", sum(len(parts[split][0]) for split in ("validation", "test")))
    logit, done = {}, 0
    for split in ("validation", "test"):
        logit[split], embedding = predict(network, parts[split][0])
        if not (np.isfinite(logit[split]).all() and np.isfinite(embedding).all()):
            raise TrainingError(
                f"the network answers images of the {split} split with what is not a finite number; "
                "train again, with a lower learning rate"
            )
        done += len(logit[split])
        reporter.update(done, "images")

    label = {split: table["label"].to_numpy(dtype=int) for split, (_, table) in parts.items()}
    temperature = fit_temperature(label["validation"], logit["validation"])
    probability = {split: calibrated(values, temperature) for split, values in logit.items()}
    threshold = choose_threshold(label["validation"], probability["validation"])
    predictions = pd.concat(
        [
            with_groups(parts[split][1]).assign(logit=logit[split], probability=probability[split])
            for split in ("validation", "test")
        ],
        ignore_index=True,
    )[["sop_instance_uid", "patient_id", "split", "label", "logit", "probability", *JUDGED_BY]]
    test = predictions[predictions["split"] == "test"]

    groups = subgroups(test, threshold, seed)
    metrics = _judge(test, threshold, seed)
    metrics |= {
        "temperature": temperature,
        "operating_point": {"threshold": threshold, "chosen_on": "validation", "rule": RULE},
        "review_band": list(review_band(probability["validation"], threshold)),
        "counts": {split: len(label[split]) for split in SPLITS}
        | {"test_positive": int(label["test"].sum())},
        "subgroups": groups,
        "subgroup_gaps": largest_gaps(groups, test, threshold),
        "baseline": None if baseline_dir is None else _against(baseline_dir, parts["test"][0], test, seed),
        "confidence": CONFIDENCE,
        "bootstrap": {"unit": "patient", "resamples": RESAMPLES, "subgroup_resamples": SUBGROUP_RESAMPLES},
    }
    with whole_folder(Path(out), METRICS_FILE) as folder:
        predictions.to_parquet(folder / PREDICTIONS_FILE)
        text = json.dumps(metrics, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (folder / METRICS_FILE).write_text(text)
    return metrics


def predict(network: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N,) float64 and embeddings (N, E) float32 of `images` (N, *shape) float32, in their order."""
    logits, embeddings = [], []
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            logit, embedding = network(torch.from_numpy(images[start : start + _BATCH]))
            logits.append(logit.numpy())
            embeddings.append(embedding.numpy())
    return np.concatenate(logits).astype(np.float64), np.concatenate(embeddings)


def _judge(test: pd.DataFrame, threshold: float, seed: int) -> dict[str, Any]:
    label, probability = test["label"].to_numpy(), test["probability"].to_numpy()
    called = (probability >= threshold).astype(int)
    uncalibrated = calibrated(test["logit"].to_numpy(), 1.0)
    found = intervals(
        test["patient_id"].to_numpy(),
        lambda weight: {
            "auroc": auroc(label, probability, weight),
            "auprc": auprc(label, probability, weight),
            **call_metrics(label, called, weight),
            "net_benefit": advantage(label, called, weight, threshold),
            "ece": expected_calibration_error(label, probability, weight),
            "brier": brier(label, probability, weight),
            "ece_uncalibrated": expected_calibration_error(label, uncalibrated, weight),
            "brier_uncalibrated": brier(label, uncalibrated, weight),
        },
        seed,
    )
    false_positive_rate, true_positive_rate, thresholds = roc_curve(label, probability)
    # scikit-learn starts the curve at a threshold of infinity, which JSON cannot say.
    thresholds[0] = 1.0
    precision, recall, _ = precision_recall_curve(label, probability, drop_intermediate=True)
    return found | {
        "reliability": reliability(label, probability),
        "reliability_uncalibrated": reliability(label, uncalibrated),
        "roc": {
            "fpr": false_positive_rate.tolist(),
            "tpr": true_positive_rate.tolist(),
            "threshold": thresholds.tolist(),
        },
        "pr": {"recall": recall.tolist(), "precision": precision.tolist()},
        "decision_curve": decision_curve(label, probability),
        "confusion_matrix": confusion_matrix(label, called, labels=[0, 1]).tolist(),
    }


def _against(baseline_dir: Path, images: np.ndarray, test: pd.DataFrame, seed: int) -> dict[str, Any]:
    """The baseline's AUROC on `images`, and how far the model is above it on the same resampled patients."""
    baseline, _ = predict(load_network(Path(baseline_dir)), images)
    label, model = test["label"].to_numpy(), test["probability"].to_numpy()

    def compared(weight: np.ndarray) -> dict[str, float | None]:
        ours, theirs = auroc(label, model, weight), auroc(label, baseline, weight)
        return {"auroc": theirs, "difference": None if theirs is None else ours - theirs}

    found = intervals(test["patient_id"].to_numpy(), compared, seed)
    low = found["difference"]["low"]
    return found | {
        "method": "logistic regression on pixel statistics",
        "rule": "the whole interval of the difference in AUROC is above 0",
        "beaten": low is not None and low > 0,
    }

"""The baseline that a network must beat: logistic regression on pixel statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from hounsfield.errors import TrainingError
from hounsfield.imaging.preprocess import load_split
from hounsfield.training.network import build_network, save_network

ARCHITECTURE = "pixel-statistics"


def fit_baseline(tensors: Path, out: Path, seed: int = 7) -> None:
    """Fit on the split `train` and leave the same files as a trained network in `out`.

    Without class weights, so that its logit speaks of the prevalence in the training split. Raises
    TrainingError when a split has one class only.
    """
    splits = {split: load_split(tensors, split) for split in ("train", "validation")}
    shape = splits["train"][0].shape[1:]
    network = build_network(ARCHITECTURE, seed, spatial_dims=len(shape) - 1)
    features, labels = {}, {}
    for split, (images, table) in splits.items():
        labels[split] = table["label"].to_numpy(dtype=int)
        if len(np.unique(labels[split])) < 2:
            raise TrainingError(f"the {split} split has one class only; both classes are needed")
        with torch.no_grad():
            features[split] = network.body.statistics(torch.from_numpy(images)).numpy()
    scaler = StandardScaler().fit(features["train"])
    regression = LogisticRegression(C=0.1, max_iter=2000, random_state=seed)
    regression.fit(scaler.transform(features["train"]), labels["train"])
    with torch.no_grad():
        network.body.shift.copy_(torch.from_numpy(scaler.mean_))
        network.body.scale.copy_(torch.from_numpy(scaler.scale_))
        network.head.weight.copy_(torch.from_numpy(regression.coef_))
        network.head.bias.copy_(torch.from_numpy(regression.intercept_))

    probability = {
        split: regression.predict_proba(scaler.transform(features[split]))[:, 1] for split in features
    }
    row = {
        "epoch": 0,
        "train_loss": float(log_loss(labels["train"], probability["train"])),
        "validation_loss": float(log_loss(labels["validation"], probability["validation"])),
        "validation_auroc": float(roc_auc_score(labels["validation"], probability["validation"])),
    }
    record = {
        "architecture": ARCHITECTURE,
        "spatial_dims": len(shape) - 1,
        "size_px": shape[-1],
        "seed": seed,
        "epochs": 1,
        "params": {"C": regression.C},
        "positive_weight": 1.0,
        "best_epoch": 0,
        "history": [row],
        "mlflow_run_id": None,
    }
    save_network(network, out, record)

"""The output folders of the steps before `package`, and the package of them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from hounsfield.imaging.contract import ImageContract
from hounsfield.package.write import write_package
from hounsfield.training.network import build_network, save_network

METRICS = {
    "auroc": {"value": 0.912, "low": 0.88, "high": 0.94},
    "operating_point": {"threshold": 0.41, "chosen_on": "validation", "rule": "sensitivity"},
    "temperature": 1.5,
    "review_band": [0.3, 0.5],
    "counts": {"train": 650, "validation": 220, "test": 230, "test_positive": 96},
    "confidence": 0.95,
    "bootstrap": {"unit": "patient", "resamples": 1000},
    "baseline": {"auroc": {"value": 0.7, "low": 0.6, "high": 0.8}},
    "subgroups": [
        {
            "attribute": "patient_sex",
            "value": "F",
            "n": 9,
            "n_positive": 0,
            "auroc": None,
            "sensitivity": None,
            "specificity": {"value": 0.5, "low": 0.2, "high": 0.8},
            "note": "too | few",
        }
    ],
}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="session")
def steps(tmp_path_factory):
    """The output folders of the earlier steps, with a small network of known seed."""
    root = tmp_path_factory.mktemp("steps")
    network = build_network("pixel-statistics", 7)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(7))
    save_network(network, root / "model", {"architecture": "pixel-statistics"})
    write_json(root / "evaluation" / "metrics.json", METRICS)
    write_json(root / "dataset" / "profile.json", {"rows": 6})
    write_json(root / "dataset" / "dataset.json", {"sample": True})
    write_json(root / "drift" / "drift.json", {"detector": "MMDDrift"})
    (root / "drift" / "state").mkdir()
    (root / "drift" / "state" / "x.bin").write_bytes(b"\x00\x01")
    (root / "tensors").mkdir()
    ImageContract(size_px=16).save(root / "tensors")
    np.save(
        root / "tensors" / "shard-00000.npy",
        np.random.default_rng(7).random((6, 1, 16, 16), dtype=np.float32),
    )
    pd.DataFrame({"split": ["validation"] * 6, "shard": 0, "row": range(6)}).to_parquet(
        root / "tensors" / "index.parquet"
    )
    return root


@pytest.fixture(scope="session")
def write(steps):
    """`write(out, **changes)`: the package of `steps`, with some arguments of `write_package` changed."""
    arguments = {
        "model_dir": steps / "model",
        "evaluation_dir": steps / "evaluation",
        "drift_dir": steps / "drift",
        "explain_dir": None,
        "dataset_dir": steps / "dataset",
        "tensors_dir": steps / "tensors",
        "lineage": {"git_commit": "abc123"},
    }
    return lambda out, **changes: write_package(out, **{**arguments, **changes})


@pytest.fixture(scope="session")
def metrics():
    return METRICS

"""The output folders of the steps before `package`, and the package of them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from hounsfield.imaging.contract import ImageContract
from hounsfield.package.network import write_network
from hounsfield.package.write import write_package
from hounsfield.training.network import build_network, save_network
from tests.unit.package.steps import DATASET, METRICS


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_tensors(folder, train):
    """6 images of validation and `train` of training; without the latter there is nothing to explain by."""
    folder.mkdir()
    ImageContract(size_px=16).save(folder)
    images = np.random.default_rng(7).random((6 + train, 1, 16, 16), dtype=np.float32)
    np.save(folder / "shard-00000.npy", images)
    split = ["validation"] * 6 + ["train"] * train
    index = pd.DataFrame({"split": split, "label": 0, "shard": 0, "row": range(6 + train)})
    index.to_parquet(folder / "index.parquet")


@pytest.fixture(scope="session")
def explained(write, tmp_path_factory):
    """A package whose engine was asked why."""
    folder = tmp_path_factory.mktemp("explained")
    write_tensors(folder / "tensors", train=20)
    return write(folder / "store", tensors_dir=folder / "tensors")


@pytest.fixture(scope="session")
def steps(tmp_path_factory):
    """The output folders of the earlier steps, with a small network of known seed."""
    root = tmp_path_factory.mktemp("steps")
    network = build_network("pixel-statistics", 7)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(7))
    save_network(network, root / "model", {"architecture": "pixel-statistics"})
    write_json(root / "evaluation" / "metrics.json", METRICS)
    write_json(root / "dataset" / "profile.json", {"rows": 6})
    write_json(root / "dataset" / "dataset.json", DATASET)
    write_json(root / "drift" / "drift.json", {"detector": "MMDDrift"})
    (root / "drift" / "state").mkdir()
    (root / "drift" / "state" / "x.bin").write_bytes(b"\x00\x01")
    write_tensors(root / "tensors", train=0)
    write_network(root / "network", model_dir=root / "model", tensors_dir=root / "tensors", temperature=1.0)
    return root


@pytest.fixture(scope="session")
def write(steps):
    """`write(out, **changes)`: the package of `steps`, with some arguments of `write_package` changed."""
    arguments = {
        "model_dir": steps / "model",
        "network_dir": steps / "network",
        "evaluation_dir": steps / "evaluation",
        "drift_dir": steps / "drift",
        "dataset_dir": steps / "dataset",
        "tensors_dir": steps / "tensors",
        "lineage": LINEAGE,
    }
    return lambda out, **changes: write_package(out, **{**arguments, **changes})


LINEAGE = {"git_commit": "abc123", "data_fingerprint": "def456"}


@pytest.fixture(scope="session")
def metrics():
    return METRICS

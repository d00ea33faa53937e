"""The step export: the reference of the drift detectors is what the chosen engine answers."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from hounsfield.errors import DataError, PackageError
from hounsfield.imaging.preprocess import load_split
from hounsfield.package import choose, network
from hounsfield.package.choice import INT8_MODEL, EngineChoice
from hounsfield.package.engine import Engine
from hounsfield.package.export import export_onnx
from hounsfield.package.network import read_network, write_network
from hounsfield.training.network import build_network

INT8 = EngineChoice("onnxruntime", "int8", INT8_MODEL)


@pytest.fixture
def inputs(steps, tmp_path):
    """Model and tensors of the steps; the index has headers, one of them silent."""
    tensors = shutil.copytree(steps / "tensors", tmp_path / "tensors")
    index = pd.read_parquet(tensors / "index.parquet").assign(
        patient_sex=["F", "M", "F", "M", "F", None],
        age_years=[30, 50, 70, 85, None, 40],
        view_position="PA",
        manufacturer=["Ada", "Ada", "Bo", "Bo", "Bo", None],
    )
    index.to_parquet(tensors / "index.parquet")
    return {"model_dir": steps / "model", "tensors_dir": tensors, "temperature": 2.0}


def test_the_reference_is_of_the_chosen_engine_and_not_of_fp32(inputs, tmp_path, monkeypatch):
    def another(folder, *_):
        """Stands in for INT8 that answers differently: here by far, so that it shows."""
        other = build_network("pixel-statistics", 7)
        torch.nn.init.constant_(other.head.weight, 0.01)
        torch.nn.init.constant_(other.head.bias, 1.0)
        export_onnx(other, (1, 16, 16), folder / INT8_MODEL)
        return INT8, {"chosen": INT8.title}

    monkeypatch.setattr(choose, "has_convolutions", lambda network: True)
    monkeypatch.setattr(choose, "choose_engine", another)
    # The set of the steps has no training images; those of validation do.
    monkeypatch.setattr(network, "load_split", lambda folder, _: load_split(folder, "validation"))
    served = write_network(tmp_path / "network", **inputs)
    assert (served.engine, served.measured) == (INT8, {"chosen": "ONNX Runtime int8"})
    assert read_network(tmp_path / "network") == served
    images = np.load(inputs["tensors_dir"] / "shard-00000.npy")
    logit, embedding = Engine(tmp_path / "network" / INT8_MODEL, 1, INT8).run(images)
    fp32, _ = Engine(tmp_path / "network" / "model.onnx", 1).run(images)
    assert np.abs(logit - fp32).min() > 0.01
    reference = np.load(tmp_path / "network" / "reference.npy")
    assert (reference.shape, reference.dtype) == ((6, 66), np.float32)
    np.testing.assert_array_equal(reference, embedding)
    table = pd.read_csv(tmp_path / "network" / "reference.csv", keep_default_na=False)
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-logit / 2)), rtol=1e-5)
    assert table["patient_sex"].tolist() == ["F", "M", "F", "M", "F", "unknown"]
    assert table["age_band"].tolist() == ["0-39", "40-59", "60-79", "80+", "unknown", "40-59"]
    assert table["manufacturer"].tolist() == ["Ada", "Ada", "Bo", "Bo", "Bo", "unknown"]


def test_a_network_without_convolutions_is_served_by_onnx_runtime_unmeasured(inputs, tmp_path):
    served = write_network(tmp_path / "network", **inputs)
    assert (served.engine, served.measured) == (EngineChoice(), None)
    assert served.onnx["images"] == 6
    assert sorted(file.name for file in (tmp_path / "network").iterdir()) == [
        "model.onnx", "network.json", "reference.csv", "reference.npy",
    ]  # fmt: skip
    assert write_network(tmp_path / "network", **inputs) == served  # again, in its place


def test_what_is_not_an_export_is_refused(write, inputs, tmp_path):
    with pytest.raises(PackageError, match=r"network\.json is missing in .*: run the step export"):
        write(tmp_path / "store", network_dir=tmp_path / "none")
    write_network(tmp_path / "network", **inputs)
    record = json.loads((tmp_path / "network" / "network.json").read_text())
    for broken in ("[]", "{", json.dumps(record | {"engine": {"file": 3, "speed": 1}})):
        (tmp_path / "network" / "network.json").write_text(broken)
        with pytest.raises(PackageError, match="is not what the step export writes"):
            read_network(tmp_path / "network")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="was not made by this step"):
        write_network(tmp_path / "other", **inputs)
    assert not (tmp_path / "store").exists() or list((tmp_path / "store").iterdir()) == []

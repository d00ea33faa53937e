import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from hounsfield.config import INTENDED_USE
from hounsfield.errors import PackageError
from hounsfield.imaging.contract import ImageContract
from hounsfield.package import export
from hounsfield.package.engine import Engine
from hounsfield.package.network import write_network
from hounsfield.package.package import load_package
from hounsfield.training.network import build_network, load_network
from tests.unit.package.steps import DATASET


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def package(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("store"))


@pytest.fixture
def copy(package, tmp_path):
    return shutil.copytree(package.path, tmp_path / "copy")


def test_the_folder_is_named_by_the_digest_of_its_manifest(package):
    assert package.path.name == package.digest
    assert hashlib.sha256((package.path / "manifest.json").read_bytes()).hexdigest() == package.digest
    files = json.loads((package.path / "manifest.json").read_text())["files"]
    assert sorted(files) == [
        "LICENCES.md",
        "MODEL_CARD.html",
        "MODEL_CARD.md",
        "contract.json",
        "detectors/drift.json",
        "detectors/state/x.bin",
        "metrics.json",
        "model.json",
        "model.onnx",
        "onnx.json",
        "profile.json",
    ]
    assert files["detectors/state/x.bin"] == {"sha256": hashlib.sha256(b"\x00\x01").hexdigest(), "size": 2}


def test_the_same_content_written_again_is_the_same_package(write, package):
    again = write(package.path.parent)
    assert again.digest == package.digest
    assert [folder.name for folder in package.path.parent.iterdir()] == [package.digest]


def test_another_lineage_is_another_package(write, package, tmp_path):
    assert write(tmp_path, lineage={"git_commit": "def456", "data_fingerprint": "0"}).digest != package.digest


def test_it_holds_what_serving_needs_from_the_evaluation(package, metrics):
    assert package.contract == ImageContract(size_px=16)
    assert package.model.threshold == 0.41
    assert package.model.temperature == 1.5
    assert package.model.review_band == (0.3, 0.5)
    assert package.model.lineage["git_commit"] == "abc123"
    assert package.model.lineage["intended_use"] == INTENDED_USE
    assert package.metrics == metrics
    assert (package.detectors / "drift.json").is_file()


@pytest.mark.parametrize("count", [1, 5])
def test_onnx_answers_as_pytorch_for_any_number_of_images(steps, package, count):
    images = np.random.default_rng(1).random((count, 1, 16, 16), dtype=np.float32)
    logit, embedding = Engine(package.onnx).run(images)
    with torch.inference_mode():
        expected_logit, expected_embedding = load_network(steps / "model")(torch.from_numpy(images))
    assert logit.shape == (count,)
    assert embedding.shape == (count, 66)
    np.testing.assert_allclose(logit, expected_logit, atol=1e-4)
    np.testing.assert_allclose(embedding, expected_embedding, atol=1e-4)


def test_nothing_of_this_machine_is_in_the_model(package):
    assert str(export.__file__).encode()[:12] not in package.onnx.read_bytes()


def test_the_card_says_simulated_and_holds_the_numbers(package):
    card = (package.path / "MODEL_CARD.md").read_text()
    assert "SIMULATED" in card
    assert "0.912 (0.880 to 0.940)" in card
    assert "230 images, 96 of them positive" in card
    assert (
        "| patient_sex | F | 9 | 0 | not estimable | not estimable | not estimable "
        "| 0.500 (0.200 to 0.800) | too \\| few |" in card
    )
    assert "MMDDrift" in card


def test_the_card_of_real_data_does_not_say_simulated(write, tmp_path):
    write_json(tmp_path / "dataset" / "profile.json", {})
    write_json(tmp_path / "dataset" / "dataset.json", {**DATASET, "sample": False})
    written = write(tmp_path / "store", dataset_dir=tmp_path / "dataset", drift_dir=None)
    card = (written.path / "MODEL_CARD.md").read_text()
    assert "SIMULATED" not in card
    assert "no drift detectors" in card
    assert written.detectors is None


def test_a_model_that_onnx_does_not_reproduce_is_not_exported(steps, tmp_path, monkeypatch):
    def another_network(network, shape, path):
        other = build_network("pixel-statistics", 7)
        torch.nn.init.constant_(other.head.weight, 0.01)
        export_truly(other, shape, path)

    export_truly = export.export_onnx
    monkeypatch.setattr(export, "export_onnx", another_network)
    with pytest.raises(PackageError, match="ONNX differs from PyTorch"):
        write_network(
            tmp_path / "network", model_dir=steps / "model", tensors_dir=steps / "tensors", temperature=1.0
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "detectors/state/x.bin"])
def test_a_changed_file_is_refused_by_name(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(PackageError, match=f"{name} is not the file that was packaged"):
        load_package(copy)


def test_a_missing_file_is_refused_by_name(copy):
    (copy / "contract.json").unlink()
    with pytest.raises(PackageError, match=r"contract\.json is missing"):
        load_package(copy)


def test_an_extra_file_is_refused_by_name(copy):
    (copy / "detectors" / "extra.pkl").write_bytes(b"")
    with pytest.raises(PackageError, match=r"detectors/extra\.pkl is not in its manifest"):
        load_package(copy)


@pytest.mark.parametrize("manifest", [None, b"{", b"[]", b'{"files": 3}'])
def test_a_folder_without_a_manifest_is_not_a_package(copy, manifest):
    (copy / "manifest.json").unlink()
    if manifest is not None:
        (copy / "manifest.json").write_bytes(manifest)
    with pytest.raises(PackageError, match=r"manifest\.json"):
        load_package(copy)


def test_a_package_under_a_link_is_read(package, tmp_path):
    # KServe's storage initializer links a volume's files into /mnt/models.
    for file in package.path.rglob("*"):
        if file.is_file():
            link = tmp_path / "models" / file.relative_to(package.path)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    assert load_package(tmp_path / "models").digest == package.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0}, "temperature 0"),
        ({"review_band": [0.7, 0.2]}, "review_band"),
        ({"operating_point": {}}, "no key 'threshold'"),
    ],
)
def test_an_evaluation_that_cannot_be_served_is_refused(write, metrics, tmp_path, change, words):
    write_json(tmp_path / "evaluation" / "metrics.json", {**metrics, **change})
    with pytest.raises(PackageError, match=words):
        write(tmp_path / "store", evaluation_dir=tmp_path / "evaluation")


def test_a_step_that_did_not_run_is_named(write, tmp_path):
    with pytest.raises(PackageError, match=r"metrics\.json is missing"):
        write(tmp_path / "store", evaluation_dir=tmp_path)
    assert list((tmp_path / "store").iterdir()) == []

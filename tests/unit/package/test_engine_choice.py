"""The engine of a package: measured, judged against fp32, and left for ONNX Runtime where it cannot run."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from hounsfield.errors import ConfigError, PackageError
from hounsfield.package import cpu, engine
from hounsfield.package.card import render_card
from hounsfield.package.choice import INT8_MODEL, EngineChoice
from hounsfield.package.choose import (
    Measured,
    choose,
    choose_engine,
    has_convolutions,
    judge,
    measure,
)
from hounsfield.package.engine import Engine, EngineError
from hounsfield.package.export import export_onnx
from hounsfield.package.package import MANIFEST, describe_files, load_package
from hounsfield.package.quantize import quantize
from hounsfield.package.statements import Statements
from tests.unit.package.steps import DATASET, METRICS

PLAIN = EngineChoice()
ORT_INT8 = EngineChoice("onnxruntime", "int8", INT8_MODEL)
OPENVINO = EngineChoice("openvino")
OPENVINO_INT8 = EngineChoice("openvino", "int8", INT8_MODEL)
SIZE_PX = 32

needs_vnni = pytest.mark.skipif(
    cpu.unsupported("int8") is not None, reason="this CPU has no VNNI, so INT8 is never chosen"
)


class Small(nn.Module):
    """Three convolutions, one of them depthwise; the logit is the mean brightness of what they see."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 16, 1)

    def forward(self, image):
        maps = self.last(torch.relu(self.depthwise(torch.relu(self.first(image)))))
        embedding = maps.mean(dim=(2, 3))
        return 20 * embedding.mean(dim=1), embedding


@pytest.fixture(scope="module")
def network():
    return Small().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    """40 noisy images, the odd ones brighter: float32 (40, 1, 32, 32), labels (40,)."""
    rng = np.random.default_rng(9)
    labels = np.arange(40) % 2
    images = rng.random((40, 1, SIZE_PX, SIZE_PX)) * 0.5 + 0.4 * labels[:, None, None, None]
    return images.astype(np.float32), labels


@pytest.fixture(scope="module")
def folder(network, images, tmp_path_factory):
    """model.onnx, and its INT8 form for OpenVINO."""
    folder = tmp_path_factory.mktemp("models")
    export_onnx(network, (1, SIZE_PX, SIZE_PX), folder / "model.onnx")
    quantize(folder / "model.onnx", images[0], folder / INT8_MODEL, "openvino")
    return folder


def row(choice, latency_s, refused=""):
    return Measured(choice, latency_s=latency_s, refused=refused)


def test_the_fastest_that_is_accurate_is_chosen():
    rows = [row(PLAIN, 0.010), row(ORT_INT8, 0.002, "AUROC moves by -0.0100"), row(OPENVINO, 0.006)]
    assert choose(rows).choice == OPENVINO


def test_a_tie_goes_to_onnx_runtime_fp32():
    assert choose([row(PLAIN, 0.0104), row(OPENVINO, 0.0100)]).choice == PLAIN
    assert choose([row(PLAIN, 0.0106), row(OPENVINO, 0.0100)]).choice == OPENVINO


def test_int8_that_loses_auroc_is_refused_with_the_number():
    # fp32 ranks all four rightly: AUROC 1. With the middle two swapped 3 of 4 pairs are right: 0.75.
    labels = np.array([0, 0, 1, 1])
    embedding = np.zeros((4, 2), dtype=np.float32)
    fp32 = np.array([-2, -1, 1, 2], dtype=np.float32), embedding
    swapped = np.array([-2, 1, -1, 2], dtype=np.float32), embedding
    judged = judge(ORT_INT8, swapped, fp32, labels, temperature=1.0)
    assert (judged.auroc, judged.auroc_change) == (0.75, -0.25)
    assert judged.refused == "AUROC moves by -0.2500"
    # sigmoid(1) - sigmoid(-1) = 0.7311 - 0.2689
    assert judged.probability_change == pytest.approx(0.4621, abs=1e-4)
    assert judge(ORT_INT8, fp32, fp32, labels, 1.0).refused == ""


def test_answers_that_keep_their_rank_but_move_are_refused():
    labels = np.array([0, 0, 1, 1])
    logit = np.array([-2, -1, 1, 2], dtype=np.float32)
    embedding = np.array([[-1, 0], [1, 0], [-1, 0], [1, 0]], dtype=np.float32)
    # The logits' spread is sqrt(10 / 4) = 1.5811, the embeddings' sqrt((1 + 0) / 2) = 0.7071.
    moved = judge(ORT_INT8, (logit + 0.5, embedding), (logit, embedding), labels, 1.0)
    assert moved.refused == "logits move by 0.32 of their spread"
    assert (moved.auroc_change, moved.embedding_change) == (0, 0)
    assert moved.logit_change == pytest.approx(0.5 / 1.5811, rel=1e-4)
    moved = judge(ORT_INT8, (logit, embedding + np.array([0, 0.3])), (logit, embedding), labels, 1.0)
    assert moved.refused == "embeddings move by 0.30 of their spread"  # sqrt(0.09 / 2) / 0.7071
    within = judge(ORT_INT8, (logit + 0.3, embedding + np.array([0, 0.2])), (logit, embedding), labels, 1.0)
    assert within.refused == ""


def test_without_both_classes_only_fp32_can_be_judged():
    answer = np.array([1.0, 2.0], dtype=np.float32), np.ones((2, 2), dtype=np.float32)
    assert "one class" in judge(ORT_INT8, answer, answer, np.array([1, 1]), 1.0).refused
    assert judge(OPENVINO, answer, answer, np.array([1, 1]), 1.0).refused == ""


@needs_vnni
def test_a_spoilt_int8_file_is_measured_and_not_chosen(network, images, folder, tmp_path):
    model = onnx.load(folder / INT8_MODEL)
    for initializer in model.graph.initializer:
        weights = numpy_helper.to_array(initializer)
        if weights.dtype == np.int8 and weights.ndim == 4:
            initializer.CopyFrom(numpy_helper.from_array(-weights, initializer.name))
    onnx.save(model, tmp_path / INT8_MODEL)
    files = {("onnxruntime", "fp32"): folder / "model.onnx", ("openvino", "int8"): tmp_path / INT8_MODEL}
    _, measured = measure(network, files, *images, temperature=1.0)
    assert [each.choice for each in measured] == [PLAIN, OPENVINO_INT8]
    assert measured[1].refused.startswith("AUROC moves by -")
    assert measured[1].latency_s > 0
    assert choose(measured).choice == PLAIN


def test_an_engine_that_does_not_open_is_refused_and_not_an_error(network, images, folder, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    files = {("onnxruntime", "fp32"): folder / "model.onnx", ("openvino", "fp32"): tmp_path / "model.onnx"}
    _, measured = measure(network, files, *images, temperature=1.0)
    assert "does not open in OpenVINO fp32" in measured[1].refused
    assert choose(measured).choice == PLAIN


def test_a_network_that_does_not_run_at_all_is_not_packaged(network, images, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(PackageError, match="the exported network does not run"):
        measure(network, {("onnxruntime", "fp32"): tmp_path / "model.onnx"}, *images, temperature=1.0)


def test_the_choice_is_recorded_with_every_candidate_and_leaves_one_int8_file_at_most(
    network, images, folder, tmp_path
):
    shutil.copyfile(folder / "model.onnx", tmp_path / "model.onnx")
    threads = torch.get_num_threads()
    choice, record = choose_engine(tmp_path, network, images[0], *images, temperature=1.0)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", choice.file}
    assert record["chosen"] == choice.title
    assert [each["engine"] for each in record["candidates"]] == [
        "ONNX Runtime fp32",
        "ONNX Runtime int8",
        "OpenVINO fp32",
        "OpenVINO bf16",
        "OpenVINO int8",
    ]
    assert record["images"] == 40
    assert record["candidates"][0]["auroc_change"] == 0.0
    assert torch.get_num_threads() == threads
    json.dumps(record, allow_nan=False)
    card = card_of(record)
    assert f"Served in {choice.title}:" in card
    assert "On\n40 validation images its AUROC is" in card


def card_of(record):
    model = {
        "name": "opacity",
        "class_names": ["negative", "positive"],
        "architecture": "small",
        "threshold": 0.5,
        "review_band": [0.4, 0.6],
        "lineage": {"git_commit": "abc", "data_fingerprint": "def", "intended_use": "test"},
        "engine": dataclasses.asdict(PLAIN),
    }
    return render_card(
        model=model,
        metrics=METRICS,
        dataset=DATASET,
        profile={},
        contract={"size_px": SIZE_PX, "version": "1"},
        onnx={"images": 40, "largest_difference": 2e-6, "tolerance": 1e-4},
        said=Statements.load(),
        explanation=None,
        drift=None,
        engine=record,
    )


def test_quantizing_leaves_the_first_and_the_depthwise_convolution_in_fp32(folder, network):
    model = onnx.load(folder / INT8_MODEL)
    weights = {each.name: numpy_helper.to_array(each).dtype for each in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    kinds = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            source = producers.get(node.input[1])
            kinds.append(weights[source.input[0] if source else node.input[1]])
    assert kinds == [np.float32, np.float32, np.int8]
    assert has_convolutions(network)
    assert not has_convolutions(nn.Linear(2, 1))


def test_a_network_without_a_convolution_to_quantize_is_named(tmp_path):
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 2, 3)

        def forward(self, image):
            embedding = self.first(image).mean(dim=(2, 3))
            return embedding.sum(dim=1), embedding

    export_onnx(First(), (1, 16, 16), tmp_path / "model.onnx")
    with pytest.raises(PackageError, match="no convolution that could be INT8"):
        quantize(tmp_path / "model.onnx", np.zeros((2, 1, 16, 16), np.float32), tmp_path / "q", "openvino")


@pytest.mark.parametrize("choice", [PLAIN, OPENVINO])
def test_every_fp32_engine_answers_as_pytorch(network, images, folder, choice):
    with torch.inference_mode():
        expected_logit, expected_embedding = network(torch.from_numpy(images[0]))
    logit, embedding = Engine(folder / "model.onnx", 2, choice).run(images[0])
    np.testing.assert_allclose(logit, expected_logit, atol=1e-4)
    np.testing.assert_allclose(embedding, expected_embedding, atol=1e-4)


@pytest.mark.parametrize("choice", [PLAIN, OPENVINO])
def test_more_callers_than_threads_each_get_their_own_answer(images, folder, choice):
    engine = Engine(folder / "model.onnx", 2, choice)
    alone = [engine.run(images[0][number : number + 1])[0][0] for number in range(40)]
    with ThreadPoolExecutor(6) as pool:
        together = list(
            pool.map(lambda number: engine.run(images[0][number % 40 : number % 40 + 1])[0][0], range(400))
        )
    assert together == alone * 10


FIRST_CALLS = """
import os, sys, threading
import numpy as np
from pathlib import Path
from hounsfield.package.choice import EngineChoice
from hounsfield.package.engine import Engine
sys.setswitchinterval(1e-6)
engine = Engine(Path(sys.argv[1]), 2, EngineChoice("openvino"))
image = np.zeros((1, *map(int, sys.argv[2:])), dtype=np.float32)
start = threading.Barrier(4)
callers = [threading.Thread(target=lambda: (start.wait(), engine.run(image))) for _ in range(4)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
"""


def test_the_first_callers_of_a_process_do_not_wait_for_each_other_for_ever(images, folder):
    """Without the engine's own first run, one process in six did."""
    sides = map(str, images[0].shape[1:])
    command = [sys.executable, "-c", FIRST_CALLS, str(folder / "model.onnx"), *sides]
    for _ in range(3):
        subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("choice", [PLAIN, OPENVINO])
def test_no_images_are_no_answers_and_sizes_are_told(folder, choice):
    engine = Engine(folder / "model.onnx", 1, choice)
    logit, embedding = engine.run(np.zeros((0, 1, SIZE_PX, SIZE_PX), dtype=np.float32))
    assert (logit.shape, embedding.shape) == ((0,), (0, 16))
    assert (engine.embedding_size, engine.max_batch) == (16, 1)


def test_an_answer_outlives_the_next_one(images, folder):
    engine = Engine(folder / "model.onnx", 1, OPENVINO)
    first = engine.run(images[0][:1])[1]
    kept = first.copy()
    engine.run(images[0][1:2])
    assert (first == kept).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"runtime": "tensorrt"}, "runtime 'tensorrt'"),
        ({"precision": "int4"}, "precision 'int4'"),
        ({"precision": "int8"}, "file 'model.onnx' is not the file of precision 'int8'"),
        ({"runtime": "openvino", "file": "../model.onnx"}, "file '../model.onnx'"),
        ({"precision": "bf16"}, "no precision 'bf16'"),
    ],
)
def test_an_engine_that_is_none_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        EngineChoice(**values)


@pytest.fixture(scope="module")
def written(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("store"))


@pytest.fixture
def repackage(written, folder, tmp_path):
    """`repackage(engine)`: a package of the small network whose model.json says `engine`."""

    def build(choice):
        path = shutil.copytree(written.path, tmp_path / "package")
        shutil.copyfile(folder / "model.onnx", path / "model.onnx")
        shutil.copyfile(folder / INT8_MODEL, path / INT8_MODEL)
        record = json.loads((path / "model.json").read_text())
        record["engine"] = choice
        if choice is None:
            del record["engine"]
        (path / "model.json").write_text(json.dumps(record))
        files = {name: entry for name, entry in describe_files(path).items() if name != MANIFEST}
        (path / MANIFEST).write_text(json.dumps({"files": files}))
        return path

    return build


@needs_vnni
def test_a_package_opens_in_the_engine_it_chose(repackage, images):
    package = load_package(repackage(dataclasses.asdict(OPENVINO_INT8)))
    assert package.model.engine == OPENVINO_INT8
    opened = Engine.open(package, threads=2)
    assert opened.choice == OPENVINO_INT8
    plain_logit, _ = Engine(package.onnx).run(images[0])
    logit, _ = opened.run(images[0])
    assert 0 < np.abs(logit - plain_logit).max() < 0.5


def test_a_package_from_before_there_was_a_choice_runs_in_onnx_runtime(repackage):
    package = load_package(repackage(None))
    assert Engine.open(package).choice == PLAIN


def test_a_cpu_without_the_instructions_runs_fp32_and_says_so(repackage, images, monkeypatch, caplog):
    package = load_package(repackage(dataclasses.asdict(OPENVINO_INT8)))
    monkeypatch.setattr(cpu, "flags", lambda: frozenset({"avx2"}))
    with caplog.at_level(logging.WARNING, "hounsfield.engine"):
        opened = Engine.open(package)
    assert opened.choice == PLAIN
    assert "serving in ONNX Runtime fp32 instead of OpenVINO int8: this CPU has none of" in caplog.text
    assert (opened.run(images[0])[0] == Engine(package.onnx).run(images[0])[0]).all()


def test_without_openvino_it_runs_in_onnx_runtime_and_says_so(repackage, monkeypatch, caplog):
    package = load_package(repackage(dataclasses.asdict(OPENVINO)))
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with caplog.at_level(logging.WARNING, "hounsfield.engine"):
        assert Engine.open(package).choice == PLAIN
    assert "instead of OpenVINO fp32: model.onnx does not open in OpenVINO fp32" in caplog.text


def test_a_gpu_provider_takes_fp32_whatever_was_chosen_on_a_cpu(monkeypatch):
    monkeypatch.setattr(engine, "_gpu_provider", lambda: "CUDAExecutionProvider")
    assert "CUDAExecutionProvider" in engine._why_not(OPENVINO_INT8)


def test_a_choice_whose_file_is_not_there_is_refused(repackage):
    path = repackage(dataclasses.asdict(OPENVINO_INT8))
    (path / INT8_MODEL).unlink()
    files = {name: entry for name, entry in describe_files(path).items() if name != MANIFEST}
    (path / MANIFEST).write_text(json.dumps({"files": files}))
    with pytest.raises(PackageError, match=r"model\.int8\.onnx is missing"):
        load_package(path)


def test_a_broken_fp32_model_is_an_error_in_one_sentence(repackage):
    path = repackage(None)
    (path / "model.onnx").write_bytes(b"no model")
    files = {name: entry for name, entry in describe_files(path).items() if name != MANIFEST}
    (path / MANIFEST).write_text(json.dumps({"files": files}))
    with pytest.raises(EngineError, match=r"model\.onnx does not open in ONNX Runtime fp32"):
        Engine.open(load_package(path))

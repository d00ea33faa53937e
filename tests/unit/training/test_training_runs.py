import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hounsfield.errors import ConfigError, TrainingError
from hounsfield.imaging.contract import ImageContract
from hounsfield.training.baseline import fit_baseline
from hounsfield.training.fit import fit
from hounsfield.training.launcher import launch
from hounsfield.training.network import load_network, weights_digest
from hounsfield.training.params import TrainingParams, training_params

QUICK = TrainingParams(epochs=4, batch_size=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def one_process(tensors, tmp_path_factory):
    """The folder of a model that one process trained."""
    out = tmp_path_factory.mktemp("one") / "model"
    fit(tensors, out, QUICK)
    return out


@pytest.fixture(scope="module")
def two_processes(tensors, tmp_path_factory):
    """The folder of a model that two processes trained, what they printed, and MLflow's URI."""
    folder = tmp_path_factory.mktemp("two")
    uri, lines = f"sqlite:///{folder / 'mlflow.db'}", []
    launch(tensors, folder / "model", QUICK, 2, None, uri, {"note": "abc"}, lines.append)
    return folder / "model", lines, uri


def record_of(model: Path) -> dict:
    return json.loads((model / "training.json").read_text())


def test_a_run_leaves_weights_and_a_record_and_no_checkpoints(tensors, tmp_path, capsys):
    fit(tensors, tmp_path / "model", QUICK)
    record = record_of(tmp_path / "model")
    assert record["architecture"] == "efficientnet-b0"
    assert record["size_px"] == 32
    assert record["spatial_dims"] == 2
    assert record["params"] == dataclasses.asdict(QUICK) | {"batch_parts": 2}
    assert [row["epoch"] for row in record["history"]] == [0, 1, 2, 3]
    assert set(record["history"][0]) == {"epoch", "train_loss", "validation_loss", "validation_auroc"}
    assert record["history"][record["best_epoch"]]["validation_auroc"] == max(
        row["validation_auroc"] for row in record["history"]
    )
    network = load_network(tmp_path / "model")
    assert weights_digest(network.state_dict()) == record["weights_sha256"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["training.json", "weights.pt"]
    said = capsys.readouterr().out
    assert "epoch=3 train_loss=" in said
    assert "[progress] train 16/16 batches" in said


def test_two_processes_with_half_the_batch_follow_the_curve_of_one(one_process, two_processes):
    one, two = record_of(one_process)["history"], record_of(two_processes[0])["history"]
    for whole, halves in zip(one, two, strict=True):
        assert halves["train_loss"] == pytest.approx(whole["train_loss"], abs=1e-5)
        assert halves["validation_loss"] == pytest.approx(whole["validation_loss"], abs=1e-5)
        assert halves["validation_auroc"] == whole["validation_auroc"]
    weights = [torch.load(model / "weights.pt") for model in (one_process, two_processes[0])]
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) <= 1e-5


def test_a_batch_in_one_part_is_another_run(one_process, tensors, tmp_path):
    # The statistics of eight images instead of twice four: what the parts keep from depending on processes.
    fit(tensors, tmp_path / "model", dataclasses.replace(QUICK, batch_parts=1, epochs=1))
    losses = [record_of(model)["history"][0]["train_loss"] for model in (one_process, tmp_path / "model")]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_two_processes_speak_with_one_voice_and_log_to_mlflow(two_processes):
    import mlflow

    model, lines, uri = two_processes
    record = record_of(model)
    assert len([line for line in lines if line.startswith("epoch=")]) == 4
    run = mlflow.MlflowClient(uri).get_run(record["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "8"
    assert run.data.tags["note"] == "abc"
    assert run.data.tags["processes"] == "2"
    assert run.data.tags["weights_sha256"] == record["weights_sha256"]
    assert len(run.data.tags["code_digest"]) == 16
    assert run.data.metrics["validation_auroc"] == pytest.approx(record["history"][-1]["validation_auroc"])


def test_a_failing_process_fails_the_launch_with_its_sentence(tensors, tmp_path):
    with pytest.raises(TrainingError, match=r"^batch_size 3 cannot be dealt to 2 processes"):
        launch(tensors, tmp_path / "m", {"batch_size": 3}, on_line=lambda line: None)


@pytest.mark.parametrize(("end", "epochs"), [(signal.SIGINT, 500), (signal.SIGKILL, QUICK.epochs)])
def test_no_process_is_left_behind_and_two_processes_go_on(tensors, tmp_path, two_processes, end, epochs):
    # A marker in the arguments finds the processes of this run alone.
    out = tmp_path / f"model-{os.getpid()}-{end}"
    command = [sys.executable, "-m", "hounsfield.training.main", "--processes=2", f"--epochs={epochs}"]
    command += ["--batch-size=8", "--learning-rate=1e-3", "--checkpoint-every-s=0"]
    command += [f"--tensors={tensors}", f"--out={out}"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("checkpoints/*/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.002)
        run.send_signal(end)
        started = processes_of(str(out))
        run.communicate(timeout=60)
        assert run.returncode != 0
        assert len(started) >= 3  # torchrun and two workers, at least, were there
        deadline = time.monotonic() + 20
        while processes_of(str(out)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_of(str(out)) == []
        assert not (out / "training.json").exists()
    finally:
        for pid in processes_of(str(out)):
            os.kill(pid, signal.SIGKILL)
    if end == signal.SIGKILL:
        subprocess.run(command, check=True, capture_output=True)
        whole, resumed = (torch.load(model / "weights.pt") for model in (two_processes[0], out))
        assert max((whole[name] - resumed[name]).abs().max().item() for name in whole) <= 1e-6


def processes_of(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
            running = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if marker in arguments and running:
            found.append(int(entry.name))
    return found


def test_training_stops_when_patience_is_spent_and_keeps_the_best_epoch(tensors, tmp_path):
    # A learning rate this small changes nothing from epoch to epoch, so that the first stays the best.
    params = dataclasses.replace(QUICK, epochs=9, learning_rate=1e-12, patience_epochs=2, augmentation=0.0)
    fit(tensors, tmp_path / "model", params)
    record = record_of(tmp_path / "model")
    best = record["best_epoch"]
    assert [row["epoch"] for row in record["history"]] == list(range(best + 3))
    assert len(record["history"]) < 9


@pytest.fixture
def volumes(make_tensors):
    """Tensors of 32 equal planes each."""
    tensors = make_tensors(counts=(8, 8, 8))
    images = np.load(tensors / "shard-00000.npy")
    np.save(tensors / "shard-00000.npy", np.repeat(images[:, :, None], 32, axis=2))
    ImageContract(size_px=32, depth_px=32).save(tensors)
    return tensors


def test_the_baseline_of_volumes_pools_them_in_three_directions(volumes, tmp_path):
    fit_baseline(volumes, tmp_path / "baseline")
    _, embedding = load_network(tmp_path / "baseline")(torch.rand(2, 1, 32, 32, 32))
    assert embedding.shape == (2, 8**3 + 2)


def test_volumes_are_trained_on_by_their_contract(volumes, tmp_path):
    fit(volumes, tmp_path / "model", dataclasses.replace(QUICK, epochs=1))
    assert record_of(tmp_path / "model")["spatial_dims"] == 3
    logit, embedding = load_network(tmp_path / "model")(torch.rand(2, 1, 32, 32, 32))
    assert logit.shape == (2,)
    assert embedding.shape == (2, 992)


def test_bf16_trains_and_validates_in_fp32(tensors, tmp_path):
    fit(tensors, tmp_path / "model", dataclasses.replace(QUICK, epochs=1, precision="bf16"))
    record = record_of(tmp_path / "model")
    assert record["precision"] == "bf16"
    assert record["history"][0]["train_loss"] == pytest.approx(0.69, abs=0.1)
    assert all(
        tensor.dtype != torch.bfloat16 for tensor in torch.load(tmp_path / "model/weights.pt").values()
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("dropout", 1.0),
        ("architecture", "vgg"),
        ("imbalance", "smote"),
        ("precision", "fp8"),
        ("patience_epochs", -1),
    ],
)
def test_senseless_parameters_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"{field} "):
        TrainingParams(**{field: value})


def test_a_preset_is_what_the_other_keys_start_from():
    assert training_params({}, "x") == TrainingParams()
    chosen = training_params({"preset": "standard", "epochs": 60.0}, "x")  # KFP's numbers are doubles
    assert (chosen.epochs, chosen.patience_epochs, chosen.architecture) == (60, 12, "efficientnet-b0")
    assert training_params({"preset": "full"}, "x").architecture == "densenet121"
    with pytest.raises(ConfigError, match="x: preset 'fast' is not one of quick, standard, full"):
        training_params({"preset": "fast"}, "x")
    with pytest.raises(ConfigError, match="x: unknown key 'epoch'"):
        training_params({"epoch": 1}, "x")


def test_baseline_separates_bright_squares_and_answers_a_probability(tensors, tmp_path):
    fit_baseline(tensors, tmp_path / "baseline")
    record = record_of(tmp_path / "baseline")
    assert record["history"][0]["validation_auroc"] > 0.95
    network = load_network(tmp_path / "baseline")
    logit, _ = network(torch.zeros(1, 1, 32, 32))
    assert torch.isfinite(logit).all()


def test_baseline_network_equals_the_regression_it_came_from(tensors, tmp_path):
    from sklearn.metrics import log_loss

    from hounsfield.imaging.preprocess import load_split

    fit_baseline(tensors, tmp_path / "baseline")
    images, table = load_split(tensors, "validation")
    logit, _ = load_network(tmp_path / "baseline")(torch.from_numpy(images))
    loss = log_loss(table["label"], torch.sigmoid(logit.double()).numpy())
    assert loss == pytest.approx(record_of(tmp_path / "baseline")["history"][0]["validation_loss"], rel=1e-4)

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hounsfield.errors import ConfigError, TrainingError
from hounsfield.training import fit as fit_module
from hounsfield.training.baseline import fit_baseline
from hounsfield.training.fit import fit
from hounsfield.training.launcher import launch
from hounsfield.training.main import main
from hounsfield.training.module import ClassifierModule
from hounsfield.training.network import load_network
from hounsfield.training.params import TrainingParams

QUICK = TrainingParams(epochs=2, batch_size=8, learning_rate=1e-3)


def test_a_run_leaves_weights_and_a_record_and_no_checkpoints(tensors, tmp_path, capsys):
    fit(tensors, tmp_path / "model", QUICK)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert record["architecture"] == "efficientnet-b0"
    assert record["size_px"] == 32
    assert record["params"] == dataclasses.asdict(QUICK)
    assert [row["epoch"] for row in record["history"]] == [0, 1]
    assert set(record["history"][0]) == {"epoch", "train_loss", "validation_loss", "validation_auroc"}
    assert record["history"][record["best_epoch"]]["validation_auroc"] == max(
        row["validation_auroc"] for row in record["history"]
    )
    load_network(tmp_path / "model")
    assert not list((tmp_path / "model" / "checkpoints").iterdir())
    said = capsys.readouterr().out
    assert "epoch=1 train_loss=" in said
    assert "[progress] train 8/8 batches" in said


def test_a_run_that_broke_goes_on_and_ends_at_the_same_weights(tensors, tmp_path, monkeypatch):
    fit(tensors, tmp_path / "whole", QUICK)

    start = ClassifierModule.on_train_epoch_start

    def break_in_the_second_epoch(self):
        if self.current_epoch == 1:
            raise RuntimeError("power cut")
        start(self)

    monkeypatch.setattr(ClassifierModule, "on_train_epoch_start", break_in_the_second_epoch)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tensors, tmp_path / "broken", QUICK)
    assert not (tmp_path / "broken" / "training.json").exists()
    seen = []
    monkeypatch.setattr(
        ClassifierModule,
        "on_train_epoch_start",
        lambda self: (seen.append(self.current_epoch), start(self))[1],
    )
    fit(tensors, tmp_path / "broken", QUICK)
    assert seen == [1]
    whole = torch.load(tmp_path / "whole" / "weights.pt")
    resumed = torch.load(tmp_path / "broken" / "weights.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_run_is_not_resumed(tensors, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    names = {fit_module._name(dataclasses.asdict(params)) for params in (QUICK, TrainingParams())}
    assert len(names) == 2
    damaged = checkpoints / "x"
    damaged.mkdir(parents=True)
    (damaged / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="cannot be read as a checkpoint"):
        fit_module._resumable(damaged / "last.ckpt")


def test_divergence_is_a_sentence_and_leaves_nothing(tensors, tmp_path, capsys):
    code = main(
        [
            f"--tensors={tensors}",
            f"--out={tmp_path / 'm'}",
            "--epochs=2",
            "--batch-size=8",
            "--learning-rate=1e30",
        ]
    )
    assert code == 2
    assert "training diverged; lower the learning rate, which is 1e+30" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "m").rglob("*") if path.is_file()]


def test_one_class_only_is_refused(make_tensors, tmp_path):
    with pytest.raises(TrainingError, match="train split has 32 negative and 0 positive"):
        fit(make_tensors(positive=lambda number: 0), tmp_path / "m", QUICK)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("dropout", 1.0),
        ("architecture", "vgg"),
    ],
)
def test_senseless_parameters_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"{field} "):
        TrainingParams(**{field: value})


def test_class_weight_is_taken_off_the_logit():
    module = ClassifierModule(TrainingParams(), positive_weight=math.e)
    module.remove_prior_shift()
    assert module.network.head.bias.item() == pytest.approx(-1.0)


def test_two_processes_train_one_network_and_log_it_to_mlflow(tensors, tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    lines = []
    launch(
        tensors,
        tmp_path / "model",
        {"epochs": 2, "batch_size": 8},
        processes=2,
        tracking_uri=uri,
        tags={"data_fingerprint": "abc"},
        on_line=lines.append,
    )
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert len([line for line in lines if line.startswith("epoch=")]) == 2  # rank 0 alone speaks
    run = mlflow.MlflowClient(uri).get_run(record["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "8"
    assert run.data.tags["data_fingerprint"] == "abc"
    assert run.data.metrics["validation_auroc"] == pytest.approx(record["history"][-1]["validation_auroc"])


def test_a_failing_process_fails_the_launch_with_its_sentence(tensors, tmp_path):
    with pytest.raises(TrainingError, match=r"^batch_size 3 cannot be dealt to 2 processes"):
        launch(tensors, tmp_path / "m", {"batch_size": 3}, on_line=lambda line: None)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tensors, tmp_path, end):
    # A marker in the arguments finds the processes of this run alone.
    out = tmp_path / f"model-{os.getpid()}-{end}"
    command = [sys.executable, "-m", "hounsfield.training.main", "--processes=2", "--epochs=500"]
    run = subprocess.Popen(
        [*command, "--batch-size=8", f"--tensors={tensors}", f"--out={out}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert any(line.startswith("epoch=0") for line in run.stdout)
        assert len(_processes(str(out))) >= 4  # the launcher, torchrun, two workers
        run.send_signal(end)
        run.communicate(timeout=60)
        assert run.returncode != 0
        deadline = time.monotonic() + 20
        while _processes(str(out)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert _processes(str(out)) == []
    finally:
        for pid in _processes(str(out)):
            os.kill(pid, signal.SIGKILL)


def _processes(marker: str) -> list[int]:
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


def test_baseline_separates_bright_squares_and_answers_a_probability(tensors, tmp_path):
    fit_baseline(tensors, tmp_path / "baseline")
    record = json.loads((tmp_path / "baseline" / "training.json").read_text())
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
    record = json.loads((tmp_path / "baseline" / "training.json").read_text())
    loss = log_loss(table["label"], torch.sigmoid(logit.double()).numpy())
    assert loss == pytest.approx(record["history"][0]["validation_loss"], rel=1e-4)

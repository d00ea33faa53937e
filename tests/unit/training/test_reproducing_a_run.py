"""A run done again from its MLflow record alone: from DICOM to weights, in a work tree of its commit."""

import json
import secrets
import subprocess
from pathlib import Path

import pytest

from hounsfield.cli.main import main
from hounsfield.data.examine import Rules
from hounsfield.data.ingest import ingest
from hounsfield.data.sample import make_sample
from hounsfield.errors import TrainingError
from hounsfield.imaging.contract import ImageContract
from hounsfield.imaging.preprocess import preprocess
from hounsfield.training.fit import fit
from hounsfield.training.params import TrainingParams
from hounsfield.training.provenance import PACKAGE
from hounsfield.training.rebuild import recorded_params
from hounsfield.training.reproduce import TOLERANCE, compare, reproduce
from hounsfield.training.tracking import Tracking

PARAMS = TrainingParams(epochs=1, batch_size=8, learning_rate=1e-3, imbalance="none")


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> tuple[Path, str]:
    """A git repository with one commit, of the code as it is now."""
    folder = tmp_path_factory.mktemp("repo")
    (folder / "src").mkdir()
    files = [path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()]
    for name in files:
        if "__pycache__" not in name:
            target = folder / "src" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((PACKAGE.parent / name).read_bytes())

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "code")
    return folder, git("rev-parse", "HEAD")


@pytest.fixture(scope="module")
def recorded(repo, tmp_path_factory):
    """A finished run: MLflow's URI, its id, and the folder of the sample that it learned from."""
    folder = tmp_path_factory.mktemp("recorded")
    make_sample(folder / "sample", images=60, workers=2)
    source, labels = folder / "sample" / "dicom", folder / "sample" / "labels.csv"
    ingest(source, labels, folder / "dataset", Rules(secrets.token_bytes(32)), seed=7, workers=2)
    preprocess(folder / "dataset", folder / "tensors", ImageContract(size_px=32))
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tags = {"source": str(source), "labels": str(labels), "frames": "refuse"}
    environment = {"HOUNSFIELD_GIT_COMMIT": repo[1]}
    fit(folder / "tensors", folder / "model", PARAMS, Tracking(uri, tags=tags), environment=environment)
    run_id = json.loads((folder / "model" / "training.json").read_text())["mlflow_run_id"]
    return uri, run_id, folder / "sample"


def test_data_code_and_weights_come_back_to_the_bit(recorded, repo, tmp_path, capsys):
    uri, run_id, _ = recorded
    code = main(
        ["reproduce", run_id, f"--tracking-uri={uri}", f"--repo={repo[0]}", f"--keep={tmp_path / 'kept'}"]
    )
    said = capsys.readouterr().out.splitlines()
    assert said[-5:] == [
        "data      same",
        "tensors   same",
        "code      same",
        "weights   same",
        "equal to the bit",
    ]
    assert code == 0
    assert (tmp_path / "kept" / "model" / "weights.pt").exists()
    listed = subprocess.run(["git", "-C", repo[0], "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1  # the work tree is gone


def test_data_that_changed_is_named_before_anything_is_trained(recorded, repo, tmp_path):
    uri, run_id, sample = recorded
    labels = tmp_path / "labels.csv"
    header, first, *rest = (sample / "labels.csv").read_text().splitlines()
    turned = {"0": "1", "1": "0", "negative": "positive", "positive": "negative"}
    *key, label = first.split(",")
    labels.write_text("\n".join([header, ",".join([*key, turned[label]]), *rest]) + "\n")
    lines = []
    with pytest.raises(
        TrainingError, match=r"could not be rebuilt: the data is not what it was: fingerprint"
    ):
        reproduce(run_id, uri, repo[0], labels=labels, say=lines.append)
    assert not [line for line in lines if "epoch=" in line]


def test_a_commit_that_the_repository_lacks_is_a_sentence(recorded, tmp_path):
    uri, run_id, _ = recorded
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    with pytest.raises(TrainingError, match=r"^commit \w{40} cannot be checked out from .*: fetch it"):
        reproduce(run_id, uri, tmp_path)


def test_a_run_that_mlflow_does_not_hold_is_a_sentence(recorded, repo, capsys):
    assert main(["reproduce", "0" * 32, f"--tracking-uri={recorded[0]}", f"--repo={repo[0]}"]) == 2
    assert "Run with id=" in capsys.readouterr().err


def test_parameters_come_back_from_words_as_what_they_were():
    words = {name: str(value) for name, value in vars(PARAMS).items()}
    assert recorded_params(words | {"shape": "[1, 32, 32]", "data": "abc"}) == PARAMS


def given(weights="w", auroc=0.9, torch="2.13"):
    """A record of one epoch, its curve and code, and a rebuild that may differ."""
    tags = {
        "data_fingerprint": "d",
        "code_digest": "c",
        "weights_sha256": "w",
        "machine": '{"torch": "2.13"}',
    }
    result = {"data_fingerprint": "d", "data": "t", "weights_sha256": weights}
    result |= {"history": [{"epoch": 0, "validation_auroc": auroc}], "origin": {"machine": {"torch": torch}}}
    return {"params": {"data": "t"}, "tags": tags}, {0: 0.9}, "c", result


def test_other_weights_are_excused_by_another_library_and_a_small_change_alone():
    assert compare(*given()).verdict == "equal to the bit"
    excused = compare(*given("x", 0.9 + 0.9 * TOLERANCE, torch="2.14"))
    assert excused.succeeded
    assert "may where torch differ" in excused.verdict
    assert compare(*given("x", 0.9)).verdict == "not reproduced: weights differ"
    assert not compare(*given("x", 0.9 + 1.1 * TOLERANCE, torch="2.14")).succeeded

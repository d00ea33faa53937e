"""Tensors, checkpoints and model in a bucket: a real S3 server (SeaweedFS)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import s3fs
import torch

from hounsfield.imaging.contract import ImageContract
from hounsfield.training.fit import fit
from hounsfield.training.loop import Loop
from hounsfield.training.main import main
from hounsfield.training.params import TrainingParams
from tests.integration import seaweed

KEY, SECRET = "AKIATEST", "the-secret-of-the-bucket"
PARAMS = TrainingParams(epochs=2, batch_size=8, learning_rate=1e-3)
ARGUMENTS = ["--epochs=2", "--batch-size=8", "--learning-rate=1e-3"]
ARGUMENTS += ["--checkpoint-every-s=0", "--processes=1"]


@pytest.fixture(autouse=True)
def one_thread():
    """A network this small trains faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """s3://training on a server of its own; the AWS variables of this process point to it."""
    folder = tmp_path / "server"
    folder.mkdir()
    with seaweed.running(folder, KEY, SECRET, "-master.volumeSizeLimitMB=1024") as port:
        for name, value in {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            s3fs.S3FileSystem().mkdir("training")
            yield "s3://training"
        finally:
            s3fs.S3FileSystem.clear_instance_cache()


def write_tensors(folder):
    draw = np.random.default_rng(3)
    labels = np.arange(48) % 2
    images = draw.random((48, 1, 32, 32), dtype=np.float32) * 0.5 + labels[:, None, None, None] * 0.2
    folder.mkdir()
    np.save(folder / "shard-00000.npy", images.astype(np.float32))
    rows = {"split": ["train"] * 32 + ["validation"] * 16, "label": labels, "shard": 0, "row": np.arange(48)}
    pd.DataFrame(rows).to_parquet(folder / "index.parquet")
    ImageContract(size_px=32).save(folder)


def test_a_run_in_a_bucket_goes_on_there_and_ends_at_the_weights_of_one_on_disk(
    tmp_path, bucket, monkeypatch
):
    write_tensors(tmp_path / "tensors")
    fit(tmp_path / "tensors", tmp_path / "model", PARAMS)
    whole = torch.load(tmp_path / "model" / "weights.pt")

    files = s3fs.S3FileSystem()
    files.put(str(tmp_path / "tensors") + "/", "training/tensors/", recursive=True)
    places = [f"--tensors={bucket}/tensors", f"--out={bucket}/model", f"--checkpoints={bucket}/checkpoints"]
    step, taken = Loop._train_step, []

    def broken(self):
        if self.step == 5:
            raise RuntimeError("power cut")
        step(self)

    monkeypatch.setattr(Loop, "_train_step", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        main([*places, *ARGUMENTS])
    files.invalidate_cache()
    assert [Path(name).name for name in files.find("training/checkpoints")] == ["last.ckpt"]
    assert files.find("training/model") == []

    monkeypatch.setattr(Loop, "_train_step", lambda self: (taken.append(self.step), step(self)))
    assert main([*places, *ARGUMENTS]) == 0
    assert taken == [5, 6, 7]
    files.invalidate_cache()
    assert [Path(name).name for name in files.find("training/model")] == ["training.json", "weights.pt"]
    # SeaweedFS may list the emptied folder itself for a while.
    assert [name for name in files.find("training/checkpoints") if name.endswith(".ckpt")] == []
    with files.open("training/model/weights.pt") as stream:
        resumed = torch.load(stream)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_store_that_refuses_or_lacks_what_is_named_is_a_sentence(bucket, tmp_path, capsys, monkeypatch):
    assert main([f"--tensors={bucket}/nothing", f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        "error: there is nothing at s3://training/nothing: name the folder that preprocess wrote\n"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    assert main([f"--tensors={bucket}/tensors", f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: s3://training/tensors cannot be read or written: ")

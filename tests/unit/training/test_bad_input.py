"""What cannot be trained on ends in a sentence and leaves nothing half-written: each case is planted."""

import contextlib
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from hounsfield.errors import PlatformError, TrainingError
from hounsfield.training.fit import Resuming, fit
from hounsfield.training.main import main
from hounsfield.training.network import build_network, save_network
from hounsfield.training.params import TrainingParams

QUICK = TrainingParams(epochs=1, batch_size=8, learning_rate=1e-3)


def files_in(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_divergence_is_a_sentence_and_leaves_nothing(tensors, tmp_path, capsys):
    arguments = [f"--tensors={tensors}", f"--out={tmp_path / 'm'}", "--epochs=2", "--batch-size=8"]
    arguments += ["--learning-rate=1e30", "--checkpoint-every-s=0", "--processes=1"]
    assert main(arguments) == 2
    assert "training diverged; lower the learning rate, which is 1e+30" in capsys.readouterr().err
    assert files_in(tmp_path / "m") == []


def test_one_class_only_is_refused(make_tensors, tmp_path):
    with pytest.raises(TrainingError, match="train split has 32 negative and 0 positive"):
        fit(make_tensors(positive=lambda number: 0), tmp_path / "m", QUICK)
    assert not (tmp_path / "m").exists()


def test_pixels_that_are_not_finite_are_refused(make_tensors, tmp_path):
    tensors = make_tensors()
    images = np.load(tensors / "shard-00000.npy")
    images[33, 0, 3, 3] = np.nan  # the second image of validation
    np.save(tensors / "shard-00000.npy", images)
    with pytest.raises(TrainingError, match="the validation split holds pixels that are not finite"):
        fit(tensors, tmp_path / "m", QUICK)
    assert not (tmp_path / "m").exists()


@contextlib.contextmanager
def no_file_larger_than(size_bytes):
    """Limit the size of the files of this process: writing beyond fails as on a full disk.

    Only around the call: pytest writes its own output between a test and the end of its fixtures.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("every_s", [0.0, 1e9], ids=["at a checkpoint", "at the model"])
def test_a_full_disk_is_a_sentence_and_nothing_is_half_written(tensors, tmp_path, every_s):
    sentence = "cannot write its checkpoint or model: the file is larger"
    with pytest.raises(PlatformError, match=sentence), no_file_larger_than(2 * 1024**2):
        fit(tensors, tmp_path / "m", QUICK, resuming=Resuming(every_s=every_s))
    assert files_in(tmp_path / "m") == []


def test_a_full_disk_at_the_record_leaves_no_model(tmp_path):
    network = build_network("pixel-statistics", 0)
    record = {"architecture": "pixel-statistics", "note": "x" * 70_000}
    with pytest.raises(OSError, match="File too large"), no_file_larger_than(64 * 1024):
        save_network(network, tmp_path, record)
    assert files_in(tmp_path) == []


def test_lack_of_memory_is_a_sentence_with_the_batch_size(make_tensors, tmp_path):
    tensors = make_tensors(counts=(512, 16, 16), size_px=64)
    # What is mapped once torch is loaded, and half a GiB more: less than a step of 512 images takes.
    program = (
        "import resource, sys, hounsfield.training.fit, hounsfield.training.main as m, monai.networks.nets\n"
        "import torch; torch.set_num_threads(1)\n"
        "mapped = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**29, mapped + 2**29))\n"
        "sys.exit(m.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, f"--tensors={tensors}", f"--out={tmp_path / 'm'}"]
    done = subprocess.run(
        [*command, "--epochs=1", "--batch-size=512", "--processes=1"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "error: out of memory with batch_size 512 of images 1 x 64 x 64: lower batch_size"
    )
    assert not (tmp_path / "m").exists()

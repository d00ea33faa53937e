"""A run that broke goes on and ends where the unbroken one ends; a checkpoint of another run is refused."""

import dataclasses
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hounsfield.errors import TrainingError
from hounsfield.training.fit import Resuming, fit
from hounsfield.training.loop import Loop
from hounsfield.training.params import TrainingParams

PARAMS = TrainingParams(epochs=3, batch_size=8, learning_rate=1e-3)
STEPS = 12
EVERY_STEP = Resuming(every_s=0)


@pytest.fixture(scope="module")
def whole(tensors, tmp_path_factory):
    """Weights of the unbroken run."""
    out = tmp_path_factory.mktemp("whole")
    fit(tensors, out, PARAMS)
    return torch.load(out / "weights.pt")


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def break_before(monkeypatch):
    """Make training break before the step with this number, and see which steps are taken."""
    step, taken = Loop._train_step, []

    def plant(number):
        def broken(self):
            if self.step == number:
                raise RuntimeError("power cut")
            taken.append(self.step)
            step(self)

        taken.clear()
        monkeypatch.setattr(Loop, "_train_step", broken)
        return taken

    return plant


def wait_for_checkpoints(run: subprocess.Popen, out: Path, wanted: int) -> list[float]:
    """When (monotonic, seconds) `run` has written each of so many checkpoints, one a step."""

    def latest() -> set:
        return {path.stat().st_mtime_ns for path in out.glob("checkpoints/*/last.ckpt")}

    before, times, deadline = latest(), [], time.monotonic() + 120
    while len(times) < wanted:
        assert run.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, f"{len(times)} checkpoints in two minutes"
        now = latest()
        if now and now != before:
            before, times = now, [*times, time.monotonic()]
        time.sleep(0.002)
    return times


def test_killed_at_random_batches_it_ends_at_the_same_weights_to_the_bit(tensors, tmp_path, whole):
    out, seed = tmp_path / "model", random.SystemRandom().randrange(10**6)
    print("seed of the kills:", seed)
    chance = random.Random(seed)
    command = [sys.executable, "-m", "hounsfield.training.main", "--epochs=3", "--batch-size=8"]
    command += ["--processes=1"]
    command += ["--learning-rate=1e-3", "--checkpoint-every-s=0", f"--tensors={tensors}", f"--out={out}"]
    for _ in range(2):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            # At most five of the twelve steps a run: two to four, and a part of one more.
            written = wait_for_checkpoints(run, out, chance.randint(2, 4))
            time.sleep(chance.random() * (written[-1] - written[-2]))
        finally:
            run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert not (out / "training.json").exists()
    fit(tensors, out, PARAMS)
    assert equal(torch.load(out / "weights.pt"), whole)


@pytest.mark.parametrize("number", [1, 3, 4, 5, STEPS - 1])
def test_broken_before_any_step_of_an_epoch(tensors, tmp_path, whole, break_before, number):
    break_before(number)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tensors, tmp_path, PARAMS, resuming=EVERY_STEP)
    taken = break_before(-1)
    fit(tensors, tmp_path, PARAMS)
    assert taken == list(range(number, STEPS))
    assert equal(torch.load(tmp_path / "weights.pt"), whole)


@pytest.fixture
def broken_checkpoint(tensors, tmp_path, break_before):
    break_before(2)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tensors, tmp_path / "broken", PARAMS, resuming=EVERY_STEP)
    break_before(-1)
    (file,) = tmp_path.glob("broken/checkpoints/*/last.ckpt")
    return file


def test_a_checkpoint_given_by_name_is_gone_on_from(tensors, tmp_path, whole, broken_checkpoint):
    fit(tensors, tmp_path / "other", PARAMS, resuming=Resuming(checkpoint=str(broken_checkpoint)))
    assert equal(torch.load(tmp_path / "other" / "weights.pt"), whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "densenet121"}, "architecture 'efficientnet-b0', and this run has 'densenet121'"),
        ({"learning_rate": 2e-3}, "learning_rate 0.001, and this run has 0.002"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(tensors, tmp_path, broken_checkpoint, change, said):
    params = dataclasses.replace(PARAMS, **change)
    with pytest.raises(TrainingError, match=said):
        fit(tensors, tmp_path / "m", params, resuming=Resuming(checkpoint=str(broken_checkpoint)))
    assert not (tmp_path / "m").exists()


def test_a_checkpoint_of_other_data_is_refused_by_name(make_tensors, tmp_path, broken_checkpoint):
    other = make_tensors(positive=lambda number: number % 3 == 0)
    with pytest.raises(TrainingError, match=r"a run with data '\w{16}', and this run has '\w{16}'"):
        fit(other, tmp_path / "m", PARAMS, resuming=Resuming(checkpoint=str(broken_checkpoint)))


def test_a_damaged_or_absent_checkpoint_is_a_sentence(tensors, tmp_path, broken_checkpoint):
    broken_checkpoint.write_bytes(broken_checkpoint.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"last\.ckpt cannot be read as a checkpoint"):
        fit(tensors, tmp_path / "m", PARAMS, resuming=Resuming(checkpoint=str(broken_checkpoint)))
    with pytest.raises(TrainingError, match="there is no checkpoint"):
        fit(tensors, tmp_path / "m", PARAMS, resuming=Resuming(checkpoint=str(Path("nowhere.ckpt"))))


def test_other_parameters_start_anew_beside_an_interrupted_run(tensors, tmp_path, broken_checkpoint):
    place = broken_checkpoint.parents[1]
    params = dataclasses.replace(PARAMS, epochs=1)
    fit(tensors, tmp_path / "m", params, resuming=Resuming(checkpoints=str(place)))
    assert [path.name for path in place.iterdir()] == [broken_checkpoint.parent.name]

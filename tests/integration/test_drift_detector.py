"""The drift detector, fitted and asked in the real guard environment."""

import csv
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hounsfield.drift import command
from hounsfield.errors import GuardError

ROOT = Path(__file__).parents[2]
GUARD_PYTHON = Path(os.environ.get("HOUNSFIELD_GUARD_PYTHON", ROOT / ".venv-guard/bin/python"))
pytestmark = pytest.mark.skipif(not GUARD_PYTHON.exists(), reason="the guard environment is not made")

generator = np.random.default_rng(11)
MIXING = generator.normal(size=(4, 64))


def embeddings(images, shift=0.0):
    """(images, 64) float32: four factors mixed into 64 values, the first one moved by `shift`."""
    factors = generator.normal(size=(images, 4)) + np.array([shift, 0, 0, 0])
    return (factors @ MIXING + 0.1 * generator.normal(size=(images, 64))).astype(np.float32)


def save(folder, images, views=("PA", "AP")):
    """Embeddings of the one kind and a table with scores of a uniform kind and `views` in turn."""
    np.save(folder / "reference.npy", embeddings(images))
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["view_position", "patient_sex", "probability"])
        for number in range(images):
            table.writerow([views[number % len(views)], "FM"[number // 2 % 2], generator.random()])
    return folder / "reference.npy", folder / "table.csv"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    summary = command.fit(*save(folder, 120), folder / "detectors", GUARD_PYTHON)
    return folder / "detectors", summary


def test_the_detectors_are_saved_with_their_false_alarm_check(fitted):
    folder, summary = fitted
    assert json.loads((folder / "drift.json").read_text()) == summary
    assert (summary["n_reference"], summary["embedding_size"]) == (90, 64)
    assert summary["p_value_each"] == pytest.approx(0.05 / 3)
    assert summary["groups"] == {"patient_sex": ["F", "M"], "view_position": ["AP", "PA"]}
    assert summary["false_alarms"]["batches"] == 20
    assert summary["false_alarms"]["rate"] <= 0.25
    assert sorted(path.name for path in folder.iterdir()) == [
        "drift.json", "embedding", "fields", "label", "projection", "score",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_batch_of_the_same_kind_is_no_drift_and_a_moved_one_is(fitted, tmp_path):
    np.save(tmp_path / "same.npy", embeddings(40))
    np.save(tmp_path / "moved.npy", embeddings(40, shift=2.0))
    same = command.score(fitted[0], tmp_path / "same.npy", GUARD_PYTHON)
    moved = command.score(fitted[0], tmp_path / "moved.npy", GUARD_PYTHON)
    assert not same["is_drift"]
    assert same["p_value"] > same["threshold"]
    assert moved["is_drift"]
    assert moved["p_value"] < moved["threshold"] == pytest.approx(0.05 / 3)
    assert moved["score"] > same["score"]
    assert moved["n_batch"] == 40
    assert command.score(fitted[0], tmp_path / "same.npy", GUARD_PYTHON) == same


def test_a_p_value_is_never_zero_and_as_fine_as_what_it_is_held_against(fitted, tmp_path):
    np.save(tmp_path / "same.npy", embeddings(40))
    np.save(tmp_path / "moved.npy", embeddings(40, shift=2.0))
    program = (
        "import sys, numpy as np\n"
        "from hounsfield.drift.detectors import Detectors\n"
        "from pathlib import Path\n"
        "detectors = Detectors.load(Path(sys.argv[1]))\n"
        "for name, level in (('moved', None), ('moved', 0.0002), ('same', 0.0002)):\n"
        "    print(detectors.test_embedding(np.load(f'{sys.argv[2]}/{name}.npy'), level).p_value)\n"
    )
    done = subprocess.run(
        [GUARD_PYTHON, "-W", "ignore", "-c", program, fitted[0], tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    moved, finer, same = map(float, done.stdout.split())
    # No permutation of 500, and none of 9,999, is as far apart as the window is.
    assert (moved, finer) == (1 / 501, 1 / 10000)
    assert same > 0.05


def test_embeddings_of_another_model_are_refused(fitted, tmp_path):
    np.save(tmp_path / "other.npy", np.ones((40, 8), dtype=np.float32))
    with pytest.raises(GuardError, match="embeddings of 8 values, the detector of 64"):
        command.score(fitted[0], tmp_path / "other.npy", GUARD_PYTHON)


def test_too_small_a_reference_is_refused(tmp_path):
    with pytest.raises(GuardError, match=r"reference\.npy has 39 rows; at least 40 are needed"):
        command.fit(*save(tmp_path, 39), tmp_path / "detectors", GUARD_PYTHON)
    assert not (tmp_path / "detectors").exists()

"""Writing: killed, out of disk, or asked why by the engine; what is left is a whole package or nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hounsfield.errors import PackageError, PlatformError
from hounsfield.explain.checks import stability
from hounsfield.package import explained as explained_module
from hounsfield.package.draft import draft
from hounsfield.package.explained import explain_engine
from hounsfield.package.package import describe_files, load_package
from hounsfield.package.store import attribution_stability, publish

WRITER = """
import sys
from pathlib import Path
from hounsfield.package.draft import draft
with draft(Path(sys.argv[1])) as folder:
    (folder / "model.onnx").write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_no_package_and_the_next_one_takes_its_draft_away(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        with draft(tmp_path) as folder:  # it lives: its draft is its own
            others = [path for path in tmp_path.iterdir() if path != folder.parent]
            assert [(path / "package" / "model.onnx").read_bytes() for path in others] == [b"half"]
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=10)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".writing-")
    with draft(tmp_path):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


PACKAGER = """
import sys
from pathlib import Path
from hounsfield.package.write import write_package
root = Path(sys.argv[1])
print("ready", flush=True)
write_package(
    Path(sys.argv[2]),
    model_dir=root / "model", network_dir=root / "network", evaluation_dir=root / "evaluation",
    drift_dir=root / "drift", dataset_dir=root / "dataset", tensors_dir=root / "tensors",
    lineage={"git_commit": "abc123", "data_fingerprint": "def456"},
)
"""


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_sigkill_at_any_moment_of_packaging_leaves_whole_packages_only(steps, write, tmp_path, share):
    began_s = time.monotonic()
    digest = write(tmp_path / "first").digest
    took_s = time.monotonic() - began_s
    store = tmp_path / "store"
    command = [sys.executable, "-c", PACKAGER, str(steps), str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as packager:
        packager.stdout.readline()
        while not any(store.glob(".writing-*/package/*")) and packager.poll() is None:
            time.sleep(0.01)
        time.sleep(share * took_s)  # any moment will do: none may leave anything half-written
        packager.kill()
    shown = [path for path in store.iterdir() if not path.name.startswith(".")]
    assert [load_package(path).digest for path in shown] in ([], [digest])
    assert write(store).digest == digest
    assert [path.name for path in store.iterdir()] == [digest]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    def full():
        raise OSError(28, os.strerror(28), "/dev/full")

    with pytest.raises(PlatformError, match="no space is left on the disk of"), draft(tmp_path / "store"):
        full()
    assert list((tmp_path / "store").iterdir()) == []


def test_what_could_hide_a_file_from_the_list_is_refused_by_name(tmp_path):
    folder = tmp_path / "package"
    (folder / "detectors").mkdir(parents=True)
    (folder / "detectors" / "x").write_text("x")
    assert set(describe_files(folder)) == {"detectors/x"}
    for make in (
        lambda path: path.symlink_to(tmp_path, target_is_directory=True),
        lambda path: path.symlink_to(tmp_path / "nowhere"),
        os.mkfifo,
    ):
        make(folder / "odd")
        with pytest.raises(PackageError, match="odd is not a file; remove it"):
            describe_files(folder)
        (folder / "odd").unlink()


def test_the_package_holds_why_its_engine_answers(explained):
    record = explained.explanation
    assert record["phantoms"] == 12
    assert record["completeness"]["passed"] is True
    assert record["pointing_game"]["cases"] <= 12
    assert explained.attributions.shape == (12, 16, 16)
    assert explained.attributions.dtype == np.float32
    assert stability(explained.attributions, explained.attributions)["value"] == pytest.approx(1.0)
    assert "attributions miss the change of the logit" in (explained.path / "MODEL_CARD.md").read_text()
    assert "| torch | 2.13.0" in (explained.path / "LICENCES.md").read_text()


def test_a_candidate_is_held_against_the_champion_in_the_store(explained, tmp_path):
    uri = publish(explained, str(tmp_path / "store"))
    agreed = attribution_stability(explained, uri)
    assert (agreed["value"], agreed["images"]) == (pytest.approx(1.0), 12)
    assert attribution_stability(explained, f"{uri}-gone") is None
    # The same weights of every region, of the other sign: what spoke for the finding speaks against it.
    file = tmp_path / "store" / explained.digest / "attributions.npy"
    np.save(file, -np.load(file))
    assert attribution_stability(explained, uri)["value"] == pytest.approx(-1.0)
    file.write_bytes(b"no array")
    with pytest.raises(PackageError, match=r"attributions\.npy of the package .* cannot be read"):
        attribution_stability(explained, uri)


def test_a_package_that_was_not_asked_says_so(write, tmp_path):
    written = write(tmp_path)
    assert attribution_stability(written, "nowhere") is None
    assert (written.explanation, written.attributions) == (None, None)
    assert "cannot be explained" in (written.path / "MODEL_CARD.md").read_text()


def test_an_engine_whose_attributions_do_not_add_up_is_not_shipped(explained, monkeypatch):
    monkeypatch.setattr(explained_module, "THREADS", 1)
    monkeypatch.setattr(explained_module, "EVALUATIONS", 64)
    asked = []

    def moody(images):
        asked.append(len(images))
        return images.mean(axis=(1, 2, 3)) + np.float32(len(asked) % 5 == 1)

    background = np.load(explained.path / "background.npy")
    with pytest.raises(PackageError, match=r"miss the change of its logit by .* is not shipped"):
        explain_engine(moody, background, explained.contract, explained.model, sample=True)


def test_without_known_findings_there_is_no_pointing_game(explained, monkeypatch):
    monkeypatch.setattr(explained_module, "EVALUATIONS", 64)
    background = np.load(explained.path / "background.npy")
    _, record = explain_engine(
        lambda images: images.mean(axis=(1, 2, 3)), background, explained.contract, explained.model, False
    )
    assert record["pointing_game"] is None


def test_the_draft_is_on_the_file_system_of_the_store(tmp_path):
    with draft(tmp_path / "a" / "store") as folder:
        assert Path(folder).is_relative_to(tmp_path / "a" / "store")
        assert folder.parent.name.startswith(".")

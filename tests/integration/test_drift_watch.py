"""Drift on the stream: a real inference log and the real worker in the guard environment, killed midway."""

import base64
import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from hounsfield.drift import command
from hounsfield.serving.inference_log import InferenceLog

ROOT = Path(__file__).parents[2]
GUARD_PYTHON = Path(os.environ.get("HOUNSFIELD_GUARD_PYTHON", ROOT / ".venv-guard/bin/python"))
pytestmark = pytest.mark.skipif(not GUARD_PYTHON.exists(), reason="the guard environment is not made")

WINDOW = 40
generator = np.random.default_rng(12)
MIXING = generator.normal(size=(4, 64))


def embeddings(images, shift=0.0):
    """(images, 64): four factors mixed into 64 values, the first one moved by `shift`."""
    factors = generator.normal(size=(images, 4)) + np.array([shift, 0, 0, 0])
    return factors @ MIXING + 0.1 * generator.normal(size=(images, 64))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """What the drift worker needs of a model package: fitted detectors and the manifest; its digest."""
    folder = tmp_path_factory.mktemp("package")
    np.save(folder / "reference.npy", embeddings(160).astype(np.float32))
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["manufacturer", "patient_sex", "probability"])
        for number in range(160):
            table.writerow([("Ada", "Bo", "Ada")[number % 3], "FM"[number % 2], generator.random()])
    out = folder / "package"
    command.fit(folder / "reference.npy", folder / "table.csv", out / "detectors", GUARD_PYTHON)
    files = {
        path.relative_to(out).as_posix(): {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in out.rglob("*")
        if path.is_file()
    }
    (out / "manifest.json").write_text(json.dumps({"files": files}))
    return out, hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def records(package):
    """Two windows of the reference's kind, then one of another manufacturer with moved embeddings; and among
    them all that must not count."""
    moved = [("Cyd", values) for values in embeddings(WINDOW, shift=2.0)]
    kinds = [(("Ada", "Bo", "Ada")[n % 3], values) for n, values in enumerate(embeddings(2 * WINDOW))] + moved
    found = []
    for number, (manufacturer, values) in enumerate(kinds):
        prediction = {
            "kind": "prediction",
            "time": f"2026-11-21T14:{number // 60:02d}:{number % 60:02d}.000000Z",
            "request_id": str(number),
            "shadow": False,
            "model_name": "opacity",
            "model_version": "3",
            "package_digest": package[1],
            "input_kind": "dicom",
            "input_sha256": f"{number:064d}",
            "probability": float(generator.random()),
            "refusal": "",
            "embedding": base64.b64encode(values.astype("<f2").tobytes()).decode(),
            "subgroups": {"manufacturer": manufacturer, "patient_sex": "FM"[number % 2]},
        }
        found.append(prediction)
        if number % 10 == 0:
            found += [
                {**prediction, "shadow": True},
                {**prediction, "refusal": "not_dicom", "probability": None, "embedding": None},
                prediction,  # the same picture once more
                {**prediction, "package_digest": "0" * 64},
                {"kind": "feedback", "request_id": str(number), "instance": 0, "truth": "positive"},
            ]
    return found


def write(folder, package, records):
    with InferenceLog(folder, segment_bytes=50_000) as log:
        log.append(records).result(30)
    with contextlib.suppress(FileExistsError):
        shutil.copytree(package[0], folder / "detectors" / package[1])
    return folder


def worker(*arguments):
    return subprocess.Popen(
        [str(GUARD_PYTHON), "-m", "hounsfield.drift.watch", f"--window={WINDOW}", "--poll_s=0.1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]},
    )


def run_once(logs, state):
    process = worker(f"--logs={logs}", f"--state={state}", "--once")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return [json.loads(line) for line in stdout.splitlines()]


@pytest.fixture(scope="module")
def unbroken(package, records, tmp_path_factory):
    """(lines, state) of a worker that read the whole log in one go."""
    folder = tmp_path_factory.mktemp("unbroken")
    write(folder / "log", package, records)
    lines = run_once(folder / "log", folder / "state")
    return lines, json.loads((folder / "state" / "state.json").read_text())


def test_an_undisturbed_stream_is_quiet_and_a_planted_drift_is_not(unbroken):
    lines, state = unbroken
    assert [line["event"] for line in lines] == ["window"] * 3
    assert [line["window"] for line in lines] == [1, 2, 3]
    assert [line["images"] for line in lines] == [WINDOW] * 3
    assert [line["is_drift"] for line in lines] == [False, False, True]
    drifted = {name: result["is_drift"] for name, result in lines[2]["detectors"].items()}
    assert drifted == {"embedding": True, "projection": True, "fields": True, "label": False, "score": False}
    assert [line["kinds"] for line in lines] == [[], [], ["acquisition"]]
    by_field = lines[2]["detectors"]["fields"]["by_field"]
    assert by_field["manufacturer"] < 1e-6 < 0.5 < by_field["patient_sex"]
    assert state["predictions"] == {
        "taken": 120, "shadow": 12, "refused": 12, "repeated": 12, "no_detectors": 12,
    }  # fmt: skip


def test_a_worker_killed_in_the_middle_goes_on_as_if_nothing_had_been(unbroken, package, records, tmp_path):
    half = len(records) // 2
    log, state = write(tmp_path / "logs" / "pod-1", package, records[:half]), tmp_path / "state"
    first = worker(f"--logs={log.parent}", f"--state={state}", "--host=127.0.0.1", "--port=0")
    with killed(first):
        assert json.loads(first.stdout.readline())["event"] == "listening"
        lines = [json.loads(first.stdout.readline())]
        first.send_signal(signal.SIGKILL)  # it has said a window, and may not have saved it
        assert first.wait(30) == -signal.SIGKILL

    write(log, package, records[half:])
    second = worker(f"--logs={log.parent}", f"--state={state}", "--host=127.0.0.1", "--port=0")
    with killed(second):
        port = json.loads(second.stdout.readline())["port"]
        while not lines or lines[-1]["window"] < 3:
            lines.append(json.loads(second.stdout.readline()))
            text = scrape_until(port, "hounsfield_drift_lag_records 0.0")
        assert f'hounsfield_drift_predictions_total{{outcome="taken"}} {3 * WINDOW}.0' in text
        assert 'hounsfield_drift_windows_total{model_name="opacity",model_version="3"} 3.0' in text
        detected = 'detector="embedding",model_name="opacity",model_version="3"} 1.0'
        assert f"hounsfield_drift_detected{{{detected}" in text
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0

    by_number = {line["window"]: line for line in lines}
    assert [by_number[number] for number in (1, 2, 3)] == unbroken[0]
    for line in lines:
        assert line == by_number[line["window"]], "said twice, and not the same"
    broken = json.loads((state / "state.json").read_text())
    assert broken["models"] == unbroken[1]["models"]
    assert broken["predictions"] == unbroken[1]["predictions"]


def test_a_log_that_was_tampered_with_is_named_and_not_read(package, records, tmp_path):
    log = write(tmp_path / "log", package, records[:60])
    segment = sorted(log.glob("*.jsonl"))[0]
    segment.write_bytes(segment.read_bytes().replace(b'"shadow":true', b'"shadow":null', 1))
    lines = run_once(log, tmp_path / "state")
    assert [line["event"] for line in lines] == ["log_failed"]
    assert "the record was edited" in lines[0]["error"]


@contextlib.contextmanager
def killed(process):
    """The process is gone after this, and a test that hangs on it fails instead."""
    timer = threading.Timer(120, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def scrape_until(port, sought):
    deadline = threading.Event()
    for _ in range(300):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        if sought in text.splitlines():
            return text
        deadline.wait(0.1)
    raise AssertionError(text)

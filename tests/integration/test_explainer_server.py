"""The real explainer process beside the real predictor: one package, one answer, and why."""

import base64
import io
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import requests
from PIL import Image

from hounsfield.dicom.reading import read_image
from hounsfield.explain.background import BACKGROUND
from hounsfield.imaging.contract import prepare
from hounsfield.package.engine import Engine
from tests.integration.predictor_process import (
    CONTRACT,
    NOT_DICOM,
    PATIENT,
    ROOT,
    free_ports,
    json_request,
    make_package,
    radiograph,
    stop,
    wait_until_ready,
)
from tests.integration.predictor_process import start as start_predictor

COMPLETENESS_BOUND = 1e-4


def with_training_images(tensors):
    """Twenty training images without the finding, of which the package makes its background."""
    images = np.random.default_rng(5).random((20, *CONTRACT.shape), dtype=np.float32)
    np.save(tensors / "shard-00001.npy", images)
    index = pd.read_parquet(tensors / "index.parquet").assign(label=0)
    train = pd.DataFrame({"split": "train", "shard": 1, "row": range(20), "label": 0})
    pd.concat([index, train], ignore_index=True).to_parquet(tensors / "index.parquet")


def start(package, log_path, *options):
    (port,) = free_ports(1)
    command = [
        sys.executable,
        "-m",
        "serving.explainer",
        f"--model_dir={package.path}",
        "--model_version=3",
        "--host=127.0.0.1",
        f"--http_port={port}",
        *options,
        *("--predictor_host", "elsewhere:80"),  # as KServe's controller appends it
    ]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    wait_until_ready(process, f"{url}/v2/health/ready", log_path)
    return SimpleNamespace(process=process, url=url, explain=f"{url}/v1/models/opacity:explain", log=log_path)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("package"), prepare_tensors=with_training_images)


@pytest.fixture(scope="module")
def explainer(package, tmp_path_factory):
    running = start(package, tmp_path_factory.mktemp("explainer") / "log.txt")
    yield running
    stop(running)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [radiograph(folder, seed, compressed=seed == 2) for seed in (1, 2)]


def dicom(*files):
    return {"instances": [{"dicom": {"b64": base64.b64encode(file).decode()}} for file in files]}


def explained(explainer, request):
    response = requests.post(explainer.explain, json=request, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def attribution(explanation):
    found = explanation["attribution"]
    return np.frombuffer(base64.b64decode(found["b64"]), "<f4").reshape(found["shape"])


def test_the_answer_is_the_predictors_and_its_reasons_sum_to_it(explainer, package, scans, tmp_path):
    predictor = start_predictor(package, tmp_path / "log.txt")
    try:
        outputs = requests.post(predictor.infer, json=json_request(*scans), timeout=30).json()["outputs"]
    finally:
        stop(predictor)
    predicted = {output["name"]: output["data"] for output in outputs}
    answer = explained(explainer, dicom(*scans))
    assert answer["model_version"] == "3"
    assert answer["package_digest"] == package.digest
    engine, background = Engine(package.onnx), np.load(package.path / BACKGROUND)
    for row, explanation in enumerate(answer["explanations"]):
        assert explanation["refusal"] == ""
        assert explanation["probability"] == pytest.approx(predicted["probability"][row], abs=1e-6)
        assert explanation["label"] == predicted["label"][row]
        image = prepare(read_image(scans[row]), CONTRACT)
        change = engine.run(image[None])[0][0] - engine.run(background[None])[0][0]
        assert abs(change) > 0.01, "nothing to explain"
        assert attribution(explanation).sum() == pytest.approx(change, abs=COMPLETENESS_BOUND)
        assert explanation["completeness_error"] < COMPLETENESS_BOUND
        assert 64 <= explanation["evaluations"] <= 600
        overlay = Image.open(io.BytesIO(base64.b64decode(explanation["overlay_png"]["b64"])))
        assert overlay.format == "PNG"
        assert overlay.size == (640, 350)
        assert PATIENT.encode() not in base64.b64decode(explanation["overlay_png"]["b64"])


def test_a_prepared_image_gets_the_explanation_of_its_file(explainer, scans):
    image = prepare(read_image(scans[0]), CONTRACT)[0]
    (of_file,) = explained(explainer, dicom(scans[0]))["explanations"]
    (of_image,) = explained(explainer, {"instances": [{"image": image.tolist()}]})["explanations"]
    assert of_image == of_file


def test_a_refused_instance_does_not_fail_the_others(explainer, scans):
    found = explained(explainer, dicom(scans[0], NOT_DICOM, b"", scans[0]))["explanations"]
    assert [each["refusal"] for each in found] == ["", "not_dicom", "not_dicom", ""]
    assert found[0] == found[3]
    assert found[1]["probability"] is found[1]["overlay_png"] is found[1]["attribution"] is None


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "the request is not JSON"),
        (b'{"instances": ' + NOT_DICOM, 400, "the request is not JSON"),
        (b"[" * 100_000, 400, "the request is not JSON"),
        (b'{"instances": {}}', 400, "'instances' is not a list of 1 to 4 objects"),
        (b'{"instances": []}', 400, "'instances' is not a list of 1 to 4 objects"),
        (b'{"instances": [1, 2, 3, 4, 5]}', 400, "'instances' is not a list of 1 to 4 objects"),
        (b'{"instances": ["DOE^JANE"]}', 400, "instances[0] has not exactly one of the keys"),
        (b'{"instances": [{"dicom": {}, "image": []}]}', 400, "instances[0] has not exactly one of the keys"),
        (b'{"instances": [{"dicom": "DOE^JANE"}]}', 400, "instances[0]: 'dicom' is not"),
        (b'{"instances": [{"dicom": {"b64": "DOE^JANE"}}]}', 400, "instances[0]: 'dicom' is not"),
        (b'{"instances": [{"dicom": {"b64": 7}}]}', 400, "instances[0]: 'dicom' is not"),
        (b'{"instances": [{"image": "DOE^JANE"}]}', 400, "instances[0]: 'image' is not an array of numbers"),
        (b'{"instances": [{"image": [[1], [1, 2]]}]}', 400, "'image' is not an array of numbers"),
        (b'{"instances": [{"image": [[0.5]]}]}', 400, "'image' is not of 32 rows of 32 numbers"),
        (b'{"instances": [{"image": [' + b",".join([b"[%s]" % b",".join([b"2"] * 32)] * 32) + b"]}]}", 400,
         "'image' has values outside 0 to 1"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence_without_the_input(explainer, body, status, sentence):
    response = requests.post(explainer.explain, data=body, timeout=10)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert sentence in response.json()["error"]
    assert PATIENT not in response.text
    log = explainer.log.read_text()
    assert PATIENT not in log
    assert "Traceback" not in log


def test_another_model_and_the_predictors_routes_are_not_here(explainer):
    assert requests.post(f"{explainer.url}/v1/models/other:explain", data=b"", timeout=5).status_code == 404
    assert requests.post(f"{explainer.url}/v2/models/opacity/infer", data=b"", timeout=5).status_code == 404
    assert requests.get(f"{explainer.url}/v1/models/opacity", timeout=5).json()["ready"] is True
    assert requests.get(f"{explainer.url}/v1/models/other", timeout=5).status_code == 404


def test_too_many_at_once_are_turned_away_and_the_server_stays_responsive(package, scans, tmp_path):
    server = start(package, tmp_path / "log.txt", "--max_waiting=2", "--limit_s=120")
    try:
        with ThreadPoolExecutor(12) as clients:
            asked = [
                clients.submit(requests.post, server.explain, json=dicom(scans[0]), timeout=60)
                for _ in range(12)
            ]
            # Answered from the event loop while a thread computes, imports and compiles.
            live_s = []
            while not all(each.done() for each in asked):
                began = time.monotonic()
                assert requests.get(f"{server.url}/v2/health/live", timeout=10).status_code == 200
                live_s.append(time.monotonic() - began)
                time.sleep(0.05)
            answers = [each.result() for each in asked]
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert 1 <= statuses.count(200) <= 4
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert "the limit is 2" in refused.json()["error"]
        assert np.median(live_s) < 0.5
        explained(server, dicom(scans[0]))
    finally:
        stop(server)


def test_sigterm_lets_the_request_inside_end(package, scans, tmp_path):
    server = start(package, tmp_path / "log.txt")
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(requests.post, server.explain, json=dicom(scans[0]), timeout=60)
        # The first request makes its thread import shap, and that loads numba's compiler: so it is inside.
        while "llvmlite" not in Path(f"/proc/{server.process.pid}/maps").read_text():
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert asked.result().status_code == 200
    assert server.process.wait(30) == 0


def test_a_package_without_a_background_is_refused_by_name(tmp_path):
    bare = make_package(tmp_path / "bare")
    command = [sys.executable, "-m", "serving.explainer", f"--model_dir={bare.path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "has no background.npy, without which it cannot be explained" in done.stderr
    assert "Traceback" not in done.stderr

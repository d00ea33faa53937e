"""The real predictor process on free ports: every door, what it refuses, and how it ends."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import requests
import torch
import tritonclient.grpc
import tritonclient.http
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from hounsfield.dicom.reading import read_image
from hounsfield.errors import ServingError
from hounsfield.imaging.contract import ImageContract, prepare
from hounsfield.package.engine import Engine, calibrate
from hounsfield.package.write import write_package
from hounsfield.serving.client import predict_bytes, predict_file
from hounsfield.serving.wire import MAX_BODY_BYTES
from hounsfield.training.network import build_network, save_network

ROOT = Path(__file__).parents[2]
CONTRACT = ImageContract(size_px=32)
PATIENT = "DOE^JANE"
NOT_DICOM = PATIENT.encode() * 20


def radiograph(tmp_path, seed, side=48, compressed=False):
    """The bytes of a small DX file; noise of `seed` over a slope."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    dataset.PatientName = PATIENT
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    pixels = np.random.default_rng(seed).integers(0, 30000, (side, side)) + np.arange(side)[:, None] * seed
    dataset.PixelData = pixels.astype("<u2").tobytes()
    if compressed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    path = tmp_path / "radiograph.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def make_package(root):
    network = build_network("pixel-statistics", 7)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(7))
    save_network(network, root / "model", {"architecture": "pixel-statistics"})
    for step, name, value in [
        (
            "evaluation",
            "metrics.json",
            {"operating_point": {"threshold": 0.5}, "temperature": 2.0, "review_band": [0.45, 0.55]},
        ),
        ("dataset", "profile.json", {}),
        ("dataset", "dataset.json", {"sample": True}),
    ]:
        (root / step).mkdir(exist_ok=True)
        (root / step / name).write_text(json.dumps(value))
    (root / "tensors").mkdir()
    CONTRACT.save(root / "tensors")
    np.save(root / "tensors" / "shard-00000.npy", np.zeros((2, *CONTRACT.shape), dtype=np.float32))
    index = pd.DataFrame({"split": ["validation"] * 2, "shard": 0, "row": range(2)})
    index.to_parquet(root / "tensors" / "index.parquet")
    return write_package(
        root / "store",
        model_dir=root / "model",
        evaluation_dir=root / "evaluation",
        drift_dir=None,
        explain_dir=None,
        dataset_dir=root / "dataset",
        tensors_dir=root / "tensors",
        lineage={},
    )


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def command(package_dir, http_port, grpc_port):
    return [
        sys.executable,
        "-m",
        "serving.predictor",
        "--model_name=opacity",
        f"--model_dir={package_dir}",
        "--model_version=3",
        "--host=127.0.0.1",
        f"--http_port={http_port}",
        f"--grpc_port={grpc_port}",
        "--threads=2",
    ]


def start(package, log_path):
    http_port, grpc_port = free_ports(2)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command(package.path, http_port, grpc_port), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{http_port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            if requests.get(f"{url}/v2/models/opacity/ready", timeout=5).status_code == 200:
                break
        except requests.ConnectionError:
            pass
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline, log_path.read_text()
        time.sleep(0.05)
    return SimpleNamespace(
        process=process,
        url=url,
        http=f"127.0.0.1:{http_port}",
        grpc=f"127.0.0.1:{grpc_port}",
        infer=f"{url}/v2/models/opacity/infer",
        log=log_path,
    )


def stop(server):
    server.process.terminate()
    try:
        server.process.wait(30)
    finally:
        server.process.kill()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def server(package, tmp_path_factory):
    running = start(package, tmp_path_factory.mktemp("server") / "log.txt")
    yield running
    stop(running)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return radiograph(tmp_path_factory.mktemp("scan"), seed=7)


@pytest.fixture(scope="module")
def expected(package, scan):
    """The probability of `scan`, float32, by the code that training and evaluation use."""
    logit, _ = Engine(package.onnx).run(prepare(read_image(scan), CONTRACT)[np.newaxis])
    return calibrate(logit, 2.0)[0]


def json_request(*files):
    data = [base64.b64encode(file).decode() for file in files]
    return {"inputs": [{"name": "dicom", "datatype": "BYTES", "shape": [len(files)], "data": data}]}


def columns(response):
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def metric(server, name, **labels):
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    for line in requests.get(f"{server.url}/metrics", timeout=5).text.splitlines():
        if line.startswith(f"{name}{{") and all(each in line for each in wanted):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_json_answers_with_the_very_number_of_the_training_code(server, package, scan, expected):
    response = requests.post(server.infer, json={**json_request(scan), "id": "42"}, timeout=10)
    answer = columns(response)
    assert np.float32(answer["probability"][0]) == expected
    assert answer["label"] == ["positive" if expected >= 0.5 else "negative"]
    assert answer["review_required"] == [bool(0.45 <= expected <= 0.55)]
    assert answer["refusal"] == [""]
    body = response.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("42", "opacity", "3")
    assert body["parameters"] == {
        "model_version": "3",
        "package_digest": package.digest,
        "contract_digest": CONTRACT.digest,
    }


def test_curl_without_a_content_type_works_too(server, scan, expected):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = requests.post(server.infer, data=json.dumps(json_request(scan)), headers=headers, timeout=10)
    assert np.float32(columns(response)["probability"][0]) == expected


def test_a_prepared_image_gets_the_same_answer_as_its_file(server, scan, expected):
    image = prepare(read_image(scan), CONTRACT)[np.newaxis]
    request = {"name": "image", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": image.ravel().tolist()}
    response = requests.post(server.infer, json={"inputs": [request]}, timeout=10)
    assert np.float32(columns(response)["probability"][0]) == expected


def test_a_compressed_file_gets_the_answer_of_the_uncompressed(server, tmp_path):
    plain, packed = (radiograph(tmp_path, 5, compressed=choice) for choice in (False, True))
    first, second = (
        columns(requests.post(server.infer, json=json_request(f), timeout=20)) for f in (plain, packed)
    )
    assert first == second
    assert first["refusal"] == [""]


def test_a_refused_file_does_not_fail_the_others(server, scan, expected):
    before = {
        outcome: metric(server, "hounsfield_requests_total", outcome=outcome) for outcome in ("ok", "refused")
    }
    answer = columns(requests.post(server.infer, json=json_request(scan, NOT_DICOM, b"", scan), timeout=10))
    assert answer["probability"] == [answer["probability"][0], None, None, answer["probability"][0]]
    assert np.float32(answer["probability"][0]) == expected
    assert answer["refusal"] == ["", "not_dicom", "not_dicom", ""]
    assert answer["label"][1:3] == ["", ""]
    assert answer["review_required"][1:3] == [True, True]
    assert metric(server, "hounsfield_requests_total", outcome="ok") == before["ok"] + 2
    assert metric(server, "hounsfield_requests_total", outcome="refused") == before["refused"] + 2
    assert metric(server, "hounsfield_refusals_total", reason="not_dicom", model_version="3") >= 2


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_over_http(server, scan, expected, binary):
    client = tritonclient.http.InferenceServerClient(server.http)
    tensor = tritonclient.http.InferInput("dicom", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([scan, NOT_DICOM], dtype=object), binary_data=True)
    names = ("probability", "label", "review_required", "refusal")
    outputs = [tritonclient.http.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("opacity", [tensor], outputs=outputs, request_id="9")
    probability = result.as_numpy("probability")
    assert probability.dtype == np.float32
    assert probability[0] == expected
    assert np.isnan(probability[1])
    assert [
        str(each, "utf-8") if isinstance(each, bytes) else each for each in result.as_numpy("refusal")
    ] == [
        "",
        "not_dicom",
    ]
    assert result.get_response()["id"] == "9"
    client.close()


def test_tritonclient_over_grpc_by_raw_contents(server, scan, expected):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    assert client.is_model_ready("opacity")
    assert [each.name for each in client.get_model_metadata("opacity").inputs] == ["dicom", "image"]
    tensor = tritonclient.grpc.InferInput("dicom", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([scan, NOT_DICOM], dtype=object))
    result = client.infer("opacity", [tensor])
    assert result.as_numpy("probability")[0] == expected
    assert result.as_numpy("label")[1] == b""
    assert result.as_numpy("refusal").tolist() == [b"", b"not_dicom"]
    response = result.get_response()
    assert response.model_version == "3"
    assert response.parameters["model_version"].string_param == "3"
    image = tritonclient.grpc.InferInput("image", [1, 1, 32, 32], "FP32")
    image.set_data_from_numpy(prepare(read_image(scan), CONTRACT)[np.newaxis])
    assert client.infer("opacity", [image]).as_numpy("probability")[0] == expected
    client.close()


def test_grpc_takes_typed_contents_too(server, scan, expected):
    request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="opacity", id="5")
    tensor = request.inputs.add(name="dicom", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([scan, scan])
    with tritonclient.grpc.grpc.insecure_channel(server.grpc) as channel:
        stub = tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(request, timeout=10)
    assert response.id == "5"
    assert np.frombuffer(response.raw_output_contents[0], "<f4").tolist() == [expected, expected]


def test_a_raw_detector_image_fits_through_every_door(server, tmp_path):
    large = radiograph(tmp_path, 3, side=2304)  # 10 MiB: KServe's own gRPC bound is 8
    assert len(large) > 10 * 2**20
    answer = columns(requests.post(server.infer, json=json_request(large), timeout=30))
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    tensor = tritonclient.grpc.InferInput("dicom", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([large], dtype=object))
    by_grpc = client.infer("opacity", [tensor]).as_numpy("probability")
    client.close()
    assert np.float32(answer["probability"][0]) == by_grpc[0]
    assert np.float32(predict_bytes(server.url, large)["probability"]) == by_grpc[0]


BROKEN = {
    "not JSON": (b"{" + NOT_DICOM, {}),
    "raw DICOM": (NOT_DICOM, {"Content-Type": "application/octet-stream"}),
    "no inputs": (b"{}", {}),
    "null data": (b'{"inputs":[{"name":"dicom","datatype":"BYTES","shape":[1],"data":null}]}', {}),
    "wrong name": (b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":[""]}]}', {}),
    "wrong datatype": (b'{"inputs":[{"name":"dicom","datatype":"FP32","shape":[1],"data":[""]}]}', {}),
    "unknown datatype": (b'{"inputs":[{"name":"dicom","datatype":"BLOB","shape":[1],"data":[""]}]}', {}),
    "negative shape": (b'{"inputs":[{"name":"dicom","datatype":"BYTES","shape":[-1],"data":[""]}]}', {}),
    "wrong count": (b'{"inputs":[{"name":"dicom","datatype":"BYTES","shape":[2],"data":[""]}]}', {}),
    "not base64": (
        b'{"inputs":[{"name":"dicom","datatype":"BYTES","shape":[1],"data":["DOE^JANE"]}]}',
        {"Content-Type": "application/json"},
    ),
    "unknown output": (
        b'{"inputs":[{"name":"dicom","datatype":"BYTES","shape":[1],"data":[""]}],"outputs":[{"name":"x"}]}',
        {},
    ),
    "cut binary": (
        b'{"inputs":[{"name":"dicom","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":8}}]}'
        b"\xff\xff\xff\x7fDOE^",
        {"Inference-Header-Content-Length": "96"},
    ),
    "raw bytes behind the header": (
        b'{"inputs":[{"name":"dicom","datatype":"BYTES","shape":[1]}]}' + NOT_DICOM,
        {"Inference-Header-Content-Length": "9999"},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_request_is_the_clients_and_the_next_one_succeeds(server, scan, case):
    body, headers = BROKEN[case]
    response = requests.post(server.infer, data=body, headers=headers, timeout=10)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}
    assert "DOE" not in response.text
    assert requests.post(server.infer, json=json_request(scan), timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nothing/infer", 404),
        ("GET", "/v2/models/nothing", 404),
        ("POST", "/v2/models/opacity/versions/9/infer", 404),
        ("POST", "/v2/repository/models/opacity/unload", 400),
        ("POST", "/v1/models/opacity:predict", 400),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/opacity/infer", 405),
    ],
)
def test_what_is_not_there_is_said_in_the_protocols_error_field(server, method, path, status):
    request = json_request(b"") | {"instances": []}
    response = requests.request(method, server.url + path, json=request, timeout=10)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


def test_a_version_in_the_path_is_served_when_it_is_the_one_held(server, scan):
    url = f"{server.url}/v2/models/opacity/versions/3/infer"
    assert requests.post(url, json=json_request(scan), timeout=10).status_code == 200


def test_an_oversize_body_is_413(server):
    def chunks():  # no Content-Length to go by
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield bytes(2**20)

    # The server may answer and close while the client is still sending: then the client sees only that.
    with contextlib.suppress(requests.ConnectionError):
        assert requests.post(server.infer, data=chunks(), timeout=30).status_code == 413
    assert requests.get(f"{server.url}/v2/health/ready", timeout=5).status_code == 200


def test_a_broken_grpc_request_is_invalid_argument_without_its_bytes(server):
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    tensor = tritonclient.grpc.InferInput("dicom", [3], "BYTES")
    tensor._raw_content = b"\xff\xff\xff\x7f" + NOT_DICOM
    with pytest.raises(tritonclient.grpc.InferenceServerException) as error:
        client.infer("opacity", [tensor])
    client.close()
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "DOE" not in error.value.message()


def test_predict_file_reads_one_answer(server, scan, expected, tmp_path):
    (tmp_path / "scan.dcm").write_bytes(scan)
    answer = predict_file(server.url, tmp_path / "scan.dcm")
    assert np.float32(answer["probability"]) == expected
    assert (answer["model_version"], answer["refusal"]) == ("3", "")
    refused = predict_bytes(server.url, NOT_DICOM)
    assert (refused["probability"], refused["refusal"]) == (None, "not_dicom")


def test_predict_file_says_in_a_sentence_what_went_wrong(server, tmp_path):
    (tmp_path / "scan.dcm").write_bytes(b"")
    with pytest.raises(ServingError, match="answered 404: this server holds no model"):
        predict_file(server.url, tmp_path / "scan.dcm", "nothing")
    with pytest.raises(ServingError, match="cannot be reached"):
        predict_file(f"http://127.0.0.1:{free_ports(1)[0]}", tmp_path / "scan.dcm")
    with pytest.raises(ServingError, match="cannot be read"):
        predict_file(server.url, tmp_path / "missing.dcm")


def test_no_log_line_a_request_and_none_holds_a_payload(server, scan):
    size = server.log.stat().st_size
    requests.post(server.infer, json=json_request(scan), timeout=10)
    assert server.log.stat().st_size == size
    assert PATIENT not in server.log.read_text()


def test_sigterm_lets_a_request_in_flight_finish(package, scan, tmp_path):
    server = start(package, tmp_path / "log.txt")
    try:
        body = json.dumps(json_request(scan)).encode()
        host, port = server.http.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as half_sent:
            half_sent.sendall(
                b"POST /v2/models/opacity/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:100]
            )
            requests.get(f"{server.url}/v2/health/live", timeout=5)  # answered after the first half was read
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 20
            while True:  # until the server has stopped listening
                try:
                    socket.create_connection((host, int(port)), timeout=5).close()
                except OSError:
                    break
                assert time.monotonic() < deadline
                time.sleep(0.05)
            half_sent.sendall(body[100:])
            answer = b"".join(iter(lambda: half_sent.recv(65536), b""))
        assert b" 200 OK" in answer.split(b"\r\n", 1)[0]
        assert b'"refusal"' in answer
        server.process.wait(20)
    finally:
        server.process.kill()
        server.process.wait()


def test_the_worker_processes_end_with_the_server(package, tmp_path):
    server = start(package, tmp_path / "log.txt")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) >= 2
    stop(server)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_port_in_use_and_a_damaged_package_end_in_one_sentence(server, package, tmp_path):
    def run(*arguments):
        return subprocess.run(
            command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ
        )

    taken = int(server.http.split(":")[1])
    result = run(package.path, taken, free_ports(1)[0])
    assert result.returncode == 2
    assert f"error: cannot listen on 127.0.0.1:{taken}" in result.stderr
    assert "Traceback" not in result.stderr
    (tmp_path / "manifest.json").write_text('{"files": {"model.onnx": {}}}')
    result = run(tmp_path, *free_ports(2))
    assert result.returncode == 2
    assert "model.onnx is missing" in result.stderr

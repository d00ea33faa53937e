"""The real predictor process on free ports: every door, what it refuses, and how it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http

from hounsfield.dicom.reading import read_image
from hounsfield.errors import ServingError
from hounsfield.imaging.contract import prepare
from hounsfield.serving.client import predict_bytes, predict_file
from hounsfield.serving.wire import MAX_BODY_BYTES
from tests.integration.predictor_process import (
    CONTRACT,
    NOT_DICOM,
    PATIENT,
    ROOT,
    columns,
    command,
    free_ports,
    json_request,
    radiograph,
    start,
    stop,
)


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


def test_sigterm_turns_newcomers_away_and_lets_a_request_in_flight_finish(package, scan, tmp_path):
    server = start(package, tmp_path / "log.txt")
    try:
        body = json.dumps(json_request(scan)).encode()
        host, port = server.http.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as half_sent:
            half_sent.sendall(
                b"POST /v2/models/opacity/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:100]
            )
            assert requests.get(f"{server.url}/v2/health/ready", timeout=5).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 20
            while requests.get(f"{server.url}/v2/health/ready", timeout=5).status_code == 200:
                assert time.monotonic() < deadline
            assert requests.get(f"{server.url}/v2/health/live", timeout=5).status_code == 200
            assert requests.get(f"{server.url}/v2/models/opacity/ready", timeout=5).status_code == 503
            turned_away = requests.post(server.infer, json=json_request(scan), timeout=5)
            assert turned_away.status_code == 503
            assert set(turned_away.json()) == {"error"}
            assert int(turned_away.headers["Retry-After"]) >= 1
            with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
                assert not client.is_server_ready()
                tensor = tritonclient.grpc.InferInput("dicom", [1], "BYTES")
                tensor.set_data_from_numpy(np.array([scan], dtype=object))
                with pytest.raises(tritonclient.grpc.InferenceServerException) as error:
                    client.infer("opacity", [tensor])
                assert error.value.status() == "StatusCode.UNAVAILABLE"
            half_sent.sendall(body[100:])
            answer = b"".join(iter(lambda: half_sent.recv(65536), b""))
        assert b" 200 OK" in answer.split(b"\r\n", 1)[0]
        assert b'"refusal"' in answer
        assert server.process.wait(20) == 0
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

"""What a real predictor process leaves behind of every request: records, series, spans, log lines, labels."""

import json
import resource
import signal
import subprocess
import threading
import time
import uuid

import numpy as np
import pytest
import requests
import tritonclient.grpc

from hounsfield.audit.reader import read
from hounsfield.audit.verification import verify
from tests.integration.predictor_process import (
    NOT_DICOM,
    PATIENT,
    ROOT,
    columns,
    command,
    free_ports,
    json_request,
    start,
    stop,
)
from tests.otlp import Collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector():
    with Collector() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inference-log") / "log"


@pytest.fixture(scope="module")
def server(package, folder, collector, tmp_path_factory):
    running = start(
        package,
        tmp_path_factory.mktemp("server") / "log.txt",
        f"--log_dir={folder}",
        f"--otlp_endpoint={collector.url}",
        "--cache_entries=4",
    )
    yield running
    stop(running)


def records(folder, request_id):
    """The records of one request, in order."""
    return [record for record, _ in read(folder) if record.get("request_id") == request_id]


def metric(server, name, **labels):
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    for line in requests.get(f"{server.url}/metrics", timeout=5).text.splitlines():
        if line.startswith(f"{name}{{") and all(each in line for each in wanted):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def lines(server, request_id):
    """The process's log lines about one request."""
    found = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [line for line in found if line.get("request_id") == request_id]


def ask(server, *files, request_id="", **headers):
    names = {f"x-{name.replace('_', '-')}": value for name, value in headers.items()}
    request = json_request(*files) | ({"id": request_id} if request_id else {})
    return requests.post(server.infer, json=request, headers=names, timeout=20)


def label(server, **body):
    return requests.post(f"{server.url}/v2/models/opacity/feedback", json=body, timeout=20)


def until(condition, timeout_s=15):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_the_record_is_on_the_disk_when_the_answer_comes(server, folder, package, scan):
    response = ask(
        server, scan, NOT_DICOM, request_id="r-1", hounsfield_caller="reader", hounsfield_study="s.1"
    )
    answer = columns(response)
    first, second = records(folder, "r-1")
    assert first["probability"] == pytest.approx(answer["probability"][0])
    assert (first["caller"], first["study"], first["door"], first["shadow"]) == (
        "reader",
        "s.1",
        "rest-json",
        False,
    )
    assert (first["model_version"], first["package_digest"]) == ("3", package.digest)
    assert (second["refusal"], second["probability"]) == ("not_dicom", None)
    verify(folder)
    assert PATIENT not in "".join(path.read_text() for path in folder.iterdir())


def test_every_door_leaves_the_same_record(server, folder, scan):
    ask(server, scan, request_id="by-rest")
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    tensor = tritonclient.grpc.InferInput("dicom", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([scan], dtype=object))
    client.infer("opacity", [tensor], request_id="by-grpc")
    client.close()
    (rest,), (grpc,) = records(folder, "by-rest"), records(folder, "by-grpc")
    assert (rest.pop("door"), grpc.pop("door")) == ("rest-json", "grpc")
    for own in ("time", "request_id", "latency_s"):
        rest.pop(own), grpc.pop(own)
    assert rest == grpc


def test_a_request_without_an_id_gets_one_that_its_record_has_too(server, folder, scan):
    own = ask(server, scan).json()["id"]
    assert uuid.UUID(own)
    assert len(records(folder, own)) == 1
    assert ask(server, scan).json()["id"] != own


def test_the_spans_of_a_request_reach_the_collector_in_the_callers_trace(server, collector, scan):
    response = requests.post(
        server.infer,
        json=json_request(scan),
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "traced"},
        timeout=20,
    )
    assert response.status_code == 200
    spans = until(lambda: [span for span in collector.spans if span.trace_id.hex() == TRACE], timeout_s=20)
    assert {span.name for span in spans} >= {"request", "wait", "decode", "log"}
    (request,) = (span for span in spans if span.name == "request")
    assert request.parent_span_id.hex() == PARENT
    assert {each.key: each.value.string_value for each in request.attributes}[
        "hounsfield.request_id"
    ] == "traced"
    assert PATIENT not in str(spans)
    assert set(collector.paths) == {"/v1/traces"}


def test_a_repeated_instance_comes_from_the_cache_and_is_logged_and_counted(server, folder, scan):
    before = (
        metric(server, "hounsfield_cache_hits_total"),
        metric(server, "hounsfield_requests_total", outcome="ok", traffic="live"),
    )
    first, again = (ask(server, scan, request_id=f"cached-{turn}") for turn in range(2))
    assert columns(first) == columns(again)
    assert metric(server, "hounsfield_cache_hits_total") >= before[0] + 1
    assert metric(server, "hounsfield_requests_total", outcome="ok", traffic="live") == before[1] + 2
    assert len(records(folder, "cached-0")) == len(records(folder, "cached-1")) == 1


def test_a_mirrored_request_is_counted_apart(server, folder, scan):
    before = metric(server, "hounsfield_requests_total", outcome="ok", traffic="live")
    ask(server, scan, request_id="mirrored", hounsfield_shadow="1")
    assert metric(server, "hounsfield_requests_total", outcome="ok", traffic="live") == before
    assert metric(server, "hounsfield_requests_total", outcome="ok", traffic="shadow") == 1
    assert records(folder, "mirrored")[0]["shadow"] is True


def test_the_series_of_the_queue_and_the_log_are_there(server, scan):
    ask(server, scan)
    assert metric(server, "hounsfield_log_commit_seconds_count") > 0
    assert metric(server, "hounsfield_batch_size_count") > 0
    assert metric(server, "hounsfield_queue_waiting") == 0
    assert metric(server, "hounsfield_inflight_requests") == 0
    assert metric(server, "hounsfield_log_backlog") == 0
    unknown = {"attribute": "patient_sex", "group": "unknown", "outcome": "ok", "traffic": "live"}
    assert metric(server, "hounsfield_subgroup_requests_total", **unknown) > 0


def test_a_failed_request_is_one_line_with_its_id_and_a_good_one_is_none(server, scan):
    ask(server, scan, request_id="fine")
    broken = {"id": "broken", "inputs": [{"name": "dicom", "datatype": "FP32", "shape": [1], "data": [1]}]}
    assert requests.post(server.infer, json=broken, timeout=10).status_code == 400
    unread = requests.post(
        server.infer, data=b"{" + NOT_DICOM, headers={"x-request-id": "unread"}, timeout=10
    )
    assert unread.status_code == 400
    assert lines(server, "fine") == []
    for name in ("broken", "unread"):
        (line,) = lines(server, name)
        assert (line["level"], line["status"], line["error"]) == ("warning", 400, "RequestError")
    assert PATIENT not in server.log.read_text()


def test_a_readers_label_is_taken_once_and_a_contradiction_refused(server, folder, scan):
    predicted = columns(ask(server, scan, request_id="read"))["label"][0]
    counted = {"truth": "positive", "predicted": predicted}
    before = metric(server, "hounsfield_feedback_total", **counted)
    for _ in range(2):
        response = label(server, request_id="read", instance=0, label="positive")
        assert (response.status_code, response.json()) == (200, {"accepted": 1})
    assert metric(server, "hounsfield_feedback_total", **counted) == before + 1
    assert label(server, request_id="read", instance=0, label="negative").status_code == 409
    unknown = label(server, request_id="never", instance=0, label="positive")
    assert unknown.status_code == 404
    assert "no prediction" in unknown.json()["error"]
    assert [each["kind"] for each in records(folder, "read")] == ["prediction", "feedback"]


def test_while_the_disk_fails_nothing_is_answered_and_afterwards_all_is(package, scan, tmp_path):
    folder = tmp_path / "log"
    server = start(package, tmp_path / "log.txt", f"--log_dir={folder}")
    try:
        assert ask(server, scan, request_id="before").status_code == 200
        (segment,) = folder.glob("*.jsonl")
        # The kernel refuses to let any file of the process grow beyond this: EFBIG, as a full disk's ENOSPC.
        limit = resource.prlimit(
            server.process.pid, resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, resource.RLIM_INFINITY)
        )
        refused = ask(server, scan, request_id="during")
        assert refused.status_code == 503
        assert "no prediction leaves without its record" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) >= 1
        assert metric(server, "hounsfield_shed_total", why="log") == 1
        assert metric(server, "hounsfield_requests_total", outcome="error") == 1
        late = label(server, request_id="before", instance=0, label="positive")
        assert late.status_code == 503
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        assert ask(server, scan, request_id="after").status_code == 200
        assert label(server, request_id="before", instance=0, label="positive").status_code == 200
        verify(folder)
        assert [len(records(folder, name)) for name in ("before", "during", "after")] == [2, 0, 1]
        (line,) = lines(server, "during")
        assert line["status"] == 503
    finally:
        stop(server)


def test_sigkill_under_load_loses_no_acknowledged_record(package, scan, tmp_path):
    folder = tmp_path / "log"
    server = start(package, tmp_path / "log.txt", f"--log_dir={folder}")
    answered, surprises, enough = [], [], threading.Event()

    def send(client):
        session, turn = requests.Session(), 0
        while True:
            request = json_request(scan) | {"id": f"{client}-{turn}"}
            try:
                response = session.post(server.infer, json=request, timeout=20)
            except requests.ConnectionError:
                return  # clean: the connection is gone, and nothing was said
            except requests.RequestException as error:
                surprises.append(error)
                return
            if response.status_code != 200:
                surprises.append(response.text)
                return
            answered.append(response.json()["id"])
            turn += 1
            if len(answered) >= 200:
                enough.set()

    threads = [threading.Thread(target=send, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(30)
    server.process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    server.process.wait(10)
    assert surprises == []
    server = start(package, tmp_path / "again.txt", f"--log_dir={folder}")
    try:
        verify(folder)
        logged = {record["request_id"] for record, _ in read(folder) if record["kind"] == "prediction"}
        assert set(answered) - logged == set()
        # What was predicted before the kill takes feedback after it.
        until(lambda: label(server, request_id=answered[0], label="positive").status_code == 200)
        assert ask(server, scan, request_id="afterwards").status_code == 200
        verify(folder)
    finally:
        stop(server)


def test_a_mistyped_flag_and_a_log_that_cannot_be_opened_end_in_one_sentence(package, tmp_path):
    (tmp_path / "taken").write_text("")

    def run(*flags):
        return subprocess.run(
            command(package.path, *free_ports(2), *flags),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )

    for flags, sentence in [
        (["--max_waitng=3"], "'--max_waitng=3' is not an argument of the predictor"),
        ([f"--log_dir={tmp_path / 'taken'}"], "taken"),
        (["--threads=none"], "argument --threads: 'none' is not a whole number"),
    ]:
        result = run(*flags)
        assert result.returncode == 2
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr

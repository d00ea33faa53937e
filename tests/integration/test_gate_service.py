"""The gate: the replay against a small v2 server, and the real Seldon microservice around it."""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas
import pytest
import requests
from sklearn.metrics import roc_auc_score

from hounsfield.errors import DataError, GuardError, ServingError
from hounsfield.rollout import validation_set
from hounsfield.rollout.gate_client import request_verdict
from hounsfield.rollout.policy import GatePolicy
from hounsfield.rollout.replay import area_under_roc, replay

ROOT = Path(__file__).parents[2]
GUARD_PYTHON = Path(os.environ.get("HOUNSFIELD_GUARD_PYTHON", ROOT / ".venv-guard/bin/python"))
POLICY = GatePolicy(min_cases=8, min_positives=4)


class FakeModel(BaseHTTPRequestHandler):
    """A v2 server whose files say in plain text what it answers: a number, `refuse`, `break` or `nan`."""

    def do_GET(self):
        self._answer(200 if self.path == "/v2/models/opacity/ready" else 404, {})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = base64.b64decode(request["inputs"][0]["data"][0]).decode()
        if said == "break":
            return self._answer(500, {"error": "broken"})
        refused = said == "refuse"
        probability = None if refused or said == "nan" else float(said) + self.server.shift
        label = "" if refused else ("positive" if (probability or 0) >= 0.5 else "negative")
        outputs = {"probability": probability, "label": label, "refusal": "NOT_DICOM" if refused else ""}
        return self._answer(
            200,
            {
                "model_name": "opacity",
                "model_version": self.server.version,
                "outputs": [
                    {"name": name, "datatype": "X", "shape": [1], "data": [value]}
                    for name, value in outputs.items()
                ],
            },
        )

    def _answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(version="3", shift=0.0):
        server = ThreadingHTTPServer(("127.0.0.1", 0), FakeModel)
        server.version, server.shift = version, shift
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def frozen(tmp_path):
    def write(answers):
        (tmp_path / "frozen" / "dicom").mkdir(parents=True, exist_ok=True)
        rows = ["file,label"]
        for number, (said, label) in enumerate(answers):
            (tmp_path / "frozen" / "dicom" / f"{number}.dcm").write_text(said)
            rows.append(f"dicom/{number}.dcm,{label}")
        (tmp_path / "frozen" / "truth.csv").write_text("\n".join(rows) + "\n")
        return tmp_path / "frozen"

    return write


GOOD = [("0.9", "positive"), ("0.8", "positive"), ("0.7", "positive"), ("0.3", "positive"),
        ("0.1", "negative"), ("0.2", "negative"), ("0.4", "negative"), ("0.6", "negative")]  # fmt: skip
"""14 of 16 pairs in order (0.3 stands below 0.4 and 0.6): AUROC 0.875, sensitivity 3/4, specificity 3/4."""


def test_the_rank_formula_agrees_with_scikit_learn_with_ties():
    truths = [0, 0, 1, 1, 0, 1, 0, 1]
    scores = [0.1, 0.4, 0.4, 0.8, 0.8, 0.9, 0.3, 0.3]
    assert area_under_roc(truths, scores) == pytest.approx(roc_auc_score(truths, scores), abs=1e-12)
    assert area_under_roc([1, 1], [0.2, 0.3]) is None


def test_a_replay_measures_what_was_answered(serve, frozen):
    measured = replay(serve(), frozen(GOOD))
    assert (measured.cases, measured.scored, measured.positives) == (8, 8, 4)
    assert (measured.auroc, measured.sensitivity, measured.specificity) == (0.875, 0.75, 0.75)
    assert measured.model_versions == ("3",)
    assert 0 < measured.latency_p95_s < 5


def test_refusals_errors_and_answers_without_a_number_are_counted_apart(serve, frozen):
    bad = [("refuse", "positive"), ("break", "negative"), ("nan", "positive")]
    measured = replay(serve(), frozen(GOOD + bad))
    assert (measured.cases, measured.scored, measured.refusals, measured.errors) == (11, 8, 1, 2)
    assert measured.auroc == 0.875


def test_a_replay_needs_a_model_that_is_ready(serve, frozen):
    with pytest.raises(ServingError, match="not ready"):
        replay(serve(), frozen(GOOD), model_name="other")
    with pytest.raises(ServingError, match="no model answers"):
        replay("http://127.0.0.1:1", frozen(GOOD))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("dicom/0.dcm,maybe", "row 2: the label is not one of negative, positive"),
        ("../secret.dcm,positive", "row 2: the file it names is not in the validation set"),
        ("dicom/none.dcm,positive", "row 2: the file it names is not in the validation set"),
        ("", "has no rows"),
    ],
)
def test_a_wrong_truth_table_is_refused_by_row(frozen, row, sentence):
    folder = frozen(GOOD)
    (folder.parent / "secret.dcm").write_text("0.5")
    (folder / "truth.csv").write_text(f"file,label\n{row}\n")
    with pytest.raises(DataError, match=sentence) as caught:
        validation_set.read(folder)
    assert "maybe" not in str(caught.value)
    assert ".dcm" not in str(caught.value)


def test_freezing_takes_the_validation_split_and_its_labels(tmp_path):
    dataset = tmp_path / "dataset"
    (dataset / "dicom").mkdir(parents=True)
    for name in "abc":
        (dataset / "dicom" / f"{name}.dcm").write_text(name)
    index = {
        "file": [f"dicom/{name}.dcm" for name in "abc"],
        "label": [1, 0, 1],
        "split": ["validation", "validation", "test"],
    }
    pandas.DataFrame(index).to_parquet(dataset / "index.parquet")
    assert validation_set.freeze(dataset, tmp_path / "frozen") == 2
    assert validation_set.freeze(dataset, tmp_path / "frozen") == 2
    cases = validation_set.read(tmp_path / "frozen")
    assert [(case.path.read_text(), case.label) for case in cases] == [("a", 1), ("b", 0)]
    with pytest.raises(DataError, match="no image in the split 'train'"):
        validation_set.freeze(dataset, tmp_path / "other", split="train")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "frozen"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """(gate url, metrics url) of the real Seldon microservice."""
    if not GUARD_PYTHON.exists():
        pytest.skip("the guard environment is not made")
    http_port, metrics_port = free_port(), free_port()
    log = tmp_path_factory.mktemp("gate") / "gate.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(GUARD_PYTHON), "-m", "serving.gate", "--host", "127.0.0.1", "--service-type", "MODEL",
             "--http-port", str(http_port), "--metrics-port", str(metrics_port),
             "--grpc-workers", "0", "--threads", "2", "--log-level", "WARNING"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    url, metrics_url = f"http://127.0.0.1:{http_port}", f"http://127.0.0.1:{metrics_port}/metrics"
    try:
        wait_until_ready((f"{url}/health/ping", metrics_url), process, log)
        yield url, metrics_url
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            # Nothing of the group may outlive it.
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(urls, process, log):
    deadline = time.monotonic() + 60
    for url in urls:
        while True:
            try:
                if requests.get(url, timeout=1).ok:
                    break
            except requests.RequestException:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            threading.Event().wait(0.05)


def counters(metrics_url):
    text = requests.get(metrics_url, timeout=5).text
    found = {"seldon_validator_total": 0.0, "seldon_validator_passed_total": 0.0}
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name in found:
            found[name] += float(line.rpartition(" ")[2])
    return found["seldon_validator_total"], found["seldon_validator_passed_total"]


def test_the_gate_passes_a_good_candidate_and_counts_it(gate, serve, frozen):
    before = counters(gate[1])
    verdict = request_verdict(gate[0], serve("4"), serve("3"), frozen(GOOD), POLICY, candidate_version="4")
    assert verdict.passed, verdict.reasons
    assert verdict.numbers["candidate"]["auroc"] == 0.875
    assert verdict.numbers["champion"]["model_versions"] == ["3"]
    after = counters(gate[1])
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_the_gate_fails_a_bad_candidate_and_counts_that(gate, serve, frozen):
    before = counters(gate[1])
    worse = [(said, "negative" if label == "positive" else "positive") for said, label in GOOD]
    verdict = request_verdict(gate[0], serve(), None, frozen(worse), POLICY)
    assert not verdict.passed
    assert "AUROC 0.125 is below the floor of 0.750" in verdict.reasons
    after = counters(gate[1])
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


def test_a_candidate_that_does_not_answer_fails_the_gate(gate, frozen):
    verdict = request_verdict(gate[0], "http://127.0.0.1:1", None, frozen(GOOD), POLICY)
    assert not verdict.passed
    assert "no model answers at http://127.0.0.1:1" in verdict.reasons[0]


def test_a_candidate_of_another_version_fails_the_gate(gate, serve, frozen):
    verdict = request_verdict(gate[0], serve("3"), None, frozen(GOOD), POLICY, candidate_version="4")
    assert verdict.reasons == ("model version 4 was to be judged, but 3 answered",)


def test_a_question_that_makes_no_sense_is_refused_with_a_sentence(gate, serve, tmp_path):
    with pytest.raises(
        GuardError, match=r"the validation gate refused: the validation set has no truth\.csv"
    ):
        request_verdict(gate[0], serve(), None, tmp_path, POLICY)
    answer = requests.post(f"{gate[0]}/api/v1.0/predictions", json={"jsonData": {}}, timeout=5)
    assert answer.status_code == 400
    assert "lacks the key 'candidate_url'" in answer.json()["status"]["info"]


def test_the_gate_listens_on_the_loopback_interface_only(gate):
    ports = {int(url.split(":")[2].partition("/")[0]) for url in gate}
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, port = line.split()[1].split(":")
        if line.split()[3] == "0A" and int(port, 16) in ports:
            listening[int(port, 16)] = address
    assert listening == dict.fromkeys(ports, "0100007F")


@pytest.mark.skipif(not GUARD_PYTHON.exists(), reason="the guard environment is not made")
def test_the_guard_environment_can_import_all_of_the_rollout():
    modules = ["policy", "evidence", "decide", "gate", "replay", "controller", "manifest", "ledger", "scrape"]
    done = subprocess.run(
        [str(GUARD_PYTHON), "-c", "; ".join(f"import hounsfield.rollout.{module}" for module in modules)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_gate_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GuardError, match=r"does not answer at http://127\.0\.0\.1:1; is it running"):
        request_verdict("http://127.0.0.1:1", "http://127.0.0.1:2", None, tmp_path, POLICY)

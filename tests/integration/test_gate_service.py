"""The gate: the replay against a small v2 server, and the real Seldon microservice around it."""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas
import pytest
import requests
from yaml import safe_load

from hounsfield.cli.main import main
from hounsfield.config import INTENDED_USE
from hounsfield.errors import DataError, GuardError, PackageError, ServingError
from hounsfield.laptop.tls import ensure_certificate
from hounsfield.package.package import describe_files
from hounsfield.package.sign import ensure_keys, sign_package
from hounsfield.rollout import manifest, seed, signed, validation_set
from hounsfield.rollout.admission import Admission
from hounsfield.rollout.candidate import read_candidate
from hounsfield.rollout.change_plan import load_change_plan
from hounsfield.rollout.gate_client import request_verdict
from hounsfield.rollout.gate_policy import GatePolicy
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.measurements import Cases, measurements
from hounsfield.rollout.policy import load_policy
from hounsfield.rollout.replay import Caller, replay

ROOT = Path(__file__).parents[2]
GUARD_PYTHON = Path(os.environ.get("HOUNSFIELD_GUARD_PYTHON", ROOT / ".venv-guard/bin/python"))
# Eight cases show nothing about a champion or calibration, and their package has no detectors.
POLICY = GatePolicy(
    min_cases=8,
    min_positives=4,
    max_auroc_decrease=1,
    max_sensitivity_decrease=1,
    max_ece=1,
    max_brier=1,
    max_log_loss=9,
    drift_when_unassessable="ignore",
)
PLAN = load_change_plan(ROOT / "manifests/base/rollout/change-plan.yaml")


class FakeModel(BaseHTTPRequestHandler):
    """A v2 server whose files say in plain text what it answers: a number, `refuse`, `break` or `nan`."""

    def do_GET(self):
        if self._is_known():
            self._answer(200 if self.path == "/v2/models/opacity/ready" else 404, {})

    def _is_known(self):
        """Whether the caller has this second's token, where one is asked for."""
        if not self.server.tokens:
            return True
        if self.headers.get("Authorization") == f"Bearer {self.server.tokens[0]}":
            return True
        self._answer(403, {"error": "RBAC: access denied"})
        return False

    def do_POST(self):
        if not self._is_known():
            return None
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.add(self.headers.get("x-hounsfield-revision"))
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
                "parameters": {"package_digest": self.server.digest},
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

    def start(version="3", shift=0.0, digest="d" * 64):
        server = ThreadingHTTPServer(("127.0.0.1", 0), FakeModel)
        server.version, server.shift, server.digest, server.asked = version, shift, digest, set()
        server.tokens = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    start.servers = servers
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def frozen(tmp_path):
    def write(answers):
        folder = tmp_path / "frozen"
        (folder / "dicom").mkdir(parents=True, exist_ok=True)
        cases, truth = ["file,patient,patient_sex"], ["file,label"]
        for number, (said, label) in enumerate(answers):
            (folder / "dicom" / f"{number}.dcm").write_text(said)
            cases.append(f"dicom/{number}.dcm,{number},{'FM'[number % 2]}")
            truth.append(f"dicom/{number}.dcm,{label}")
        (folder / "cases.csv").write_text("\n".join(cases) + "\n")
        (folder / "truth.csv").write_text("\n".join(truth) + "\n")
        return folder

    return write


GOOD = [("0.9", "positive"), ("0.8", "positive"), ("0.7", "positive"), ("0.3", "positive"),
        ("0.1", "negative"), ("0.2", "negative"), ("0.4", "negative"), ("0.6", "negative")]  # fmt: skip
"""14 of 16 pairs in order (0.3 stands below 0.4 and 0.6): AUROC 0.875, sensitivity 3/4, specificity 3/4."""


def replayed(url, folder, **named):
    """What was measured of the model at `url` on the frozen set in `folder`."""
    cases = validation_set.read(folder)
    found = replay(url, cases.files, **named)
    return measurements(Cases(cases.labels(validation_set.read_truth(folder)), cases.patient), found)


def test_a_replay_measures_what_was_answered(serve, frozen):
    found = replayed(serve(), frozen(GOOD))
    assert (found["cases"], found["scored"], found["positives"]) == (8, 8, 4)
    assert (found["auroc"], found["sensitivity"], found["specificity"]) == (0.875, 0.75, 0.75)
    assert (found["model_versions"], found["package_digests"]) == (["3"], ["d" * 64])
    assert 0 < found["latency_p95_s"] < 5


def test_a_replay_through_the_gateway_asks_for_its_revision(serve, frozen):
    url = serve()
    replayed(url, frozen(GOOD))
    replayed(url, frozen(GOOD), revision="canary")
    assert serve.servers[0].asked == {None, "canary"}


def test_a_replay_shows_a_secured_gateway_the_token_that_is_in_the_file_now(serve, frozen, tmp_path):
    """A projected token is replaced while the replay runs; the old one is refused from then on."""
    url, file = serve(), tmp_path / "token"
    server, folder = serve.servers[0], frozen(GOOD)
    server.tokens = ["first"]
    with pytest.raises(ServingError, match=r"does not let the gate ask http.* \(HTTP 403\)"):
        replayed(url, folder, revision="canary")
    file.write_text("first\n")

    def renew(done, total):
        if done == 3:
            server.tokens = ["second"]
            file.write_text("second\n")

    found = replayed(url, folder, revision="canary", caller=Caller(file), on_progress=renew)
    assert (found["scored"], found["errors"]) == (8, 0)
    file.unlink()
    with pytest.raises(ServingError, match="token cannot be read as a token for the gateway"):
        replayed(url, folder, caller=Caller(file))


def test_a_replay_trusts_the_gateway_by_the_authority_that_it_was_told(serve, frozen, tmp_path):
    certificate = ensure_certificate(tmp_path)
    url = serve()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.chain, certificate.key)
    server = serve.servers[0]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = url.replace("http:", "https:")
    assert replayed(url, frozen(GOOD), caller=Caller(ca_file=certificate.chain))["scored"] == 8
    for caller in (Caller(), Caller(ca_file=tmp_path / "none.crt")):
        with pytest.raises(ServingError, match="no model answers"):
            replayed(url, frozen(GOOD), caller=caller)


def test_refusals_errors_and_answers_without_a_number_are_counted_apart(serve, frozen):
    bad = [("refuse", "positive"), ("break", "negative"), ("nan", "positive"), ("7", "positive")]
    found = replayed(serve(), frozen(GOOD + bad))
    assert (found["cases"], found["scored"], found["refusals"], found["errors"]) == (12, 8, 1, 3)
    assert found["auroc"] == 0.875


def test_a_replay_needs_a_model_that_is_ready(serve, frozen):
    with pytest.raises(ServingError, match="not ready"):
        replayed(serve(), frozen(GOOD), model_name="other")
    with pytest.raises(ServingError, match="no model answers"):
        replayed("http://127.0.0.1:1", frozen(GOOD))


@pytest.mark.parametrize(
    ("table", "row", "sentence"),
    [
        ("truth.csv", "dicom/0.dcm,maybe", "row 2: the label is not one of negative, positive"),
        ("truth.csv", "", "has no rows"),
        ("truth.csv", "dicom/0.dcm", "row 2 has not as many values as the header"),
        ("cases.csv", "../secret.dcm,0", "row 2: the file it names is not in the validation set"),
        ("cases.csv", "dicom/none.dcm,0", "row 2: the file it names is not in the validation set"),
        ("cases.csv", "dicom/0.dcm,Jane", "row 2: the patient is no number"),
        ("cases.csv", "dicom/0.dcm,0\ndicom/0.dcm,1", "row 3: the file it names stands there twice"),
    ],
)
def test_a_wrong_table_is_refused_by_row(frozen, table, row, sentence):
    folder = frozen(GOOD)
    (folder.parent / "secret.dcm").write_text("0.5")
    columns = "file,label" if table == "truth.csv" else "file,patient"
    (folder / table).write_text(f"{columns}\n{row}\n")
    with pytest.raises(DataError, match=sentence) as caught:
        (validation_set.read_truth if table == "truth.csv" else validation_set.read)(folder)
    assert not any(said in str(caught.value) for said in ("maybe", "Jane", ".dcm"))


def test_truths_have_to_be_of_just_the_cases(frozen):
    cases = validation_set.read(frozen(GOOD))
    with pytest.raises(DataError, match="1 cases have none, 1 are of no case"):
        cases.labels({**dict.fromkeys(cases.names[1:], "positive"), "dicom/99.dcm": "positive"})
    with pytest.raises(DataError, match="the truth of case 1 is not one of"):
        cases.labels(dict.fromkeys(cases.names, "1"))


def test_freezing_takes_the_split_its_labels_and_its_groups_and_numbers_the_patients(tmp_path):
    dataset = tmp_path / "dataset"
    (dataset / "dicom").mkdir(parents=True)
    for name in "abcd":
        (dataset / "dicom" / f"{name}.dcm").write_text(name)
    index = {
        "file": [f"dicom/{name}.dcm" for name in "abcd"],
        "patient_id": ["P-77", "P-13", "P-13", "P-77"],
        "label": [1, 0, 1, 0],
        "split": ["validation", "validation", "test", "validation"],
    }
    pandas.DataFrame(index).to_parquet(dataset / "index.parquet")
    first_letter = {"groups_of": lambda header: {"letter": header["file"][6]}}
    assert validation_set.freeze(dataset, tmp_path / "frozen", **first_letter) == 3
    assert validation_set.freeze(dataset, tmp_path / "frozen", **first_letter) == 3
    cases = validation_set.read(tmp_path / "frozen")
    labels = cases.labels(validation_set.read_truth(tmp_path / "frozen"))
    assert [file.read_text() for file in cases.files] == ["a", "b", "d"]
    assert labels.tolist() == [1, 0, 0]
    assert cases.patient.tolist() == [0, 1, 0]
    assert cases.groups["letter"].tolist() == ["a", "b", "d"]
    assert "P-77" not in (tmp_path / "frozen" / "cases.csv").read_text()
    before = cases.digest(labels)
    assert before != cases.digest(1 - labels)
    cases.files[0].write_text("A")
    assert before != cases.digest(labels)
    with pytest.raises(DataError, match="no image in the split 'train'"):
        validation_set.freeze(dataset, tmp_path / "other", split="train")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "frozen"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """The folder of the pair that packages are signed with, and of the gate's own key."""
    folder = tmp_path_factory.mktemp("keys")
    ensure_keys(folder)
    signed.make_key(folder / "gate.key")
    return folder


@pytest.fixture
def package(tmp_path, keys):
    """Writes and signs a package that says `changes`, and gives its folder; it has no detectors."""

    def write(attributions=None, **changes):
        folder = tmp_path / "draft"
        folder.mkdir()
        lineage = {"intended_use": INTENDED_USE, "hyperparameters": {"epochs": 12, "seed": 7}}
        model = {"name": "opacity", "architecture": "efficientnet-b0", "lineage": lineage, **changes}
        age = {"kind": "number", "missing": 0, "min": 20, "max": 90}
        modality = {"kind": "category", "missing": 0, "counts": {"DX": 400}}
        profile = {"images": 400, "patients": 90, "fields": {"age_years": age, "modality": modality}}
        for name, content in (("model", model), ("profile", profile), ("contract", {"size_px": 96})):
            (folder / f"{name}.json").write_text(json.dumps(content))
        if attributions is not None:
            np.save(folder / "attributions.npy", np.array(attributions, dtype=np.float32))
        manifest = json.dumps({"files": describe_files(folder)}).encode()
        (folder / "manifest.json").write_bytes(manifest)
        folder = folder.rename(tmp_path / hashlib.sha256(manifest).hexdigest())
        sign_package(folder, keys / "signing.key")
        return folder

    return write


@pytest.fixture(scope="module")
def gate(tmp_path_factory, keys):
    """(gate url, metrics url) of the real Seldon microservice."""
    if not GUARD_PYTHON.exists():
        pytest.skip("the guard environment is not made")
    http_port, metrics_port = free_port(), free_port()
    log = tmp_path_factory.mktemp("gate") / "gate.log"
    named = {"VERIFY_KEY": "signing.pub", "GATE_KEY": "gate.key", "GATE_TOKEN": "gate.token"}
    (keys / "gate.token").write_text("the gate's")
    environment = {f"HOUNSFIELD_{name}_FILE": str(keys / file) for name, file in named.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(GUARD_PYTHON), "-m", "serving.gate", "--host", "127.0.0.1", "--service-type", "MODEL",
             "--http-port", str(http_port), "--metrics-port", str(metrics_port),
             "--grpc-workers", "0", "--threads", "2", "--log-level", "WARNING"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environment},
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


@pytest.fixture
def ask(gate, serve, package, frozen):
    """Has a candidate judged, the model `serve` gives unless `changes` name another."""

    def judged(answers=GOOD, champion=None, folder=None, **changes):
        folder = folder or package()
        question = {
            "candidate_url": changes.pop("candidate_url", None) or serve("4", digest=folder.name),
            "candidate_version": "4",
            "package_digest": folder.name,
            "package_dir": folder,
            "champion_url": champion,
            "validation_dir": frozen(answers),
            "policy": POLICY,
            "plan": PLAN,
        }
        return request_verdict(gate[0], **{**question, **changes})

    return judged


def test_the_gate_passes_a_good_candidate_counts_it_and_signs_what_it_judged(gate, keys, ask, serve, package):
    before, folder = counters(gate[1]), package()
    judged = ask(champion=serve("3", digest="c" * 64), folder=folder)
    assert judged.passed, judged.reasons
    assert judged.verdict["numbers"]["candidate"]["auroc"] == 0.875
    assert judged.verdict["numbers"]["champion"]["model_versions"] == ["3"]
    standings = {check["name"]: check["standing"] for check in judged.verdict["checks"]}
    assert standings.pop("drift") == "UNASSESSABLE"
    assert set(standings.values()) == {"PASS"}
    after = counters(gate[1])
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    gate_key = signed.key_name(signed.load_key(keys / "gate.key"))
    Admission(gate_key, POLICY.digest, PLAN.digest).check(judged.entry, folder.name, "c" * 64)


def test_the_gate_fails_a_bad_candidate_and_counts_that(gate, ask):
    before = counters(gate[1])
    worse = [(said, "negative" if label == "positive" else "positive") for said, label in GOOD]
    judged = ask(worse)
    assert not judged.passed
    assert "AUROC 0.125 is below the bound of 0.75" in judged.reasons
    after = counters(gate[1])
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


def test_a_model_that_does_not_answer_fails_the_gate(gate, ask, serve):
    before = counters(gate[1])
    judged = ask(candidate_url="http://127.0.0.1:1")
    assert not judged.passed
    assert "no model answers at http://127.0.0.1:1" in judged.reasons[0]
    assert judged.entry["statement"]["passed"] is False
    after = counters(gate[1])
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


def test_a_champion_that_does_not_answer_is_not_beaten(ask):
    assert "no model answers" in ask(champion="http://127.0.0.1:1").reasons[0]


def test_another_model_than_the_candidate_is_not_judged_in_its_place(ask, serve):
    judged = ask(candidate_url=serve("3", digest="e" * 64))
    assert judged.reasons[0] == "model version 4 was to be judged, but 3 answered"
    assert "but eeeeeeeeeeee answered" in judged.reasons[1]


def test_an_altered_or_unsigned_package_fails_the_gate(ask, package):
    folder = package()
    (folder / "model.sig").unlink()
    judged = ask(folder=folder)
    assert not judged.passed
    assert f"model package {folder.name[:12]} is not signed: it holds no model.sig" in judged.reasons


def test_a_candidate_outside_the_change_plan_fails_the_gate_with_the_line(ask, package):
    judged = ask(folder=package(architecture="vit"))
    assert judged.reasons == ("change-plan.yaml line 7: the architecture 'vit' is not listed",)


def test_a_package_without_detectors_holds_unless_the_policy_says_otherwise(ask):
    judged = ask(policy=dataclasses.replace(POLICY, drift_when_unassessable="hold"))
    assert not judged.passed
    assert "drift of the inputs is UNASSESSABLE" in judged.reasons[0]


def test_a_candidate_that_looks_elsewhere_than_the_champion_fails_where_the_policy_asks(ask, serve, package):
    champion = package([[[1, 2], [3, 4]]], size="of the champion")
    policy = dataclasses.replace(POLICY, min_attribution_stability=0.5)
    url = serve("3", digest=champion.name)
    # Ranks 1 2 4 3 beside 1 2 3 4: Spearman's 1 - 6 * (1 + 1) / (4 * 15) = 0.8; and turned round -1.
    near = ask(champion=url, folder=package([[[1, 2], [4, 3]]]), policy=policy)
    assert near.passed, near.reasons
    assert near.verdict["numbers"]["attribution_stability"] == pytest.approx(0.8)
    far = ask(champion=url, folder=(opposite := package([[[4, 3], [2, 1]]])), policy=policy)
    assert far.reasons == ("attribution stability -1.000 is below the bound of 0.5",)
    unasked = ask(champion=url, folder=opposite)
    assert unasked.passed
    assert unasked.verdict["numbers"]["attribution_stability"] == pytest.approx(-1)
    bare = ask(champion=url, folder=package(), policy=policy)
    assert bare.reasons == (
        "attribution stability is UNASSESSABLE: one of the two packages has no attributions.npy",
    )
    (champion / "attributions.npy").write_bytes(b"other")
    spoilt = ask(champion=url, folder=opposite, policy=policy)
    assert "UNASSESSABLE: the champion's package: model package" in spoilt.reasons[0]


def post(gate, call, body):
    return requests.post(f"{gate[0]}/api/v1.0/{call}", json=body, timeout=5)


def test_a_question_that_makes_no_sense_is_refused_with_a_sentence(gate, ask, tmp_path):
    with pytest.raises(GuardError, match=r"the validation gate refused: policy: gate: min_auroc is 7"):
        ask(policy=dataclasses.replace(POLICY, min_auroc=7))
    for body, sentence in (
        ({"jsonData": {}}, "must have the key 'replay', a mapping, or the key 'judge'"),
        ({"jsonData": {"replay": {}}}, "the question lacks the key 'candidate_url'"),
        ({"jsonData": {"judge": "gone"}}, "knows no replay of that id"),
    ):
        answer = post(gate, "predictions", body)
        assert (answer.status_code, sentence in answer.json()["status"]["info"]) == (400, True), answer.text
    no_truth = {"request": {"data": {"ndarray": ["gone"]}}, "truth": {"data": {"ndarray": ["x"]}}}
    assert "pairs of file and label" in post(gate, "feedback", no_truth).json()["status"]["info"]


def test_without_its_truths_or_twice_nothing_is_judged(gate, serve, frozen, package):
    folder = package()
    question = {
        "candidate_url": serve("4", digest=folder.name), "candidate_version": "4", "champion_url": None,
        "package_digest": folder.name, "package_dir": str(folder), "validation_dir": str(frozen(GOOD)),
        "model_name": "opacity", "policy": POLICY.as_dict(), "plan": PLAN.as_dict(),
    }  # fmt: skip
    replay_id = post(gate, "predictions", {"jsonData": {"replay": question}}).json()["jsonData"]["replay"]
    judged = post(gate, "predictions", {"jsonData": {"judge": replay_id}}).json()["jsonData"]
    assert judged["verdict"]["passed"] is False
    assert judged["verdict"]["reasons"] == ["the gate was not told the truths of the validation set"]
    assert post(gate, "predictions", {"jsonData": {"judge": replay_id}}).status_code == 400


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_gives_the_share_of_passes(gate, ask, package, tmp_path):
    target = gate[1].removeprefix("http://").removesuffix("/metrics")
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs:\n- job_name: gate\n  scrape_interval: 200ms\n"
        f"  static_configs:\n  - targets: ['{target}']\n"
    )
    port = free_port()
    process = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
        stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("wb"), start_new_session=True,
    )  # fmt: skip
    query = (
        "sum(rate(seldon_validator_passed_total[5m])) / sum(rate(seldon_validator_total[5m]))"
        " and sum(increase(seldon_validator_total[5m])) > 2.5"
    )
    bad = [("0.5", label) for _, label in GOOD]

    def share():
        url = f"http://127.0.0.1:{port}/api/v1/query"
        found = requests.get(url, params={"query": query}, timeout=5).json()["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    def seen(url):
        found = requests.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": url}, timeout=5)
        return bool(found.json()["data"]["result"])

    try:
        wait_until_ready((f"http://127.0.0.1:{port}/-/ready",), process, tmp_path / "log")
        folder = package()
        wait_for(lambda: seen("seldon_validator_total"))
        for answers in (GOOD, GOOD, bad, GOOD):
            ask(answers, folder=folder)
        # Three passes of four; Prometheus extrapolates both by the same factor, so the share is exact.
        wait_for(lambda: share() == pytest.approx(0.75))
    finally:
        process.terminate()
        process.wait(20)


def wait_for(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)


def read_by_both(folder, keys):
    """What model-signing says of a package in the main environment, and what the gate's own reading does."""
    from hounsfield.package.sign import verify_package

    digests = {name: entry["sha256"] for name, entry in describe_files(folder).items()}
    said = []
    for read in (
        lambda: verify_package(folder, digests, keys / "signing.pub"),
        lambda: read_candidate(folder, folder.name, keys / "signing.pub"),
    ):
        try:
            read()
            said.append("")
        except PackageError as error:
            said.append(str(error))
    return said


def test_the_gate_reads_a_signature_as_model_signing_does(package, keys, tmp_path):
    folder = package()
    assert read_by_both(folder, keys) == ["", ""]
    (folder / "contract.json").write_text('{"size_px": 97}')
    assert all("contract.json is not the file" in said for said in read_by_both(folder, keys))
    (folder / "contract.json").write_text('{"size_px": 96}')
    (folder / "extra").write_text("")
    assert all("extra" in said for said in read_by_both(folder, keys))
    (folder / "extra").unlink()
    bundle = json.loads((folder / "model.sig").read_text())
    other = tmp_path / "other"
    sign_package(folder, ensure_keys(other)[0])
    assert all("not made with the key" in said for said in read_by_both(folder, keys))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload + b" ").decode()
    (folder / "model.sig").write_text(json.dumps(bundle))
    assert all("not made with the key" in said for said in read_by_both(folder, keys))
    (folder / "model.sig").write_text("{}")
    assert all("is not a signature of model-signing" in said for said in read_by_both(folder, keys))
    with pytest.raises(PackageError, match="is another one"):
        read_candidate(folder, "0" * 64, keys / "signing.pub")


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
    modules = ["policy", "evidence", "decide", "gate", "replay", "controller", "manifest", "ledger", "scrape",
               "approvals", "change_plan", "candidate", "admission"]  # fmt: skip
    done = subprocess.run(
        [str(GUARD_PYTHON), "-c", "; ".join(f"import hounsfield.rollout.{module}" for module in modules)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_command_for_a_cluster_has_the_canary_of_the_tree_judged_by_a_gateway_that_asks_who_calls(
    gate, keys, serve, package, frozen, tmp_path, capsys
):
    folder, url, tree = package(), serve("4"), tmp_path / "gitops"
    serve.servers[0].tokens, serve.servers[0].digest = ["the gate's"], folder.name
    seed.seed_tree(ROOT / "manifests", tree)
    overlay = tree / "overlays" / "laptop"
    rules = {key: value for key, value in POLICY.as_dict().items() if value is not None}
    (overlay / "policy.yaml").write_text(
        json.dumps({**safe_load((tree / "base/rollout/policy.yaml").read_text()), "gate": rules})
    )
    ledger, judged = tmp_path / "ledger.jsonl", tmp_path / "judged"
    key = signed.key_name(signed.load_key(keys / "gate.key"))
    command = [
        "rollout", "gate", "--tree", str(tree), "--overlay", "laptop", "--gate", gate[0], "--gateway", url,
        "--validation", frozen(GOOD).as_uri(), "--judged", str(judged), "--ledger", str(ledger),
    ]  # fmt: skip
    assert main([*command, "--gate-key", key]) == 2
    assert (
        "rollout.yaml names no canary: commit the candidate's package there first" in capsys.readouterr().err
    )
    place = {"storage_uri": folder.as_uri(), "model_version": "4", "package_digest": folder.name}
    manifest.set_revision(tree, "canary", **place)

    assert main([*command, "--gate-key", "another"]) == 2
    assert "which is not the gate's" in capsys.readouterr().err
    assert not ledger.exists()
    assert main([*command, "--gate-key", key]) == 0
    assert capsys.readouterr().out == "the gate passes version 4\n"
    assert (judged / "packages" / folder.name / "manifest.json").is_file()
    assert len(list((judged / "validation").iterdir())) == 1
    Admission(key, load_policy(overlay / "policy.yaml").gate.digest, PLAN.digest).require(
        Ledger(ledger), folder.name, None
    )
    assert main([*command, "--gate-key", key]) == 0
    assert capsys.readouterr().out == "the gate has passed version 4 before\n"

    serve.servers[0].shift = -0.5  # a model that calls nobody positive
    manifest.set_revision(tree, "canary", **{**place, "model_version": "5"})
    ledger.unlink()
    assert main([*command, "--gate-key", key]) == 3
    assert "the gate refuses version 5: " in capsys.readouterr().out


def test_a_gate_that_is_not_there_is_named(frozen, tmp_path):
    question = {"candidate_version": "4", "package_digest": "d" * 64, "package_dir": tmp_path}
    with pytest.raises(GuardError, match=r"does not answer at http://127\.0\.0\.1:1; is it running"):
        request_verdict(
            "http://127.0.0.1:1", candidate_url="http://127.0.0.1:2", champion_url=None,
            validation_dir=frozen(GOOD), policy=POLICY, plan=PLAN, **question,
        )  # fmt: skip

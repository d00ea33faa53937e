"""What the client sends, and the sentences that it makes of what comes back."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from hounsfield.cli.main import main
from hounsfield.errors import ConfigError, ServingError
from hounsfield.serving.client import AnsweredError, Client, read_credential, study_token
from hounsfield.serving.stream import replay

STUDY = "1.2.826.0.1.3680043.8.498.1"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm5hIn0.c2ln"


def scan(folder, study=STUDY, name="scan.dcm"):
    """A DICOM file whose pixels are missing: the study is read without them."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    if study:
        dataset.StudyInstanceUID = study
    dataset.save_as(folder / name, enforce_file_format=True)
    return folder / name


def prediction(version="3"):
    columns = {"probability": 0.25, "label": "negative", "review_required": False, "refusal": ""}
    outputs = [{"name": name, "data": [value]} for name, value in columns.items()]
    return {"model_name": "opacity", "model_version": version, "outputs": outputs}


class Server(ThreadingHTTPServer):
    """Answers what the test puts into `answers` (status, headers, body), the last one from then on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.connections = [(200, {}, prediction())], [], set()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), body, time.monotonic()))
        self.server.connections.add(self.client_address)
        answers = self.server.answers
        status, headers, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(sent))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_study_is_sent_as_a_token_and_never_as_its_uid(server, tmp_path):
    source = scan(tmp_path).read_bytes()
    with Client(server.url) as client:
        client.predict(source)
    _, headers, _, _ = server.asked[0]
    assert headers["x-hounsfield-study"] == hashlib.sha256(STUDY.encode()).hexdigest()[:16]
    assert STUDY not in str(headers)


def test_images_of_one_study_have_one_token_and_another_study_another(tmp_path):
    first, second = scan(tmp_path, name="a.dcm").read_bytes(), scan(tmp_path, name="b.dcm").read_bytes()
    other = scan(tmp_path, study="1.2.3").read_bytes()
    assert first != second
    assert study_token(first) == study_token(second) != study_token(other)


@pytest.mark.parametrize("source", [b"", b"not DICOM" * 50, b"\0" * 128 + b"DICM" + b"\xff" * 40])
def test_what_has_no_study_is_sent_without_the_header(server, source):
    with Client(server.url) as client:
        client.predict(source)
    assert "x-hounsfield-study" not in server.asked[0][1]


def test_a_file_without_a_study_has_no_token(tmp_path):
    assert study_token(scan(tmp_path, study="").read_bytes()) == ""


def test_many_questions_go_over_one_connection(server):
    with Client(server.url) as client:
        for _ in range(20):
            client.predict(b"x", study="")
    assert (len(server.asked), len(server.connections)) == (20, 1)


@pytest.mark.parametrize(
    ("credential", "header", "value"),
    [(JWT, "Authorization", f"Bearer {JWT}"), ("hfk_abc", "x-api-key", "hfk_abc")],
)
def test_a_token_and_an_api_key_go_into_their_headers(server, credential, header, value):
    with Client(server.url, credential=credential) as client:
        client.predict(b"x")
    headers = server.asked[0][1]
    assert headers[header] == value
    assert len({"Authorization", "x-api-key"} & set(headers)) == 1


@pytest.mark.parametrize(
    ("status", "headers", "said", "retry_after_s"),
    [
        (401, {}, "the gateway does not know you: name a file with a token or an API key", None),
        (403, {}, "you may not do that", None),
        (429, {"Retry-After": "7"}, "come back in 7 s", 7.0),
        (503, {"Retry-After": "2"}, "come back in 2 s", 2.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "answered 503: why", None),
    ],
)
def test_an_error_says_what_to_do(server, status, headers, said, retry_after_s):
    server.answers = [(status, headers, {"error": "why"})]
    with Client(server.url) as client, pytest.raises(AnsweredError) as raised:
        client.predict(b"x")
    assert (raised.value.status, raised.value.retry_after_s) == (status, retry_after_s)
    assert f"answered {status}: why" in str(raised.value)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "answer", [b"<html>", {}, [], {"outputs": []}, {"outputs": [{"name": "probability"}]}]
)
def test_an_answer_of_another_form_is_one_sentence(server, answer):
    server.answers = [(200, {}, answer)]
    with Client(server.url) as client, pytest.raises(ServingError, match="in a form that is not ours"):
        client.predict(b"x")


def test_the_stream_waits_as_long_as_it_is_told_and_then_comes_back(server, tmp_path):
    scan(tmp_path)
    server.answers = [(429, {"Retry-After": "1"}, {"error": "slow down"}), (200, {}, prediction("4"))]
    stop = threading.Event()
    timer = threading.Timer(1.5, stop.set)
    timer.start()
    answered = replay(lambda: Client(server.url), tmp_path, 1, stop)
    timer.join()
    assert answered["turned away"] == 1
    assert answered["4"] == len(server.asked) - 1 >= 1
    assert server.asked[1][3] - server.asked[0][3] >= 1.0


def test_each_time_round_the_files_of_a_study_are_another_study(server, tmp_path):
    for name, study in (("a.dcm", STUDY), ("b.dcm", STUDY), ("c.dcm", f"{STUDY}.2"), ("d.dcm", "")):
        scan(tmp_path, study, name)
    stop = threading.Event()
    replaying = threading.Thread(target=replay, args=(lambda: Client(server.url), tmp_path, 1, stop))
    replaying.start()
    while len(server.asked) < 12:
        assert replaying.is_alive()
        time.sleep(0.01)
    stop.set()
    replaying.join()
    first, other = (hashlib.sha256(each.encode()).hexdigest()[:16] for each in (STUDY, f"{STUDY}.2"))
    sent = [headers.get("x-hounsfield-study") for _, headers, _, _ in server.asked[:12]]
    assert sent == [
        said for day in range(3) for said in (f"{first}-{day}", f"{first}-{day}", f"{other}-{day}", None)
    ]


def test_a_credential_is_read_from_a_file_and_must_be_alone_in_it(tmp_path):
    file = tmp_path / "token"
    file.write_text("hfk_abc\n")
    assert read_credential(file) == "hfk_abc"
    for wrong in ("", "  \n", "two words"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="must hold one token"):
            read_credential(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_credential(tmp_path / "missing")


def test_predict_with_explain_writes_the_picture(server, tmp_path, capsys):
    explanation = {"overlay_png": {"b64": base64.b64encode(b"a picture").decode()}, "probability": 0.25}
    server.answers = [(200, {}, prediction()), (200, {}, {"explanations": [explanation]})]
    out, token = tmp_path / "why.png", tmp_path / "token"
    token.write_text("hfk_abc")
    options = ["--url", server.url, "--token-file", str(token), "--explain", str(out)]
    assert main(["predict", str(scan(tmp_path)), *options]) == 0
    assert out.read_bytes() == b"a picture"
    assert [path for path, *_ in server.asked] == ["/v2/models/opacity/infer", "/v1/models/opacity:explain"]
    assert {headers["x-api-key"] for _, headers, *_ in server.asked} == {"hfk_abc"}
    assert server.asked[0][1]["x-hounsfield-study"] == server.asked[1][1]["x-hounsfield-study"]
    assert "negative, probability 0.250" in capsys.readouterr().out


def test_explain_takes_one_file(tmp_path, capsys):
    files = [str(scan(tmp_path, name=name)) for name in ("a.dcm", "b.dcm")]
    assert main(["predict", *files, "--explain", str(tmp_path / "out.png")]) == 2
    assert "there are 2 files: name one" in capsys.readouterr().err

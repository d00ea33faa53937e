"""What the retraining pipeline asks Prometheus, against a server that speaks its HTTP API."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest

from hounsfield.drift.ask import Drift, ask_drift
from hounsfield.errors import ConfigError, PlatformError

WINDOWS = 'hounsfield_drift_windows_total{model_name="opacity"}'
DETECTED = 'hounsfield_drift_detected{model_name="opacity"} == 1'


@pytest.fixture
def prometheus():
    """(address, what it answers: query -> [(labels, value)])."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            (query,) = parse_qs(urlparse(self.path).query)["query"]
            rows = [{"metric": labels, "value": [0, str(value)]} for labels, value in answers.get(query, [])]
            data = json.dumps(
                {"status": "success", "data": {"resultType": "vector", "result": rows}}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", answers
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_detectors_that_found_drift_are_named_once(prometheus):
    url, answers = prometheus
    answers[WINDOWS] = [({"model_version": "3"}, 4), ({"model_version": "4"}, 2)]
    answers[DETECTED] = [({"detector": "embeddings"}, 1), ({"detector": "age"}, 1), ({"detector": "age"}, 1)]
    assert ask_drift(url, "opacity") == Drift(6, ("age", "embeddings"))
    answers[DETECTED] = []
    assert ask_drift(url, "opacity") == Drift(6, ())


def test_no_news_are_not_good_news(prometheus):
    with pytest.raises(PlatformError, match="knows of no window of model 'opacity' that was tested"):
        ask_drift(prometheus[0], "opacity")


def test_silence_and_wrong_names_are_one_sentence(prometheus):
    with pytest.raises(PlatformError, match="does not answer a query"):
        ask_drift("http://127.0.0.1:9", "opacity", timeout_s=1)
    with pytest.raises(ConfigError, match="is not a name"):
        ask_drift(prometheus[0], 'x"} or vector(1) #')

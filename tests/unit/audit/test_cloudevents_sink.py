"""The CloudEvents sink against a real HTTP server that is well, slow, broken, hanging or not there."""

import contextlib
import http.server
import json
import threading
import time

import pytest
from cloudevents.http import from_dict

from hounsfield.audit.reader import read
from hounsfield.audit.retention import purge
from hounsfield.audit.segments import segment_paths
from hounsfield.audit.sink import CURSOR_FILE, Sink
from hounsfield.errors import AuditError, ConfigError
from hounsfield.serving.inference_log import InferenceLog
from tests.unit.audit.small_logs import record, write

WAIT_S = 20
FAST = {"wait_s": 0.01, "longest_wait_s": 0.05, "poll_s": 0.01, "timeout_s": 10.0}


class Receiver(http.server.ThreadingHTTPServer):
    """Takes batches of events. `behaviour` says how; a hanging request waits until the server is closed."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server_bind()  # a bound socket that does not listen refuses connections, and keeps its port
        self.batches, self.types, self.connections = [], set(), set()
        self.behaviour = "well"
        self.closed = threading.Event()
        self.asked = threading.Event()
        self.thread = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/events"

    def listen(self):
        self.server_activate()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self):
        self.closed.set()
        if self.thread is not None:
            self.shutdown()
            self.thread.join()
        self.server_close()

    @property
    def ids(self):
        """The events' ids in the order of their first arrival."""
        return list(dict.fromkeys(event["id"] for batch in list(self.batches) for event in batch))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server, behaviour = self.server, self.server.behaviour
        server.connections.add(self.client_address)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.asked.set()
        if behaviour == "hanging":
            server.closed.wait(WAIT_S)
            self.close_connection = True
            return
        if behaviour == "slow":
            time.sleep(0.05)
        status = behaviour if isinstance(behaviour, int) else 200
        if behaviour == "small" and len(body) > 3000:
            status = 413
        if status == 200 or behaviour == "deaf":
            server.types.add(self.headers["Content-Type"])
            server.batches.append(json.loads(body))
        if behaviour == "deaf":  # takes the batch, and the answer is lost
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.stop()


@pytest.fixture
def start():
    """Starts sinks, and stops those that a test leaves."""
    with contextlib.ExitStack() as stack:

        def started(folder, url, **options):
            sink = Sink(folder, url, **{**FAST, **options})
            stack.callback(sink.close, 0)
            return sink

        yield started


def until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def hashes(folder):
    return [cursor.hash for _, cursor in read(folder)]


def test_each_record_is_a_cloudevent_with_the_chains_hash_as_its_id(folder, receiver, start):
    receiver.listen()
    sink = start(folder, receiver.url, source="/models/opacity/versions/3", batch_records=20)
    until(lambda: sink.backlog() == 0)
    assert [len(batch) for batch in receiver.batches] == [20, 20, 8]
    assert receiver.types == {"application/cloudevents-batch+json; charset=utf-8"}
    for number, (sent, (item, cursor)) in enumerate(
        zip([event for batch in receiver.batches for event in batch], read(folder), strict=True)
    ):
        event = from_dict(sent)  # the cloudevents package raises where a required attribute is missing
        assert event["specversion"] == "1.0"
        assert event["id"] == cursor.hash
        assert event["source"] == "/models/opacity/versions/3"
        assert event["type"] == "dev.hounsfield.prediction.v1"
        assert event["time"] == item["time"]
        assert event["sequence"] == f"{number:020d}"
        assert event["datacontenttype"] == "application/json"
        assert event.data == item
    assert (sink.errors, sink.missed) == (0, 0)
    assert len(receiver.connections) == 1  # one connection for all batches


def test_what_is_written_later_is_sent_soon(folder, receiver, start):
    receiver.listen()
    sink = start(folder, receiver.url)
    until(lambda: sink.backlog() == 0)
    write(folder, range(48, 50))
    until(lambda: len(receiver.ids) == 50)
    assert receiver.ids == hashes(folder)


@pytest.mark.parametrize("behaviour", [500, 503, 400, 302, "deaf"])
def test_a_sink_that_fails_gets_everything_once_it_is_well(folder, receiver, start, behaviour):
    receiver.behaviour = behaviour
    receiver.listen()
    sink = start(folder, receiver.url, batch_records=10)
    until(lambda: sink.errors >= 3)
    assert sink.backlog() == 48
    assert sink.last_error
    receiver.behaviour = "well"
    until(lambda: sink.backlog() == 0)
    assert receiver.ids == hashes(folder)


def test_a_sink_that_is_not_there_gets_everything_once_it_is(folder, receiver, start):
    sink = start(folder, receiver.url)
    until(lambda: sink.errors >= 3)
    assert "the sink does not answer: ConnectionError" in sink.last_error
    receiver.listen()
    until(lambda: sink.backlog() == 0)
    assert receiver.ids == hashes(folder)


def test_a_batch_too_large_for_the_sink_is_halved(folder, receiver, start):
    receiver.behaviour = "small"
    receiver.listen()
    sink = start(folder, receiver.url, batch_records=40)
    until(lambda: sink.backlog() == 0)
    assert receiver.ids == hashes(folder)
    assert max(len(batch) for batch in receiver.batches) == 5


@pytest.mark.parametrize("behaviour", ["slow", 500, "hanging", "refusing"])
def test_no_prediction_waits_for_the_sink(tmp_path, receiver, start, behaviour):
    if behaviour != "refusing":
        receiver.behaviour = behaviour
        receiver.listen()
    with InferenceLog(tmp_path) as log:
        sink = start(tmp_path, receiver.url, batch_records=1)
        if behaviour != "refusing":
            assert receiver.asked.wait(WAIT_S)
        started = time.monotonic()
        for number in range(200):
            log.append([{"kind": "prediction", "time": "2026-11-21T00:00:00Z", "n": number}]).result(WAIT_S)
        took_s = time.monotonic() - started
        # 200 batches at the slow sink's 50 ms would take 10 s; 200 commits take 0.1 s on a quiet machine.
        assert took_s < 8
        assert sink.backlog() > 20
        assert log.depth() == 0


def test_closing_a_sink_that_hangs_does_not(folder, receiver, start):
    receiver.behaviour = "hanging"
    receiver.listen()
    sink = start(folder, receiver.url)
    assert receiver.asked.wait(WAIT_S)
    started = time.monotonic()
    assert sink.close(0.1) is False
    assert time.monotonic() - started < 5


def test_closing_sends_what_waits_and_says_so(folder, receiver, start):
    receiver.behaviour = "slow"
    receiver.listen()
    sink = start(folder, receiver.url, batch_records=5)
    assert sink.close(WAIT_S) is True
    assert receiver.ids == hashes(folder)


def test_a_restart_goes_on_from_the_cursor(folder, receiver, start):
    receiver.listen()
    assert start(folder, receiver.url).close(WAIT_S)
    write(folder, range(48, 52))
    receiver.batches.clear()
    assert start(folder, receiver.url).close(WAIT_S)
    assert receiver.ids == hashes(folder)[48:]


def test_a_batch_whose_answer_was_lost_comes_again_after_a_restart(folder, receiver, start):
    receiver.behaviour = "deaf"
    receiver.listen()
    sink = start(folder, receiver.url, batch_records=10)
    until(lambda: receiver.batches)
    sink.close(WAIT_S)
    receiver.behaviour = "well"
    assert start(folder, receiver.url, batch_records=10).close(WAIT_S)
    arrived = [event["id"] for batch in receiver.batches for event in batch]
    assert len(arrived) > 48
    assert receiver.ids == hashes(folder)  # at least once, in the chain's order


def test_records_purged_before_the_sink_had_them_are_counted(folder, receiver, start, clock):
    sink = start(folder, receiver.url)  # refused
    until(lambda: sink.errors)
    clock.now_s += 1e6
    purge(folder, 0, through=segment_paths(folder)[1].name, clock=clock)
    failed = sink.errors
    until(lambda: sink.errors >= failed + 2)  # the first may have read its batch before the purge
    receiver.listen()
    until(lambda: sink.backlog() == 0)
    assert sink.missed == 16
    assert receiver.ids == hashes(folder)


def test_an_edited_log_is_not_sent_on(folder, receiver, start):
    receiver.listen()
    path = segment_paths(folder)[0]
    path.write_bytes(path.read_bytes().replace(b"r-5", b"r-6"))
    sink = start(folder, receiver.url)
    until(lambda: sink.errors)
    assert "record 5: the record was edited" in sink.last_error
    assert receiver.ids == []


def test_a_wrong_address_and_a_damaged_cursor_are_refused_at_the_start(folder):
    for url in ("sink:8080", "ftp://sink/", "http://", ""):
        with pytest.raises(ConfigError, match="is not an http or https address"):
            Sink(folder, url)
    (folder / CURSOR_FILE).write_text("hello")
    with pytest.raises(AuditError, match=r"sink\.cursor: this is not a reader's cursor"):
        Sink(folder, "http://127.0.0.1:9/")


def test_a_sink_may_start_before_the_log_has_a_folder(tmp_path, receiver, start):
    receiver.listen()
    sink = start(tmp_path / "log", receiver.url)
    assert sink.backlog() == 0
    write(tmp_path / "log", range(3))
    until(lambda: len(receiver.ids) == 3)
    assert json.loads(record(2))["request_id"] == receiver.batches[-1][-1]["data"]["request_id"]

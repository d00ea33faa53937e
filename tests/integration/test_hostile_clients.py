"""Clients that are slow, greedy, rude or gone, against the real predictor: bounded, answered, survived."""

import contextlib
import json
import resource
import selectors
import signal
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

import grpc
import pytest
import requests

from tests.integration.predictor_process import json_request, start, stop

HEAD_TIMEOUT_S, READ_TIMEOUT_S = 1.0, 2.5
MIB = 2**20
INFLIGHT_BYTES = 8 * MIB


@pytest.fixture(scope="module")
def server(package, tmp_path_factory):
    running = start(
        package,
        tmp_path_factory.mktemp("server") / "log.txt",
        f"--head_timeout_s={HEAD_TIMEOUT_S}",
        f"--read_timeout_s={READ_TIMEOUT_S}",
        f"--max_inflight_bytes={INFLIGHT_BYTES}",
    )
    yield running
    stop(running)


@pytest.fixture(autouse=True)
def _the_next_request_succeeds(server, scan):
    yield
    assert server.process.poll() is None
    assert requests.post(server.infer, json=json_request(scan), timeout=5).status_code == 200
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def connect(server):
    """A function that opens a connection, closed when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda address=server.http: stack.enter_context(
            socket.create_connection((address.split(":")[0], int(address.split(":")[1])), timeout=10)
        )


def head(length=None, *more):
    """The head of an infer request, with `length` for its Content-Length, or chunked."""
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"\r\n".join((b"POST /v2/models/opacity/infer HTTP/1.1", b"Host: x", framing, *more, b"", b""))


def read_all(connection):
    """What comes until the other side closes or resets."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def status(answer):
    return int(answer.split(b" ", 2)[1])


def error(answer):
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]


def trickle(connection, content, every_s=0.2, limit_s=10.0):
    """Send a byte at a time until the server has had enough; return its answer and how long that took."""
    began_s = time.monotonic()
    for byte in content:
        readable = selectors.DefaultSelector()
        readable.register(connection, selectors.EVENT_READ)
        if readable.select(every_s):
            break
        with contextlib.suppress(OSError):
            connection.sendall(bytes([byte]))
        assert time.monotonic() < began_s + limit_s
    return read_all(connection), time.monotonic() - began_s


def test_headers_that_trickle_are_given_up(connect):
    answer, took_s = trickle(connect(), head(10) * 99)
    assert status(answer) == 408
    assert "headers did not end" in error(answer)
    assert HEAD_TIMEOUT_S - 0.2 < took_s < HEAD_TIMEOUT_S + 2


def test_a_body_that_trickles_is_given_up(connect):
    connection = connect()
    connection.sendall(head(10_000))
    answer, took_s = trickle(connection, b" " * 9_000)
    assert status(answer) == 408
    assert "body did not end" in error(answer)
    assert READ_TIMEOUT_S - 0.2 < took_s < READ_TIMEOUT_S + 2


def test_a_connection_on_which_nothing_comes_is_closed(connect):
    assert read_all(connect()) == b""


def test_a_second_request_whose_headers_trickle_is_given_up_too(connect):
    connection = connect()
    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    first = b""
    while not first.endswith(b'{"live":true}'):  # head and body may come apart
        first += connection.recv(65536)
    answer, _ = trickle(connection, head(10) * 99)
    assert status(answer) == 408


def test_a_body_that_never_ends_is_cut_at_the_bound(server, connect):
    before = memory_bytes(server)
    connection, chunk = connect(), b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"
    connection.sendall(head())
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 200 * MIB:
            connection.sendall(chunk)
            sent += MIB
    # Its own bound is 64 MiB; this server takes 8 MiB of all bodies together, and says so first.
    answer = read_all(connection)
    assert answer == b"" or status(answer) in (413, 429)
    assert memory_bytes(server) - before < 64 * MIB


@pytest.mark.parametrize(
    "endless", [b"X-A: ", b"GET /", b"1;ext="], ids=["header", "path", "chunk extension"]
)
def test_a_line_that_never_ends_is_cut(server, connect, endless):
    connection = connect()
    connection.sendall({b"GET /": b"", b"X-A: ": head(10)[:-2]}.get(endless, head()) + endless)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 64 * MIB:
            connection.sendall(b"a" * 65536)
            sent += 65536
    assert sent < 16 * MIB
    answer = read_all(connection)
    assert answer == b"" or status(answer) in (400, 431)


def test_bodies_in_flight_are_bounded_together_before_they_are_read(server, connect):
    before = requests.get(f"{server.url}/metrics", timeout=5).text
    holder = connect()
    holder.sendall(head(6 * MIB) + bytes(5 * MIB))
    # Not one byte of the second body is ever sent.
    wait_until(lambda: ask(connect(), head(4 * MIB), wait_s=0.1).startswith(b"HTTP/1.1 429"))
    answer = ask(connect(), head(4 * MIB))
    assert status(answer) == 429
    assert b"\r\nretry-after: 1\r\n" in answer
    holder.sendall(bytes(MIB))
    assert status(holder.recv(65536)) == 400  # zeros are not JSON; but they were read
    whole = connect()
    whole.sendall(head(4 * MIB) + bytes(4 * MIB))
    assert status(whole.recv(65536)) == 400
    counted = next(
        line
        for line in requests.get(f"{server.url}/metrics", timeout=5).text.splitlines()
        if line.startswith("hounsfield_shed_total") and 'why="bytes"' in line
    )
    assert counted not in before


def test_bodies_of_clients_that_went_away_are_given_back(connect):
    for _ in range(50):  # 50 x 4 MiB would fill the 8 MiB many times
        connection = connect()
        connection.sendall(head(5 * MIB) + bytes(4 * MIB))
        # RST: no goodbye
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    wait_until(lambda: status(ask(connect(), head(7 * MIB) + bytes(7 * MIB))) == 400)


def test_pipelined_requests_are_answered_in_turn(connect, scan):
    body = json.dumps(json_request(scan)).encode()
    connection = connect()
    connection.sendall(
        (head(len(body)) + body) * 3 + b"GET /v2/health/live HTTP/1.0\r\nConnection: close\r\n\r\n"
    )
    answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 4
    assert answers.count(b'"probability"') == 3
    assert answers.endswith(b'{"live":true}')


def test_garbage_behind_a_good_request_ends_the_connection(connect, scan):
    body = json.dumps(json_request(scan)).encode()
    connection = connect()
    connection.sendall(head(len(body)) + body + b"\x00\xff garbage \r\n\r\n" * 99)
    read_all(connection)


def test_thousands_of_pipelined_requests_end_the_connection(connect):
    connection = connect()
    with contextlib.suppress(OSError):
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
    read_all(connection)


def test_answers_that_nobody_reads_do_not_pile_up(server, connect):
    before = memory_bytes(server)
    connections = [connect() for _ in range(50)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 15)
    assert requests.get(f"{server.url}/v2/health/ready", timeout=5).status_code == 200
    assert memory_bytes(server) - before < 64 * MIB


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_tls_on_a_plain_port_is_refused(server, connect, door):
    connection = connect(getattr(server, door))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")


def test_http_on_the_grpc_port_is_refused(server, connect):
    connection = connect(server.grpc)
    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" not in read_all(connection)


def test_a_grpc_call_whose_message_never_comes_is_given_up(server):
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        never = threading.Event()
        began_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as given_up:
            call(iter(never.wait, None), timeout=10)
        never.set()
    assert given_up.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not end within 2.5 s" in given_up.value.details()
    assert time.monotonic() - began_s < READ_TIMEOUT_S + 2


def test_a_client_that_closes_its_half_after_the_request_gets_its_answer(connect, scan):
    body = json.dumps(json_request(scan)).encode()
    connection = connect()
    connection.sendall(head(len(body)) + body)
    connection.shutdown(socket.SHUT_WR)
    assert status(read_all(connection)) == 200


def test_a_client_that_closes_its_half_within_the_body_is_let_go(connect):
    connection = connect()
    connection.sendall(head(1000) + b"{")
    connection.shutdown(socket.SHUT_WR)
    began_s = time.monotonic()
    read_all(connection)
    assert time.monotonic() - began_s < READ_TIMEOUT_S


def test_a_client_that_waits_for_100_continue_is_told_before_it_sends_too_much(connect):
    connection = connect()
    connection.sendall(head(2**40, b"Expect: 100-continue"))
    answer = connection.recv(65536)
    assert status(answer) == 413
    assert b"100 Continue" not in answer


def test_ten_thousand_open_connections_keep_nobody_out(server, scan):
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 600:
        pytest.skip(f"this machine allows {hard} open files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    host, port = server.http.split(":")
    before = memory_bytes(server)
    with contextlib.ExitStack() as stack:
        began_s = time.monotonic()
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            connection.sendall(b"GET /v2/")  # never ends, so that each holds a parser too
        asked_s = time.monotonic()
        assert requests.post(server.infer, json=json_request(scan), timeout=10).status_code == 200
        assert time.monotonic() - asked_s < 3
        assert memory_bytes(server) - before < 400 * MIB
        assert asked_s - began_s < 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_past_the_limit_of_open_files_are_told_so(package, scan, tmp_path):
    few = start(package, tmp_path / "log.txt", file_limit=600)
    host, port = few.http.split(":")
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(200):  # 600 files, less those kept for the log, the workers and gRPC
                last = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            refused = read_all(last)
        assert status(refused) == 503
        assert "too many connections" in error(refused)
        wait_until(lambda: requests.get(f"{few.url}/v2/health/ready", timeout=5).status_code == 200)
        assert requests.post(few.infer, json=json_request(scan), timeout=10).status_code == 200
    finally:
        stop(few)


def test_sigterm_waits_for_its_grace_only(package, tmp_path):
    server = start(package, tmp_path / "log.txt", "--shutdown_grace_s=1")
    try:
        host, port = server.http.split(":")
        with contextlib.ExitStack() as stack:
            waiting = [
                stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
                for _ in range(20)
            ]
            waiting[0].sendall(head(100) + b"{")
            assert requests.get(f"{server.url}/v2/health/live", timeout=5).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            answer = read_all(waiting[0])
            assert server.process.wait(15) == 0
        assert answer == b"" or status(answer) == 503
        assert "Traceback" not in server.log.read_text()
    finally:
        server.process.kill()
        server.process.wait()


def ask(connection, content, wait_s=10.0):
    """The first answer to `content`, b"" when none came in time; the connection is then closed."""
    with connection, contextlib.suppress(TimeoutError):
        connection.sendall(content)
        connection.settimeout(wait_s)
        return connection.recv(65536)
    return b""


def wait_until(condition, limit_s=15.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def memory_bytes(server):
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError

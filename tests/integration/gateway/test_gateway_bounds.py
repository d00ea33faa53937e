"""What a client may take of the gateway is bounded; what the gateway itself answers is said and counted."""

import contextlib
import copy
import json
import re
import resource
import socket
import time

import grpc
import pytest
import requests

from hounsfield.laptop import envoy

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def edge(objects) -> dict:
    """The connection manager's settings in the EnvoyFilter hounsfield-edge."""
    (item,) = [o for o in objects if o["metadata"]["name"] == "hounsfield-edge"]
    (patch,) = [p for p in item["spec"]["configPatches"] if p["applyTo"] == "NETWORK_FILTER"]
    return patch["patch"]["value"]["typed_config"]


@pytest.fixture(scope="module")
def hasty(new_gateway, upstreams, ports):
    """The gateway with its seconds shortened, so that the tests need not wait for the real ones."""
    gateway = new_gateway(ports)
    settings = edge(gateway.objects)
    assert settings["request_headers_timeout"] == "10s"
    assert settings["request_timeout"] == "60s"
    settings["request_headers_timeout"], settings["request_timeout"] = "1s", "2s"
    with gateway.run():
        yield gateway


@pytest.fixture
def raw(hasty):
    """Open a connection to the gateway."""
    with contextlib.ExitStack() as stack:

        def open_socket() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", hasty.ports.gateway), timeout=10)
            return stack.enter_context(contextlib.closing(connection))

        yield open_socket


def answer_of(connection: socket.socket) -> tuple[int, dict]:
    """Status and JSON of the answer, once the gateway has closed the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def is_answered(url: str) -> bool:
    return requests.get(f"{url}/v2/models/opacity", timeout=5).status_code == 200


def test_headers_that_do_not_come_are_waited_for_a_bounded_time(hasty, raw):
    slow = [raw() for _ in range(50)]
    began_s = time.monotonic()
    for connection in slow:
        connection.sendall(b"GET /v2/models/opacity HTTP/1.1\r\nHost: a\r\n")
    assert is_answered(hasty.url)
    for connection in slow:
        status, body = answer_of(connection)
        assert (status, body) == (408, {"error": "the request did not arrive in time"})
    assert 0.9 <= time.monotonic() - began_s <= 5


@pytest.mark.parametrize("length", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_a_body_that_drips_forever_is_ended(hasty, raw, length):
    connection = raw()
    connection.sendall(f"POST /v2/models/opacity/infer HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n".encode())
    began_s = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for _ in range(40):  # 4 seconds
            connection.sendall(b"1\r\nx\r\n")
            time.sleep(0.1)
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                assert connection.recv(1, socket.MSG_PEEK)
                break
            connection.settimeout(10)
    connection.settimeout(10)
    assert answer_of(connection) == (408, {"error": "the request did not arrive in time"})
    assert time.monotonic() - began_s <= 4
    assert is_answered(hasty.url)


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        ("GET /v2%2Fmodels/opacity HTTP/1.1", "a: b", 400),
        ("GET /v2/models/%5C..%5Cmetrics HTTP/1.1", "a: b", 400),
        ("GET /v2/models/opacity HTTP/1.1", "x_hounsfield_caller: admin", 400),
        ("GET /v2/models/opacity HTTP/1.1", f"a: {'b' * 33 * 1024}", 431),
        ("GET /metrics HTTP/1.1", "a: b", 404),
    ],
)
def test_what_the_gateway_refuses_itself_has_the_protocols_error_field(
    hasty, raw, request_line, header, status
):
    connection = raw()
    connection.sendall(f"{request_line}\r\nHost: a\r\nConnection: close\r\n{header}\r\n\r\n".encode())
    answered, body = answer_of(connection)
    assert answered == status
    assert list(body) == ["error"]
    assert len(body["error"]) > 20


def test_the_callers_own_request_id_is_kept_and_one_is_made_where_there_is_none(hasty):
    url = f"{hasty.url}/v2/models/opacity"
    given = requests.get(url, headers={"x-request-id": "case-17"}, timeout=5)
    assert given.headers["x-seen-request-id"] == "case-17"
    made = requests.get(url, timeout=5).headers["x-seen-request-id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", made)


def test_the_caller_header_is_stripped_where_nobody_is_asked(hasty):
    answer = requests.get(f"{hasty.url}/v2/models/opacity", headers={"x-hounsfield-caller": "eve"}, timeout=5)
    assert (answer.status_code, answer.headers["x-seen-caller"]) == (200, "")


def connections_to_hold() -> int:
    """10,000, or what this machine's limit of open files leaves to this process and to Envoy alike."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(10_000, allowed - 1000)


def test_10000_idle_connections_are_held_while_a_request_is_answered(hasty):
    number = connections_to_hold()
    assert number >= 100, "the limit of open files is too low to show anything: see `ulimit -n`"
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", hasty.ports.gateway), timeout=10))
            for _ in range(number)
        ]
        began_s = time.monotonic()
        assert is_answered(hasty.url)
        assert time.monotonic() - began_s <= 2
        # They are open on the gateway's side too: the last one can still ask.
        idle[-1].sendall(b"GET /v2/models/opacity HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle[-1].recv(12) == b"HTTP/1.1 200"
        assert stat(hasty, "http.gateway.downstream_cx_active") >= number
    assert is_answered(hasty.url)


def stat(gateway, name: str) -> int:
    url = f"http://127.0.0.1:{gateway.ports.envoy_admin}/stats?format=json&filter=^{re.escape(name)}$"
    (found,) = requests.get(url, timeout=5).json()["stats"]
    return found["value"]


def test_connections_beyond_the_bound_are_closed_and_the_gateway_recovers(
    new_gateway, free_ports, monkeypatch
):
    monkeypatch.setattr(envoy, "MAX_CONNECTIONS", 150)
    gateway = new_gateway(free_ports())
    port = gateway.ports.gateway
    with gateway.run():
        with contextlib.ExitStack() as stack:
            connections = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                for _ in range(200)
            ]
            connections[-1].settimeout(5)
            with contextlib.suppress(ConnectionError):
                assert connections[-1].recv(1) == b""  # closed at once
            # The operator still sees it, by the admin port, which has no bound.
            assert stat(gateway, f"listener.127.0.0.1_{port}.downstream_global_cx_overflow") >= 50
        deadline_s = time.monotonic() + 5
        while True:
            with contextlib.suppress(requests.ConnectionError):
                assert (
                    requests.get(f"{gateway.url}/v2/models", timeout=5).status_code == 503
                )  # no server here
                break
            assert time.monotonic() < deadline_s


@pytest.fixture(scope="module")
def deserted(new_gateway, free_ports):
    """The gateway before servers that are not there."""
    gateway = new_gateway(free_ports())
    with gateway.run():
        yield gateway


def answers(gateway) -> dict[tuple[str, str], int]:
    """The gateway's count of answers by status and response flag, as Prometheus reads it."""
    text = requests.get(f"http://127.0.0.1:{gateway.ports.envoy_admin}/stats/prometheus", timeout=5).text
    found = re.findall(r'^envoy_hounsfield_gateway_answers\{code="(\d+)",flags="([^"]+)"\} (\d+)', text, re.M)
    return {(code, flags): int(count) for code, flags, count in found}


def test_a_503_of_the_gateways_own_is_said_and_counted_apart_from_the_servers(deserted, hasty):
    before = answers(deserted).get(("503", "UF"), 0)
    for _ in range(3):
        answer = requests.get(f"{deserted.url}/v2/models/opacity", timeout=5)
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
    assert answers(deserted)["503", "UF"] == before + 3
    assert is_answered(hasty.url)
    assert answers(hasty)["200", "-"] >= 1
    assert ("503", "UF") not in answers(hasty)


def test_grpc_gets_the_gateways_sentence_as_its_status(deserted):
    with (
        grpc.insecure_channel(f"127.0.0.1:{deserted.ports.gateway}") as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary(METHOD)(b"", timeout=5)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert raised.value.details().startswith("upstream connect error")


def test_the_gateways_seconds_fit_each_other(new_gateway, ports):
    objects = new_gateway(ports).objects
    settings = copy.deepcopy(edge(objects))
    (service,) = [item for item in objects if item["kind"] == "VirtualService"]
    routes = [route for route in service["spec"]["http"] if "route" in route]
    longest_s = max(float(route["timeout"].removesuffix("s")) for route in routes)
    # Else a slow answer would be taken for a dead one, before its route's own timeout says 504.
    assert float(settings["stream_idle_timeout"].removesuffix("s")) > longest_s

"""A real Envoy, with the files that the plan of the laptop overlay gives it, before tiny upstreams."""

import concurrent.futures
import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from hounsfield.errors import PlatformError
from hounsfield.laptop import callers, envoy
from hounsfield.laptop.plan import Machine, Plan, Ports, make_plan
from hounsfield.laptop.ports import SPAN
from hounsfield.laptop.programs import find_program
from hounsfield.laptop.render import OVERLAY, render, set_gateway_port, set_secure
from hounsfield.laptop.tls import ensure_certificate

MANIFESTS = Path(__file__).parents[3] / "manifests"

try:
    find_program("envoy"), find_program("kubectl")
    MISSING = ""
except PlatformError as error:
    MISSING = str(error)


def pytest_collection_modifyitems(items):
    for item in items:
        if MISSING and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=MISSING))


class Upstream(BaseHTTPRequestHandler):
    """Answers with its role and the length of the body, and in headers what it was told of the caller."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # one packet an answer

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        length = len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while chunk := int(self.rfile.readline() or b"0", 16):
                length += len(self.rfile.read(chunk + 2)) - 2
        body = f"{self.server.role} {length}".encode()
        self.server.seen += 1
        self.server.headers_of_the_last = dict(self.headers)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-seen-caller", ",".join(self.headers.get_all("x-hounsfield-caller", [])))
        self.send_header(
            "x-seen-credentials", str(bool(self.headers["authorization"] or self.headers["x-api-key"]))
        )
        self.send_header("x-seen-request-id", self.headers.get("x-request-id", ""))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        pass


class Grpc(grpc.GenericRpcHandler):
    """Answers any method with its role."""

    def __init__(self, role: str) -> None:
        self.role = role

    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.role.encode())


class Gateway:
    """The laptop overlay, plain or secure; `run` puts a real Envoy with it before the upstreams."""

    def __init__(self, root: Path, ports: Ports, secure: bool) -> None:
        self.root, self.ports, self.folder = root, ports, root / "envoy files"
        tree = Path(shutil.copytree(MANIFESTS, root / "tree"))
        set_gateway_port(tree, ports.gateway)
        if secure:
            set_secure(tree)
        self.scheme = "https" if secure else "http"
        self.url = f"{self.scheme}://127.0.0.1:{ports.gateway}"
        self.objects = render(tree / OVERLAY)
        for item in self.objects:
            if item["kind"] == "InferenceService":
                set_package(item, "file:///models/some")
        self.machine = Machine(ports, Path("/repo"), "python", "python", root / "home")

    def plan(self, stable: int = 100, canary: int = 0, objects: list | None = None) -> Plan:
        objects = self.objects if objects is None else objects
        for route in virtual_service(objects)["spec"]["http"]:
            if route["name"].endswith("-by-weight"):
                route["route"][0]["weight"], route["route"][1]["weight"] = stable, canary
        return make_plan(objects, self.machine)

    def write(self, plan: Plan) -> str:
        callers.ensure_files(self.machine.access)
        return envoy.write_files(self.folder, plan, ensure_certificate(self.root / "tls"))

    def move(self, stable: int, canary: int, objects: list | None = None) -> None:
        """Change the weights of the running Envoy, and wait until they are in force."""
        envoy.wait_for_routes(self.ports, self.write(self.plan(stable, canary, objects)))

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        version = self.write(self.plan())
        with (self.root / "log").open("w") as log:
            running = subprocess.Popen(envoy.process(self.folder, self.ports).command, stdout=log, stderr=log)
        try:
            envoy.wait_for_routes(self.ports, version, timeout_s=30)
            wait_until_listening(self.ports.gateway)
            yield
        finally:
            running.terminate()
            running.wait(10)


def set_package(service, uri: str) -> None:
    service["spec"]["predictor"]["model"]["storageUri"] = uri
    environment = service["spec"]["explainer"]["containers"][0]["env"]
    next(item for item in environment if item["name"] == "STORAGE_URI")["value"] = uri


def virtual_service(objects) -> dict:
    return next(item for item in objects if item["kind"] == "VirtualService")


def wait_until_listening(port: int) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
    raise AssertionError("Envoy did not listen")


def find_free_ports() -> Ports:
    """A block of free ports; each xdist worker and each run begins elsewhere."""
    for first in range(20010 + os.getpid() % 500 * 20, 60000, 20):
        probes = [socket.socket() for _ in range(SPAN)]
        try:
            for offset, probe in enumerate(probes):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", first + offset))
            return Ports(first)
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no block of free ports")


@pytest.fixture(scope="session")
def free_ports():
    return find_free_ports


@pytest.fixture(scope="module")
def ports(free_ports) -> Ports:
    return free_ports()


@pytest.fixture(scope="module")
def new_gateway(tmp_path_factory):
    """A function of ports: the laptop overlay on them, to be changed and run."""
    return lambda ports: Gateway(tmp_path_factory.mktemp("gateway"), ports, secure=False)


@pytest.fixture(scope="module")
def upstreams(ports):
    """Both revisions' servers by name: `stable`, `stable explainer`, ..."""
    https, grpcs = {}, []
    for role in ("stable", "canary"):
        local = ports.of_revision(role)
        for name, port in ((role, local["http"]), (f"{role} explainer", ports.explainer(role))):
            server = ThreadingHTTPServer(("127.0.0.1", port), Upstream)
            server.role, server.seen = role, 0
            threading.Thread(target=server.serve_forever, daemon=True).start()
            https[name] = server
        rpc = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[Grpc(role)])
        rpc.add_insecure_port(f"127.0.0.1:{local['grpc']}")
        rpc.start()
        grpcs.append(rpc)
    yield https
    for server in https.values():
        server.shutdown()
        server.server_close()
    for rpc in grpcs:
        rpc.stop(0).wait()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, ports, upstreams):
    """The laptop overlay as it is, running."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), ports, secure=False)
    with gateway.run():
        yield gateway


@pytest.fixture(scope="module")
def secure_gateway(tmp_path_factory, ports, upstreams):
    """The laptop overlay after `hounsfield up --secure`, running."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), ports, secure=True)
    with gateway.run():
        yield gateway

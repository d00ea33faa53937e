"""The whole stack with stand-in servers: real supervisord, real Envoy, real git tree, tiny predictors."""

import collections
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from hounsfield.config import Home
from hounsfield.errors import PlatformError, RolloutError
from hounsfield.laptop import stack
from hounsfield.laptop.callers import make_api_key
from hounsfield.laptop.ports import SPAN
from hounsfield.laptop.programs import find_program
from hounsfield.laptop.render import OVERLAY
from hounsfield.rollout import manifest, repository

try:
    find_program("envoy"), find_program("kubectl")
except PlatformError as error:
    pytest.skip(str(error), allow_module_level=True)

MANIFESTS = Path(__file__).parents[2] / "manifests"

SERVER = """
import json, os, sys, subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
port = int(options.get("http_port") or os.environ["PREDICTIVE_UNIT_HTTP_SERVICE_PORT"])
if os.path.exists(options.get("model_dir", "") + "/broken"):
    sys.exit("this package is broken")
worker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])  # must not outlive us
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # one packet an answer
    def do_GET(self):
        body = json.dumps({"version": options.get("model_version")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def free_block() -> int:
    """First of a block of free ports; each xdist worker and each run begins elsewhere."""
    for first in range(20000 + os.getpid() % 500 * 20, 60000, 20):
        probes = [socket.socket() for _ in range(SPAN)]
        try:
            for offset, probe in enumerate(probes):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no block of free ports in a row")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A clone whose servers are stand-ins."""
    folder = tmp_path / "clone"
    shutil.copytree(MANIFESTS, folder / "manifests")
    for name in ("predictor", "explainer", "gate"):
        (folder / "serving" / name).mkdir(parents=True)
        (folder / "serving" / name / "__main__.py").write_text(SERVER)
    return folder


@pytest.fixture
def home(tmp_path: Path):
    home = Home.at(tmp_path / "a home")  # a space in the path is meant
    yield home
    stack.down(home)
    assert not processes_of(home), "a process was left behind"
    assert not (home.run / "supervisor.sock").exists()


def processes_of(home: Home) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(home.root) in line]


def start(home: Home, repo: Path, port: int | None = None) -> stack.Status:
    return stack.up(
        home, port or free_block(), repo=repo, guard_python=Path(sys.executable), with_mlflow=False
    )


def package(home: Home, name: str) -> Path:
    folder = home.models / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def serve(home: Home, role: str, version: str, folder: Path) -> None:
    manifest.set_revision(
        home.tree, role, storage_uri=folder.as_uri(), model_version=version, package_digest="0" * 64
    )
    repository.commit(home.tree, f"{role} serves {version}", {})


def answered(endpoint: str, requests_made: int, **headers: str) -> collections.Counter:
    with requests.Session() as session:
        answers = [
            session.get(f"{endpoint}/v2/models/opacity", headers=headers, timeout=5)
            for _ in range(requests_made)
        ]
    return collections.Counter(answer.json().get("version") for answer in answers)


def test_a_weight_edited_by_hand_moves_the_traffic_and_restarts_nothing(home, repo):
    endpoint = start(home, repo).endpoint
    assert requests.get(f"{endpoint}/v2/health/ready", timeout=5).status_code == 503  # nothing to serve yet

    serve(home, "stable", "1", package(home, "one"))
    serve(home, "canary", "2", package(home, "two"))
    assert stack.apply(home).weights == {"stable": 100, "canary": 0}
    assert answered(endpoint, 50) == {"1": 50}
    assert answered(endpoint, 5, **{"x-hounsfield-revision": "canary"}) == {"2": 5}
    pids = {state.process: state.pid for state in stack.status(home).processes}

    file = home.tree / OVERLAY / "rollout.yaml"
    file.write_text(file.read_text().replace("stable: 100", "stable: 70").replace("canary: 0", "canary: 30"))
    status = stack.apply(home)

    assert status.weights == {"stable": 70, "canary": 30}
    assert status.revisions == {"stable": "1", "canary": "2"}
    counts = answered(endpoint, 600)
    assert sum(counts.values()) == 600
    assert 180 - 57 <= counts["2"] <= 180 + 57  # 600 * 0.3, five standard deviations of 11.2
    assert {state.process: state.pid for state in status.processes} == pids


def test_a_revision_that_does_not_start_is_an_error_and_the_routes_stay(home, repo):
    endpoint = start(home, repo).endpoint
    serve(home, "stable", "1", package(home, "one"))
    stack.apply(home)
    broken = package(home, "broken package")
    (broken / "broken").touch()
    serve(home, "canary", "2", broken)

    with pytest.raises(PlatformError, match="opacity-canary stopped while starting: this package is broken"):
        stack.apply(home)

    assert answered(endpoint, 20) == {"1": 20}
    (broken / "broken").unlink()
    assert stack.apply(home).revisions == {
        "stable": "1",
        "canary": "2",
    }  # mended: the next apply starts it again


def test_a_revision_taken_back_to_none_is_stopped(home, repo):
    start(home, repo)
    serve(home, "stable", "1", package(home, "one"))
    serve(home, "canary", "2", package(home, "two"))
    stack.apply(home)
    manifest.set_revision(home.tree, "canary", storage_uri="none", model_version="0", package_digest="none")
    status = stack.apply(home)
    assert [
        state.process
        for state in status.processes
        if state.process.startswith(("opacity-stable", "opacity-canary"))
    ] == [
        "opacity-stable",
        "opacity-stable-explainer",
    ]
    assert not [line for line in processes_of(home) if "two" in line]


def test_weight_on_a_revision_without_a_model_is_refused_and_the_routes_stay(home, repo):
    endpoint = start(home, repo).endpoint
    serve(home, "stable", "1", package(home, "one"))
    stack.apply(home)
    manifest.set_weights(home.tree, 95, 5)
    with pytest.raises(RolloutError, match="canary has weight 5 but no model"):
        stack.apply(home)
    assert answered(endpoint, 20) == {"1": 20}


def test_a_package_folder_that_does_not_exist_is_named(home, repo):
    start(home, repo)
    serve(home, "stable", "1", home.models / "missing")
    with pytest.raises(RolloutError, match=r"opacity-stable: the package folder .*missing does not exist"):
        stack.apply(home)


def test_a_port_in_use_is_named_before_anything_starts(home, repo):
    port = free_block()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port + 3))
        other.listen()
        with pytest.raises(PlatformError, match=f"port {port + 3} cannot be used"):
            start(home, repo, port)
    assert not processes_of(home)
    assert not (home.run / "supervisord.conf").exists()


def test_a_start_that_fails_leaves_nothing_running(home, repo):
    (repo / "serving" / "gate" / "__main__.py").write_text("raise SystemExit('no gate today')")
    with pytest.raises(PlatformError, match="gate stopped while starting: no gate today"):
        start(home, repo)
    assert not processes_of(home)


def test_an_interrupt_while_starting_leaves_nothing_running(home, repo, monkeypatch):
    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(stack, "_wait_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(home, repo)
    assert not processes_of(home)


def test_a_secure_stack_asks_who_calls_over_tls_and_stays_secure(home, repo):
    status = stack.up(
        home, free_block(), repo=repo, guard_python=Path(sys.executable), with_mlflow=False, secure=True
    )
    serve(home, "stable", "1", package(home, "one"))
    stack.apply(home)
    url, trusted = f"{status.endpoint}/v2/models/opacity", status.certificate
    assert url.startswith("https://")
    assert requests.get(url, timeout=5, verify=trusted).status_code == 401
    headers = {"x-api-key": make_api_key(home.access, "pacs")}
    deadline_s = time.monotonic() + 5
    while (answer := requests.get(url, headers=headers, timeout=5, verify=trusted)).status_code != 200:
        assert time.monotonic() < deadline_s
    assert answer.json() == {"version": "1"}
    assert (
        "Ask for TLS"
        in subprocess.run(
            ["git", "-C", str(home.tree), "log", "--format=%s"], capture_output=True, text=True, check=True
        ).stdout
    )
    port = int(status.endpoint.rpartition(":")[2])
    stack.down(home)
    assert start(home, repo, port).endpoint == status.endpoint  # the tree says so, not the command


def test_a_second_up_is_an_apply_and_another_port_is_refused(home, repo):
    status = start(home, repo)
    port = int(status.endpoint.rpartition(":")[2])
    assert start(home, repo, port).endpoint == status.endpoint
    with pytest.raises(PlatformError, match=f"runs on port {port}; run `make down`"):
        start(home, repo, port + 100)


def test_apply_without_a_stack_says_how_to_start_it(home):
    with pytest.raises(PlatformError, match="make up"):
        stack.apply(home)
    assert stack.status(home) == stack.Status(running=False)
    assert stack.down(home) is False


def test_a_server_that_dies_comes_back(home, repo):
    endpoint = start(home, repo).endpoint
    serve(home, "stable", "1", package(home, "one"))
    status = stack.apply(home)
    pid = next(state.pid for state in status.processes if state.process == "opacity-stable")
    os.killpg(pid, signal.SIGKILL)  # with its worker: the stand-in cannot clean up after a SIGKILL
    for _ in range(200):
        if requests.get(f"{endpoint}/v2/health/ready", timeout=5).ok:
            break
    stack.apply(home)
    assert answered(endpoint, 5) == {"1": 5}

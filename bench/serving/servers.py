"""The servers of the benchmark as processes: how each is installed, started, put to sleep and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import requests

from hounsfield.config import MODEL_NAME
from hounsfield.package.package import Package

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEERS = ("mlserver", "bentoml")


@dataclass(frozen=True)
class Server:
    """`doors` maps a door to the file that holds its request; the door `grpc` is on the second port."""

    name: str
    command: list[str]
    ready: str
    doors: dict[str, Path]
    ports: tuple[int, int]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = ROOT

    def port(self, door: str) -> int:
        return self.ports[door == "grpc"]


class Running:
    """A started server: a context manager. `asleep` holds its processes still while another is measured."""

    def __init__(self, server: Server, log: Path, limit_s: float = 120.0) -> None:
        self.server, self._log, self._limit_s = server, log, limit_s

    def __enter__(self) -> Running:
        began_s = time.monotonic()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self.server.command,
                cwd=self.server.folder,
                env=os.environ | self.server.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await_ready(began_s)
        except BaseException:
            self.__exit__()
            raise
        self.start_up_s = time.monotonic() - began_s
        return self

    def __exit__(self, *_: object) -> None:
        self.awake()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def asleep(self) -> None:
        self._signal(signal.SIGSTOP)

    def awake(self) -> None:
        self._signal(signal.SIGCONT)

    def drain(self, timeout_s: float) -> int | None:
        """Ask the server to end (SIGTERM); its exit status, None when it is still there after `timeout_s`."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_s)
        return None

    def rss_bytes(self) -> int:
        """Resident memory of the server and its children."""
        import psutil

        parent = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in (parent, *parent.children(recursive=True)))

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _await_ready(self, began_s: float) -> None:
        url = f"http://127.0.0.1:{self.server.ports[0]}{self.server.ready}"
        while True:
            try:
                if requests.get(url, timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.server.name} ended while starting: {self._tail()}")
            if time.monotonic() - began_s > self._limit_s:
                raise RuntimeError(
                    f"{self.server.name} was not ready after {self._limit_s:g} s: {self._tail()}"
                )
            time.sleep(0.01)

    def _tail(self) -> str:
        return self._log.read_text(errors="replace").strip()[-400:]


def ours(
    name: str, package: Package, doors: dict[str, Path], *arguments: str, threads: int | None = None
) -> Server:
    """Our predictor; `arguments` are added to its command line."""
    http_port, grpc_port = free_ports(2)
    command = [
        sys.executable, "-m", "serving.predictor", f"--model_name={MODEL_NAME}",
        f"--model_dir={package.path}",
        "--model_version=1", "--host=127.0.0.1", f"--http_port={http_port}", f"--grpc_port={grpc_port}",
        f"--threads={threads or cores()}", *arguments,
    ]  # fmt: skip
    return Server(name, command, "/v2/health/ready", doors, (http_port, grpc_port))


def null(doors: dict[str, Path]) -> Server:
    http_port, grpc_port = free_ports(2)
    command = [sys.executable, "-m", "bench.serving.null"]
    return Server(
        "null server", [*command, f"--http_port={http_port}", f"--grpc_port={grpc_port}"], "/", doors,
        (http_port, grpc_port),
    )  # fmt: skip


def kserve_stock(package: Package, doors: dict[str, Path]) -> Server:
    http_port, grpc_port = free_ports(2)
    command = [
        sys.executable, str(HERE / "peers/kserve_stock.py"), f"--onnx={package.onnx}",
        f"--http_port={http_port}", f"--grpc_port={grpc_port}",
    ]  # fmt: skip
    return Server("stock KServe SDK 0.21", command, "/v2/health/ready", doors, (http_port, grpc_port))


def mlserver(package: Package, doors: dict[str, Path], work: Path) -> Server:
    http_port, grpc_port, metrics_port = free_ports(3)
    folder = work / "mlserver"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "host": "127.0.0.1", "http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port,
        "parallel_workers": cores(), "debug": False,
    }  # fmt: skip
    model = {
        "name": MODEL_NAME,
        "implementation": "mlserver_model.OnnxModel",
        "parameters": {"uri": str(package.onnx.resolve()), "version": "1"},
        "platform": "onnx",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, *package.contract.shape]}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1]} for name in ("logit", "embedding")],
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "mlserver_model.py").write_text((HERE / "peers/mlserver_model.py").read_text())
    command = [str(_python("mlserver").with_name("mlserver")), "start", "."]
    return Server(
        "MLServer 1.7.1", command, f"/v2/models/{MODEL_NAME}/ready", doors, (http_port, grpc_port),
        {"MLSERVER_LOGGING": ""}, folder,
    )  # fmt: skip


def bentoml(package: Package, doors: dict[str, Path], work: Path) -> Server:
    (http_port,) = free_ports(1)
    command = [
        str(_python("bentoml").with_name("bentoml")), "serve", "bentoml_service:Opacity",
        "--host", "127.0.0.1",
        "--port", str(http_port), "--working-dir", str(HERE / "peers"), "--quiet",
    ]  # fmt: skip
    environment = {
        "BENCH_WORKERS": str(cores()),
        "BENCH_ONNX": str(package.onnx.resolve()),
        "BENTOML_HOME": str(work / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PATH": f"{_python('bentoml').parent}:{os.environ['PATH']}",
    }
    return Server("BentoML 1.4", command, "/readyz", doors, (http_port, 0), environment)


def install(peer: str) -> str | None:
    """Make the peer's environment if it is not there; None, or one line that says why it cannot be made."""
    python = _python(peer)
    requirements = HERE / f"requirements-{peer}.txt"
    stamp = python.parents[1] / "installed.txt"
    if stamp.is_file() and stamp.read_text() == requirements.read_text():
        return None
    print(f"installing {peer} into {python.parents[1].relative_to(ROOT)}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(python.parents[1])],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
    ):
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
            return said[-1] if said else f"exit status {ended.returncode}"
    stamp.write_text(requirements.read_text())
    return None


def installed(peer: str) -> bool:
    return (_python(peer).parents[1] / "installed.txt").is_file()


def cores() -> int:
    return len(os.sched_getaffinity(0))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def await_listening(ports: Iterable[int], process: subprocess.Popen, limit_s: float = 20.0) -> None:
    """Return when something accepts connections on each port; RuntimeError when the process ended before."""
    deadline_s = time.monotonic() + limit_s
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"nothing listens on port {port}") from None
                time.sleep(0.02)


def _python(peer: str) -> Path:
    return ROOT / "build" / "bench" / f"peers-{peer}" / "bin" / "python"

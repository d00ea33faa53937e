"""Up, apply, down, status: the laptop's stack follows the git tree under `.hounsfield/gitops`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from hounsfield.config import Home
from hounsfield.errors import PlatformError, RolloutError
from hounsfield.laptop import callers, envoy
from hounsfield.laptop.admitted import check_admitted
from hounsfield.laptop.plan import Machine, Plan, Ports, Process, make_plan, read_door
from hounsfield.laptop.ports import HOST
from hounsfield.laptop.processes import GATE_KEY
from hounsfield.laptop.render import OVERLAY, render, set_gateway_port, set_secure
from hounsfield.laptop.supervisor import State, Supervisor
from hounsfield.laptop.tls import Certificate, ensure_certificate
from hounsfield.progress import Reporter
from hounsfield.rollout import repository, seed, signed

REPO = Path(__file__).resolve().parents[3]
"""The clone: the servers' working folder, and where `manifests/` and `serving/` are."""

READY_TIMEOUT_S = 120.0
_MLFLOW_QUIET = {
    # Its job runner is seven more processes, for features that we do not use; and nothing reports home.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

RESTARTS_ALLOWED = 2
"""Starts of one process within one wait before the wait is given up."""


@dataclass(frozen=True)
class Status:
    """The stack as it is now."""

    running: bool
    endpoint: str = ""
    certificate: str = ""
    """By which clients trust an endpoint with TLS; empty without."""
    mlflow: str = ""
    weights: dict[str, int] = field(default_factory=dict)
    """Percent of requests by role, as served (not as the tree may say meanwhile)."""
    revisions: dict[str, str] = field(default_factory=dict)
    """Model version by role, as served."""
    processes: tuple[State, ...] = ()


def up(
    home: Home,
    port: int | None = None,
    *,
    repo: Path = REPO,
    guard_python: Path | None = None,
    with_mlflow: bool = True,
    secure: bool = False,
) -> Status:
    """Start the stack on `port` (the tree's, 8080 at first, when None) and wait until all of it answers.

    Seeds the tree when there is none; `secure` adds TLS, tokens, API keys and the rate limit to it, where
    they stay. On a stack that runs already this is `apply`. A port that another program holds is a
    PlatformError before anything is started; after a failure, Ctrl-C included, nothing is left running.
    """
    supervisor = Supervisor(home.run)
    if supervisor.is_running():
        check_ports(home, port)
        _secure(home, secure)
        return apply(home)
    guard = _guard_python(repo, guard_python)
    _seed(home, repo, port)
    _secure(home, secure)
    objects = render(home.tree / OVERLAY)
    machine = Machine(Ports(read_door(objects).port), repo, sys.executable, str(guard), home.root)
    plan = make_plan(objects, machine)
    _check(plan)
    check_admitted(home)
    _check_ports_free(machine.ports)
    home.run.mkdir(parents=True, exist_ok=True)
    with _locked(home.run):
        try:
            processes = _all_processes(home, plan, machine, with_mlflow)
            version = envoy.write_files(home.run / "envoy", plan, _credentials(home, plan))
            supervisor.write(processes, machine.repo)
            _write_state(home, plan, machine, with_mlflow)
            supervisor.start()
            _wait_ready(supervisor, processes)
            envoy.wait_for_routes(machine.ports, version)
        except BaseException:
            _stop(home, supervisor)
            raise
    return status(home)


def check_ports(home: Home, port: int | None = None) -> None:
    """Raise PlatformError when `up` on `port` could not start; a stack that runs already may go on."""
    if Supervisor(home.run).is_running():
        current = _read_state(home)["port"]
        if port not in (None, current):
            raise PlatformError(f"the stack runs on port {current}; run `make down` before it can use {port}")
        return
    if port is None and (home.tree / OVERLAY).is_dir():
        port = read_door(render(home.tree / OVERLAY)).port
    _check_ports_free(Ports() if port is None else Ports(port))


def apply(home: Home) -> Status:
    """Make the running stack follow the tree, and wait until it does.

    New and changed servers are started and waited for first, then the routes move at once, then what is no
    longer asked for is stopped; weights alone restart nothing. A server that does not come up is a
    PlatformError, a canary with traffic that the gate has not passed a RolloutError, and the routes stay.
    """
    supervisor = Supervisor(home.run)
    if not supervisor.is_running():
        raise PlatformError("the stack is not running; start it with `make up`")
    with _locked(home.run):
        state = _read_state(home)
        machine = Machine(
            Ports(state["port"]), Path(state["repo"]), state["python"], state["guard_python"], home.root
        )
        plan = make_plan(render(home.tree / OVERLAY), machine)
        _check(plan)
        check_admitted(home)
        processes = _all_processes(home, plan, machine, state["with_mlflow"])
        supervisor.write(processes, machine.repo)
        added, changed, removed = supervisor.reload()
        for name in changed:
            supervisor.remove(name)
        for name in [*changed, *added]:
            supervisor.add(name)
        supervisor.start_stopped()
        _wait_ready(supervisor, processes)
        version = envoy.write_files(home.run / "envoy", plan, _credentials(home, plan))
        envoy.wait_for_routes(machine.ports, version)
        for name in removed:
            supervisor.remove(name)
        _write_state(home, plan, machine, state["with_mlflow"])
    return status(home)


def down(home: Home) -> bool:
    """Stop everything and clear the run folder, logs apart; False when nothing ran."""
    return _stop(home, Supervisor(home.run))


def status(home: Home) -> Status:
    supervisor = Supervisor(home.run)
    if not supervisor.is_running():
        return Status(running=False)
    state = _read_state(home)
    ports = Ports(state["port"])
    return Status(
        running=True,
        endpoint=f"{state.get('scheme', 'http')}://{HOST}:{ports.gateway}",
        certificate=str(home.tls / "tls.crt") if state.get("scheme") == "https" else "",
        mlflow=f"http://{HOST}:{ports.mlflow}" if state["with_mlflow"] else "",
        weights=state["weights"],
        revisions=state["revisions"],
        processes=tuple(supervisor.states()),
    )


def _guard_python(repo: Path, chosen: Path | None) -> Path:
    # Not resolved: a virtual environment's python is a link, and what it links to is not the environment.
    guard = chosen or repo / ".venv-guard" / "bin" / "python"
    if not guard.is_file():
        raise PlatformError(f"the guard environment has no python at {guard}; run `make install`")
    return guard


def _seed(home: Home, repo: Path, port: int | None) -> None:
    if not seed.seed_tree(repo / "manifests", home.tree):
        seed.take_over(repo / "manifests", home.tree)
    if port is not None:
        Ports(port)  # refuses a number that is no port before it is written
    if port is not None and set_gateway_port(home.tree, port):
        repository.commit(home.tree, f"Serve on port {port}", {})


def _secure(home: Home, secure: bool) -> None:
    if secure and set_secure(home.tree):
        repository.commit(home.tree, "Ask for TLS, and for a token or an API key of every caller", {})


def _credentials(home: Home, plan: Plan) -> Certificate | None:
    """What the gate, and Envoy, must find on this machine before they read files that name it."""
    signed.ensure_key(home.keys / GATE_KEY)
    if plan.asks_who:
        callers.ensure_files(home.access)
    return ensure_certificate(home.tls) if plan.door.secret else None


def _all_processes(home: Home, plan: Plan, machine: Machine, with_mlflow: bool) -> list[Process]:
    """The plan's processes, and those that a cluster's platform would bring: proxy and tracking server."""
    extra = [envoy.process(home.run / "envoy", plan.ports)]
    if with_mlflow:
        url = f"http://{HOST}:{plan.ports.mlflow}"
        command = (machine.python, "-m", "mlflow", "server", "--host", HOST, "--port", str(plan.ports.mlflow))
        store = (
            "--backend-store-uri",
            home.mlflow_uri,
            "--artifacts-destination",
            home.mlflow_artifacts.as_uri(),
        )
        extra.append(Process("mlflow", (*command, *store, "--workers", "1"), _MLFLOW_QUIET, f"{url}/health"))
    return [*extra, *plan.processes]


def _check(plan: Plan) -> None:
    for process in plan.processes:
        if process.folder is not None and not process.folder.is_dir():
            raise RolloutError(
                f"{process.name}: the package folder {process.folder} does not exist; correct rollout.yaml"
            )


def _check_ports_free(ports: Ports) -> None:
    for port in ports.all():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise PlatformError(
                    f"port {port} cannot be used ({error.strerror}); stop what holds it, or choose another "
                    f"with `make up PORT=...` (the stack takes {ports.all()[0]} to {ports.all()[-1]})"
                ) from None


def _wait_ready(
    supervisor: Supervisor, processes: Sequence[Process], timeout_s: float = READY_TIMEOUT_S
) -> None:
    """Wait until each process that predictions need answers on its ready URL, reporting each that does."""
    processes = [process for process in processes if not process.in_background]
    reporter, waiting = Reporter("stack", len(processes)), {process.name: process for process in processes}
    pids: dict[str, set[int]] = {name: set() for name in waiting}
    deadline_s = time.monotonic() + timeout_s
    while True:
        for name in [name for name, process in waiting.items() if _answers(process.ready_url)]:
            del waiting[name]
            reporter.update(len(processes) - len(waiting), f"{name} ready")
        if not waiting:
            return
        for state in supervisor.states():
            pids.get(state.process, set()).add(state.pid)
            starts = len(pids.get(state.process, set()) - {0})
            if state.process in waiting and (state.name == "FATAL" or starts > RESTARTS_ALLOWED):
                raise _failed(supervisor, state.process, "stopped while starting")
        if time.monotonic() > deadline_s:
            raise _failed(supervisor, next(iter(waiting)), f"was not ready within {timeout_s:g} s")
        time.sleep(0.05)


def _failed(supervisor: Supervisor, name: str, what: str) -> PlatformError:
    supervisor.stop_process(name)
    reason = supervisor.last_line(name)
    return PlatformError(f"{name} {what}: {reason} (the whole log is {supervisor.logs / f'{name}.log'})")


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).ok
    except requests.RequestException:
        return False


def _stop(home: Home, supervisor: Supervisor) -> bool:
    stopped = supervisor.shut_down()
    for file in (supervisor.config, supervisor.pidfile, _state_file(home), home.run / "lock"):
        file.unlink(missing_ok=True)
    shutil.rmtree(home.run / "envoy", ignore_errors=True)
    return stopped


def _state_file(home: Home) -> Path:
    return home.run / "stack.json"


def _write_state(home: Home, plan: Plan, machine: Machine, with_mlflow: bool) -> None:
    state = {
        "port": plan.ports.gateway,
        "scheme": plan.door.scheme,
        "repo": str(machine.repo),
        "python": machine.python,
        "guard_python": machine.guard_python,
        "with_mlflow": with_mlflow,
        "weights": dict(plan.weights),
        "revisions": dict(plan.revisions),
    }
    fresh = _state_file(home).with_suffix(".new")
    fresh.write_text(json.dumps(state, indent=2, sort_keys=True))
    fresh.rename(_state_file(home))


def _read_state(home: Home) -> dict:
    return json.loads(_state_file(home).read_text())


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """One `apply` at a time: a person's and the rollout's wait for each other."""
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""Processes kept running by supervisord, and reconciled with a plan as `supervisorctl update` would.

supervisord is a daemon of its own session: a Ctrl-C in the shell that started the stack does not stop it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from hounsfield.errors import PlatformError
from hounsfield.laptop.processes import Process

_SOCKET_PATH_MAX = 100  # a Unix socket's path has 108 bytes, and supervisord adds a suffix while it binds
_GONE = (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError)


@dataclass(frozen=True)
class State:
    """One process; `name` is supervisord's word: `STARTING`, `RUNNING`, `BACKOFF`, `FATAL`, `STOPPED`..."""

    process: str
    name: str
    pid: int


class Supervisor:
    """The supervisord of one run folder."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.config = run / "supervisord.conf"
        self.pidfile = run / "supervisord.pid"
        self.logs = run / "logs"
        self.socket = run / "supervisor.sock"
        if len(str(self.socket)) > _SOCKET_PATH_MAX:
            digest = hashlib.sha256(str(run).encode()).hexdigest()[:16]
            self.socket = Path(tempfile.gettempdir()) / f"hounsfield-{digest}.sock"

    def is_running(self) -> bool:
        try:
            return bool(self._call("getState")["statecode"] == 1)
        except _GONE:
            return False

    def write(self, processes: Sequence[Process], folder: Path) -> None:
        """Write supervisord's configuration; every process is started in `folder`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        sections = [self._header(), *(self._program(process, folder) for process in processes)]
        self.config.write_text("\n".join(sections))
        self.config.chmod(0o600)

    def start(self, timeout_s: float = 15.0) -> None:
        """Start the daemon and wait until it answers."""
        command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise PlatformError(f"supervisord did not start: {reason[-1]}")
        deadline_s = time.monotonic() + timeout_s
        while not self.is_running():
            if time.monotonic() > deadline_s:
                raise PlatformError(
                    f"supervisord did not answer within {timeout_s:g} s; see {self.run}/supervisord.log"
                )
            time.sleep(0.02)

    def reload(self) -> tuple[list[str], list[str], list[str]]:
        """Read the configuration again: names (added, changed, removed). Changes nothing that runs."""
        ((added, changed, removed),) = self._call("reloadConfig")
        return added, changed, removed

    def add(self, name: str) -> None:
        self._call("addProcessGroup", name)

    def remove(self, name: str) -> None:
        """Stop the process, with all that it started, and forget it."""
        with _whole_groups_gone([state for state in self.states() if state.process == name]):
            self._call("stopProcessGroup", name)
        self._call("removeProcessGroup", name)

    def start_stopped(self) -> None:
        """Start again what was given up."""
        for state in self.states():
            if state.name in ("STOPPED", "EXITED", "FATAL"):
                self._call("startProcess", state.process, False)

    def stop_process(self, name: str) -> None:
        with contextlib.suppress(xmlrpc.client.Fault):
            self._call("stopProcess", name)

    def states(self) -> list[State]:
        return [
            State(item["name"], item["statename"], item["pid"]) for item in self._call("getAllProcessInfo")
        ]

    def last_line(self, name: str) -> str:
        """Last line that the process wrote, for an error's sentence."""
        path = self.logs / f"{name}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return lines[-1].strip() if lines else "it wrote nothing"

    def shut_down(self, timeout_s: float = 30.0) -> bool:
        """Stop every process and the daemon, and wait until all are gone; False when there was none."""
        if not self.is_running():
            return False
        pid = self._call("getPID")
        with _whole_groups_gone(self.states()):
            self._call("shutdown")
            deadline_s = time.monotonic() + timeout_s
            while _is_alive(pid):
                if time.monotonic() > deadline_s:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)
        for leftover in (self.socket, self.pidfile):
            leftover.unlink(missing_ok=True)
        return True

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        try:
            server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(server.supervisor, method)(*arguments)
        finally:
            transport.close()

    def _header(self) -> str:
        return f"""; written by hounsfield.laptop; `hounsfield apply` writes it again
[supervisord]
pidfile={_plain(self.pidfile)}
logfile={_plain(self.run / "supervisord.log")}
logfile_maxbytes=1MB
logfile_backups=1
childlogdir={_plain(self.logs)}
[unix_http_server]
file={_plain(self.socket)}
chmod=0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

    def _program(self, process: Process, folder: Path) -> str:
        environment = ",".join(
            f'{key}="{_plain(value)}"' for key, value in sorted(process.environment.items())
        )
        return f"""[program:{process.name}]
command={shlex.join(_plain(word) for word in process.command)}
environment={environment}
directory={_plain(folder)}
stdout_logfile={_plain(self.logs / f"{process.name}.log")}
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=1
redirect_stderr=true
autostart=true
autorestart=true
startsecs=1
startretries=2
stopwaitsecs=10
stopasgroup=true
killasgroup=true
"""


def _plain(value: object) -> str:
    """A value that supervisord's configuration language reads back as it is."""
    text = str(value)
    if any(character in text for character in '"\n;#'):
        raise PlatformError(
            f'{text!r} has a character of " ; # or a line break, which supervisord cannot take; rename it'
        )
    return text.replace("%", "%%")


@contextlib.contextmanager
def _whole_groups_gone(states: Sequence[State]) -> Iterator[None]:
    """After the body has stopped these processes, end whatever they left in their process groups.

    supervisord makes each program the leader of a group; a leader that goes first may leave workers behind.
    """
    yield
    for state in states:
        if state.pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(state.pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return f"{Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]}" != "Z"
    except OSError:  # no /proc (macOS), or gone since
        return True

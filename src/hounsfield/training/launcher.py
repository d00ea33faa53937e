"""Start the processes of a training run on this machine by `torchrun`."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hounsfield.config import from_mapping
from hounsfield.errors import TrainingError
from hounsfield.training.orphans import end_with_parent
from hounsfield.training.params import TrainingParams

_GRACE_S = 10.0
_SENTENCE = re.compile(r"^(?:hounsfield train: )?error: (?P<said>.+)$")
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?!ChildFailedError)\w+(?:Error|Exception)\b.*$")
_TORCHRUN_NOISE = re.compile(r"^[WEI]\d{4} .*torch/distributed/")


def launch(
    tensors: Path,
    out: Path,
    params: TrainingParams | Mapping[str, Any],
    processes: int = 2,
    checkpoints: Path | None = None,
    tracking_uri: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """Run `fit` in `processes` processes and hand every line that they print to `on_line`.

    `params` may be a mapping of the fields of TrainingParams; `tags` are for the MLflow run. The
    processes are gone when this returns or raises, Ctrl-C included, and when the caller is killed.
    Raises TrainingError with the sentence of the process that failed first.
    """
    if not isinstance(params, TrainingParams):
        params = from_mapping(TrainingParams, _whole(params), "training parameters")
    arguments = ["--tensors", str(tensors), "--out", str(out), *_as_arguments(params)]
    if checkpoints is not None:
        arguments += ["--checkpoints", str(checkpoints)]
    if tracking_uri:
        arguments += ["--tracking-uri", tracking_uri]
    arguments += [f"--tag={key}={value}" for key, value in (tags or {}).items()]
    run_torchrun(arguments, processes, on_line)


def run_torchrun(arguments: list[str], processes: int, on_line: Callable[[str], None]) -> None:
    """`torchrun -m hounsfield.training.main` with `arguments`; see `launch`."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--master-addr=127.0.0.1", f"--master-port={_free_port()}", "--max-restarts=0"]
    command += ["-m", "hounsfield.training.main", *arguments]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)),
        "GLOO_SOCKET_IFNAME": "lo",  # without it gloo looks the host name up, which laptops often cannot
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }
    sentence = exception = None
    with _group(command, environment) as process:
        for raw in process.stdout:
            line = raw.rstrip("\n")
            if _TORCHRUN_NOISE.match(line) or sentence:  # after the sentence comes torchrun's account of it
                continue
            on_line(line)
            sentence = sentence or _SENTENCE.match(line)
            exception = exception or _EXCEPTION.match(line)
    if process.returncode != 0:
        if sentence:
            raise TrainingError(sentence["said"])
        last = exception[0] if exception else "no error was printed; it may have run out of memory"
        raise TrainingError(f"training ended with exit code {process.returncode}: {last}")


@contextmanager
def _group(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, ended with the block."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            # torchrun passes SIGTERM on to its workers, which live in sessions of their own.
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the workers end with their parent
                process.wait()
        process.stdout.close()


def _whole(params: Mapping[str, Any]) -> dict[str, Any]:
    """KFP passes a dict as a protobuf Struct, whose only number is a double: 5 arrives as 5.0."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in params.items()
    }


def _as_arguments(params: TrainingParams) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(params).items()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

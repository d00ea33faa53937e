"""Start the processes of a training run by `torchrun`: on this machine, or this pod's part of a group."""

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

from hounsfield.errors import TrainingError
from hounsfield.training.orphans import end_with_parent
from hounsfield.training.params import TrainingParams, training_params

_GRACE_S = 10.0
_SENTENCE = re.compile(r"^(?:hounsfield train: )?error: (?P<said>.+)$")
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?!ChildFailedError)\w+(?:Error|Exception)\b.*$")
_TORCHRUN_NOISE = re.compile(r"^[WEI]\d{4} .*torch/distributed/")
_KILLED = re.compile(r"exitcode\s*:\s*-9\b|Signal 9 \(SIGKILL\)")


def launch(
    tensors: Path | str,
    out: Path | str,
    params: TrainingParams | Mapping[str, Any],
    processes: int = 2,
    checkpoints: Path | str | None = None,
    tracking_uri: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """Run `fit` in `processes` processes and hand every line that they print to `on_line`.

    The arguments are those of `train_arguments`. The processes are gone when this returns or raises, Ctrl-C
    included, and when the caller is killed. Raises TrainingError with the sentence of the process that
    failed first.
    """
    arguments = train_arguments(tensors, out, params, checkpoints, tracking_uri, tags)
    run_torchrun(arguments, processes, on_line)


def train_arguments(
    tensors: Path | str,
    out: Path | str,
    params: TrainingParams | Mapping[str, Any],
    checkpoints: Path | str | None = None,
    tracking_uri: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[str]:
    """What follows `hounsfield train` on a command line, here and in the containers of a job.

    `params` may be a mapping of the fields of TrainingParams, and `preset`; `tags` are for the MLflow run.
    Raises ConfigError for a parameter that there is not.
    """
    if not isinstance(params, TrainingParams):
        params = training_params(params, "training parameters")
    arguments = ["--tensors", str(tensors), "--out", str(out)]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(params).items()]
    if checkpoints is not None:
        arguments += ["--checkpoints", str(checkpoints)]
    if tracking_uri:
        arguments += ["--tracking-uri", tracking_uri]
    return arguments + [f"--tag={key}={value}" for key, value in (tags or {}).items()]


def run_torchrun(arguments: list[str], processes: int, on_line: Callable[[str], None]) -> None:
    """`hounsfield train` with `arguments` in `processes` processes of this machine; see `launch`."""
    group = [f"--nproc-per-node={processes}", "--master-addr=127.0.0.1", f"--master-port={_free_port()}"]
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)),
        "GLOO_SOCKET_IFNAME": "lo",  # without it gloo looks the host name up, which laptops often cannot
    }
    _run([*group, "--max-restarts=0"], arguments, environment, on_line)


def is_pod(environment: Mapping[str, str]) -> bool:
    """Whether an operator describes this pod's part of a group to torchrun, in PET_* variables.

    A PyTorchJob and a TrainJob both do; a worker that torchrun started is no pod any more.
    """
    described = any(name in environment for name in ("PET_NNODES", "PET_NODE_RANK", "PET_RDZV_ENDPOINT"))
    return described and "TORCHELASTIC_RUN_ID" not in environment


def run_pod(
    arguments: list[str],
    environment: Mapping[str, str],
    on_line: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """This pod's part of the group: torchrun, which reads the rest from PET_* itself; see `launch`."""
    local = environment.get("PET_NPROC_PER_NODE", "1")
    threads = len(os.sched_getaffinity(0)) // (int(local) if local.isdigit() else 1)
    group = [] if "PET_MAX_RESTARTS" in environment else ["--max-restarts=0"]
    # RANK and WORLD_SIZE count pods where the operator sets them; torchrun sets its workers' own.
    _run(
        group,
        arguments,
        {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(max(1, threads)))},
        on_line,
    )


def _run(
    group: list[str], arguments: list[str], environment: dict[str, str], on_line: Callable[[str], None]
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", *group, "-m", "hounsfield.training.main"]
    common = {"TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONUNBUFFERED": "1"}
    sentence = exception = None
    killed = False
    with _group([*command, *arguments], os.environ | common | environment) as process:
        for raw in process.stdout:
            line = raw.rstrip("\n")
            killed = killed or bool(_KILLED.search(line))
            if _TORCHRUN_NOISE.match(line) or sentence:  # after the sentence comes torchrun's account of it
                continue
            on_line(line)
            sentence = sentence or _SENTENCE.match(line)
            exception = exception or _EXCEPTION.match(line)
    if process.returncode == 0:
        return
    if sentence:
        raise TrainingError(sentence["said"])
    if killed:
        raise TrainingError(
            "a training process was killed (signal 9), as a machine or pod does that runs out of memory: "
            "lower batch_size or give it more memory, then start again to go on"
        )
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

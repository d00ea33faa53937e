"""Rounds of measurements, interleaved: in each round every server is measured once, beside raw inference."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.serving.servers import ROOT, Running


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement of one door in one round. Times in seconds; p50 and p99 None when nothing was answered.

    `raw_p50_s` and `raw_rate_per_s` are raw inference in the same round, what the ratios are taken against.
    """

    stage: str
    server: str
    door: str
    clients: int
    round: int
    p50_s: float | None
    p99_s: float | None
    rate_per_s: float
    statuses: dict[str, int]
    client_cpu_s: float
    raw_p50_s: float
    raw_rate_per_s: float


@dataclasses.dataclass(frozen=True)
class Stage:
    """`clients` at each door of each server; `raw` are the arguments of `bench.serving.raw` beside it."""

    name: str
    clients: int
    seconds: float
    raw: dict


def run_stage(stage: Stage, number: int, running: list[tuple[Running, dict[str, Path]]]) -> Iterator[Sample]:
    """Measure the doors of all servers; all but the one that is measured sleep."""
    raw = _python("bench.serving.raw", stage.raw | {"seconds": stage.seconds})
    raw_p50_s, raw_rate = statistics.median(raw["latency_s"]), raw["rate_per_s"]
    # Another one is first in each round, so that none always comes after the same one.
    turn = number % max(1, len(running))
    for server, doors in running[turn:] + running[:turn]:
        server.awake()
        try:
            for door, request in doors.items():
                seen = _python(
                    "bench.serving.load",
                    {
                        "door": "grpc" if door == "grpc" else "http",
                        "port": server.server.port(door),
                        "request": str(request),
                        "clients": stage.clients,
                        "seconds": stage.seconds,
                    },
                )
                latency_s = sorted(seen["latency_s"])
                yield Sample(
                    stage=stage.name,
                    server=server.server.name,
                    door=door,
                    clients=stage.clients,
                    round=number,
                    p50_s=statistics.median(latency_s) if latency_s else None,
                    p99_s=percentile(latency_s, 0.99) if latency_s else None,
                    rate_per_s=seen["rate_per_s"],
                    statuses=seen["statuses"],
                    client_cpu_s=seen["client_cpu_s"],
                    raw_p50_s=raw_p50_s,
                    raw_rate_per_s=raw_rate,
                )
        finally:
            server.asleep()


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@contextlib.contextmanager
def exclusive(lock: Path | None) -> Iterator[None]:
    """Hold a lock file, where other heavy work on the machine takes the same one."""
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _python(module: str, argument: dict) -> dict:
    ended = subprocess.run(
        [sys.executable, "-m", module, json.dumps(argument)], cwd=ROOT, capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"{module} failed: {ended.stderr.strip()[-400:]}")
    return json.loads(ended.stdout)

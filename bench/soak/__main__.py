"""`python -m bench.soak --minutes 60`: the predictor at 80 % of its capacity, with faults on the wire.

Measures the capacity first, then sends at 80 % of it (open loop, Poisson), a tenth of the requests through a
fault of `bench.soak.proxy`. Writes build/bench/soak.json, .md and .png. Ends with status 1 unless: no error
that was not injected, p99 of the last third at most 1.5 times that of the first, memory of the last third at
most 1.1 times that of the first, the server drains at SIGTERM, its log verifies and holds every prediction
that was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.curves import plot
from bench.serving import model, requests, servers
from bench.serving.measure import percentile
from bench.serving.servers import ROOT, Running, free_ports
from bench.soak.load import ID, Load, Outcome
from bench.soak.proxy import FAULTS
from hounsfield.audit.reader import read
from hounsfield.audit.verification import verify

OUT = ROOT / "build" / "bench"
SHARE = 0.8
P99_RATIO, MEMORY_RATIO = 1.5, 1.1


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", default="densenet121-224", help="architecture-size of the served model")
    parser.add_argument("--capacity-s", type=float, default=30.0, help="how long the capacity is measured")
    arguments = parser.parse_args(argv)
    architecture, _, size = arguments.model.rpartition("-")
    work = OUT / "soak"
    work.mkdir(parents=True, exist_ok=True)
    log = work / f"log-{time.time_ns()}"
    package = model.package(OUT / "models", architecture, int(size))
    server = servers.ours("Hounsfield", package, {}, f"--log_dir={log}")
    with Running(server, work / "server.log") as running, _proxy(server.ports[0]) as ports:
        soak = asyncio.run(_run(running, ports, int(size), arguments))
        exit_status = running.drain(timeout_s=60)
    findings, text = _judge(soak, exit_status, log, arguments)
    (OUT / "soak.md").write_text(text)
    (OUT / "soak.json").write_text(json.dumps(soak.minutes | {"broken": findings}, indent=1))
    _plot(soak)
    print(text)
    return int(bool(findings))


class Soak:
    """What was seen: the outcomes, the memory by second, and the figures of each minute."""

    def __init__(self, capacity_per_s: float) -> None:
        self.capacity_per_s = capacity_per_s
        self.outcomes: list[Outcome] = []
        self.memory: list[tuple[float, int]] = []
        self.minutes: dict[str, list] = {"minutes": []}
        self.began_s = time.monotonic()


async def _run(running: Running, ports: dict[str, int], size_px: int, arguments: argparse.Namespace) -> Soak:
    image = model.image(size_px)
    v2 = requests.v2(image)
    templates = {
        "image-binary": v2["rest-binary"],
        "image-json": v2["rest-json"],
        "scan": requests.v2(image, model.radiograph(2048))["rest-binary"],
        "compressed-scan": requests.v2(image, model.radiograph(512, compressed=True))["rest-binary"],
    }
    load = Load(templates, image.tobytes(), ports, running.server.ports[1])
    await load.closed_loop(8, 3.0)
    capacity = await load.closed_loop(8, arguments.capacity_s)
    print(
        f"capacity {capacity:.1f}/s; {SHARE * capacity:.1f}/s for {arguments.minutes:g} minutes", flush=True
    )
    soak = Soak(capacity)
    acknowledged_before = len(load.outcomes)
    watching = asyncio.create_task(_watch(running, load, soak, acknowledged_before))
    await load.open_loop(SHARE * capacity, 60 * arguments.minutes)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await load.close()
    soak.outcomes = load.outcomes
    soak.minutes["first"] = acknowledged_before
    return soak


async def _watch(running: Running, load: Load, soak: Soak, done: int) -> None:
    """Memory each second, and a line each minute."""
    while True:
        for _ in range(60):
            soak.memory.append((time.monotonic() - soak.began_s, running.rss_bytes()))
            await asyncio.sleep(1.0)
        minute, done = load.outcomes[done:], len(load.outcomes)
        clean = sorted(each.latency_s for each in minute if each.fault == "clean" and each.status == "200")
        figures = {
            "asked": len(minute),
            "faults": sum(each.fault != "clean" for each in minute),
            "p50_s": statistics.median(clean),
            "p99_s": percentile(clean, 0.99),
            "shed": sum(each.status == "429" for each in minute),
            "errors": sum(each.is_error for each in minute),
            "rss_bytes": soak.memory[-1][1],
        }
        soak.minutes["minutes"].append(figures)
        print(
            f"minute {len(soak.minutes['minutes'])}: {figures['asked']} asked, {figures['faults']} with a "
            f"fault, p50 {1000 * figures['p50_s']:.0f} ms, p99 {1000 * figures['p99_s']:.0f} ms, "
            f"{figures['shed']} shed, {figures['errors']} errors that were not injected, "
            f"{figures['rss_bytes'] / 2**20:.0f} MiB",
            flush=True,
        )


def _judge(
    soak: Soak, exit_status: int | None, log: Path, arguments: argparse.Namespace
) -> tuple[list[str], str]:
    """What broke, and the report."""
    outcomes = soak.outcomes[soak.minutes["first"] :]
    errors = collections.Counter(
        f"{each.kind} {each.fault}: {each.status or 'no answer'}" for each in outcomes if each.is_error
    )
    end_s = max(each.due_s for each in outcomes) - soak.began_s
    p99 = [_p99(outcomes, soak.began_s, end_s, third) for third in (0, 2)]
    memory = [_memory(soak.memory, end_s, third) for third in (0, 2)]
    logged, head = set(), verify(log)
    for record, _ in read(log):
        if record["kind"] == "prediction":
            logged.add(record["request_id"])
    acknowledged = {(ID % each.number).decode() for each in soak.outcomes if each.status == "200"}
    lost = acknowledged - logged
    shed = sum(each.status == "429" for each in outcomes)
    findings = [
        *(f"{count} errors that were not injected ({what})" for what, count in errors.items()),
        *([f"p99 rose {p99[1] / p99[0]:.2f} times"] if p99[1] > P99_RATIO * p99[0] else []),
        *([f"memory rose {memory[1] / memory[0]:.2f} times"] if memory[1] > MEMORY_RATIO * memory[0] else []),
        *([f"{len(lost)} acknowledged predictions are not in the log"] if lost else []),
        *([f"the server ended with status {exit_status} at SIGTERM"] if exit_status != 0 else []),
    ]
    by_fault = collections.Counter((each.fault, each.status or "no answer") for each in outcomes)
    lines = [
        f"# Soak: {arguments.minutes:g} minutes of {arguments.model} at {SHARE:.0%} of "
        f"{soak.capacity_per_s:.1f}/s",
        "",
        f"{len(outcomes)} requests, {sum(each.fault != 'clean' for each in outcomes)} through a fault, "
        f"{shed} shed (429). {sum(errors.values())} errors that were not injected.",
        "",
        f"p99 of the first third {1000 * p99[0]:.0f} ms, of the last {1000 * p99[1]:.0f} ms (ratio "
        f"{p99[1] / p99[0]:.2f}); memory {memory[0] / 2**20:.0f} and {memory[1] / 2**20:.0f} MiB (ratio "
        f"{memory[1] / memory[0]:.3f}).",
        "",
        f"The log verifies: {head.count} records; {len(acknowledged)} predictions were acknowledged, "
        f"{len(lost)} of them are missing. At SIGTERM the server ended with status {exit_status}.",
        "",
        "| fault | what it does | answers |",
        "|---|---|---|",
        *(
            f"| {fault} | {what} | "
            + ", ".join(f"{status}: {n}" for (name, status), n in sorted(by_fault.items()) if name == fault)
            + " |"
            for fault, what in FAULTS.items()
        ),
        "",
        "Held." if not findings else "Broken: " + "; ".join(findings) + ".",
    ]
    return findings, "\n".join(lines) + "\n"


def _p99(outcomes: list[Outcome], began_s: float, end_s: float, third: int) -> float:
    low, high = began_s + end_s * third / 3, began_s + end_s * (third + 1) / 3
    return percentile(
        sorted(
            each.latency_s
            for each in outcomes
            if each.fault == "clean" and each.status == "200" and low <= each.due_s <= high
        ),
        0.99,
    )


def _memory(memory: list[tuple[float, int]], end_s: float, third: int) -> float:
    low, high = end_s * third / 3, end_s * (third + 1) / 3
    return statistics.median(rss for at_s, rss in memory if low <= at_s <= high)


def _plot(soak: Soak) -> None:
    minutes = list(enumerate(soak.minutes["minutes"], start=1))
    plot(
        OUT / "soak.png",
        [
            ("p50, ms", [(number, 1000 * each["p50_s"]) for number, each in minutes]),
            ("p99, ms", [(number, 1000 * each["p99_s"]) for number, each in minutes]),
            ("memory, MiB", [(at_s / 60, rss / 2**20) for at_s, rss in soak.memory]),
        ],
        x="minutes",
        y="",
        title="Soak",
    )


@contextlib.contextmanager
def _proxy(upstream: int) -> Iterator[dict[str, int]]:
    """The fault proxy as a process; its ports by fault."""
    ports = dict(zip(FAULTS, free_ports(len(FAULTS)), strict=True))
    argument = json.dumps({"upstream": upstream, "ports": ports})
    process = subprocess.Popen([sys.executable, "-m", "bench.soak.proxy", argument], cwd=ROOT)
    try:
        servers.await_listening(ports.values(), process)
        yield ports
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

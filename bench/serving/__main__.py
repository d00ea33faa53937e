"""`python -m bench.serving`: our predictor beside raw inference and its peers, in one run, in turns.

Writes build/bench/serving.json (every round) and build/bench/serving.md (the tables, also printed). A peer
needs an environment of its own: `--peers` makes those that are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.serving import model, report, requests, servers
from bench.serving.measure import Sample, Stage, exclusive, run_stage
from bench.serving.servers import ROOT, Running, Server, cores

OUT = ROOT / "build" / "bench"
ONE, EIGHT, SIXTY_FOUR, DICOM = "p50 at one client", "8 clients", "64 clients", "from DICOM bytes"


def main(argv: list[str]) -> int:
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    OUT.mkdir(parents=True, exist_ok=True)
    absent = {}
    for peer in servers.PEERS:
        if arguments.peers and (reason := servers.install(peer)):
            absent[peer] = reason
        elif not servers.installed(peer):
            absent[peer] = "not installed: run with --peers"
    samples, startups = _measure(arguments, absent)
    text = _text(samples, startups, absent, arguments)
    (OUT / "serving.md").write_text(text)
    content = {
        "machine": _machine(),
        "arguments": {key: str(value) for key, value in vars(arguments).items()},
        "start_up_s": startups,
        "absent": absent,
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }
    (OUT / "serving.json").write_text(json.dumps(content, indent=1))
    print(text)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument(
        "--peers", action="store_true", help="make the peers' environments where they are missing"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of one measurement, after a second of warm-up"
    )
    parser.add_argument("--starts", type=int, default=5, help="cold starts of our predictor that are timed")
    parser.add_argument(
        "--only", nargs="+", default=[], help="only servers whose name has one of these words"
    )
    parser.add_argument("--stages", nargs="+", default=["1", "8", "64", "dicom"], help="of 1, 8, 64, dicom")
    parser.add_argument(
        "--lock", type=Path, help="hold this file's lock (flock) while measuring, not between"
    )
    return parser.parse_args(argv)


def _measure(arguments: argparse.Namespace, absent: dict[str, str]) -> tuple[list[Sample], list[float]]:
    work = OUT / "serving"
    work.mkdir(exist_ok=True)
    package = model.package(OUT / "models", "densenet121", 224)
    image, scan = model.image(224), model.radiograph(2048)
    np.save(work / "image.npy", image)
    (work / "scan.dcm").write_bytes(scan)
    v2 = requests.write(work, "image", requests.v2(image))
    dicom = requests.write(work, "dicom", requests.v2(image, scan))
    bento = requests.write(work, "bento", requests.bento(image))
    raw = {"onnx": str(package.onnx), "image": str(work / "image.npy"), "streams": 1}
    every = {
        "1": Stage(ONE, 1, arguments.seconds, raw),
        "8": Stage(EIGHT, 8, arguments.seconds, raw | {"streams": cores()}),
        "64": Stage(SIXTY_FOUR, 64, 2 * arguments.seconds, raw | {"streams": cores()}),
        "dicom": Stage(DICOM, 1, arguments.seconds, raw | {"dicom": str(work / "scan.dcm")}),
    }
    log = work / "log"
    offered = [
        servers.ours("Hounsfield, no log", package, v2),
        servers.ours("Hounsfield, log and fsync", package, v2, f"--log_dir={log}", "--log_sync=fsync"),
        servers.kserve_stock(package, v2),
        servers.null(v2),
    ]
    if "mlserver" not in absent:
        offered.append(servers.mlserver(package, v2, work))
    if "bentoml" not in absent:
        offered.append(servers.bentoml(package, bento, work))
    chosen = [
        server
        for server in offered
        if not arguments.only or any(word in server.name for word in arguments.only)
    ]
    startups = _start_ups(offered[0], arguments.starts, work, arguments.lock)
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        running = []
        with exclusive(arguments.lock):
            for server in chosen:
                log_file = work / f"{server.name.replace(' ', '-')}.log"
                running.append(stack.enter_context(Running(server, log_file)))
                running[-1].asleep()
        for number in range(arguments.rounds):
            with exclusive(arguments.lock):
                for key in arguments.stages:
                    for sample in run_stage(every[key], number, _asked(key, running, dicom)):
                        samples.append(sample)
                        _say(sample)
    return samples, startups


def _asked(key: str, running: list[Running], dicom: dict[str, Path]) -> list[tuple[Running, dict[str, Path]]]:
    """Who is asked what: only ours takes DICOM, and the null server is for what the client costs."""
    if key == "dicom":
        return [(each, dicom) for each in running if each.server.name.startswith("Hounsfield")]
    return [(each, each.server.doors) for each in running if key == "1" or each.server.name != "null server"]


def _start_ups(server: Server, count: int, work: Path, lock: Path | None) -> list[float]:
    """Seconds from exec to ready, with a warm page cache: the first start is not counted."""
    seconds = []
    with exclusive(lock):
        for number in range(count + 1 if count else 0):
            with Running(server, work / "start.log") as running:
                if number:
                    seconds.append(running.start_up_s)
    return seconds


def _say(sample: Sample) -> None:
    p50 = "no answer" if sample.p50_s is None else f"p50 {1000 * sample.p50_s:.1f} ms"
    print(
        f"round {sample.round + 1}  {sample.stage:18}  {sample.server:26} {sample.door:12} {p50}, "
        f"{sample.rate_per_s:.1f}/s, {sample.statuses}  (raw p50 {1000 * sample.raw_p50_s:.1f} ms, "
        f"{sample.raw_rate_per_s:.1f}/s)",
        file=sys.stderr,
        flush=True,
    )


def _text(
    samples: list[Sample], startups: list[float], absent: dict[str, str], arguments: argparse.Namespace
) -> str:
    stages = {sample.stage for sample in samples}
    raw = {stage: [s.raw_p50_s for s in samples if s.stage == stage] for stage in stages}
    rate = [s.raw_rate_per_s for s in samples if s.stage in (EIGHT, SIXTY_FOUR)]
    served = [sample for sample in samples if sample.server != "null server"]
    machine = _machine()
    parts = [
        "# Serving, side by side",
        f"DenseNet121, 224 x 224, float32, ONNX Runtime {machine['onnxruntime']} with one thread a run in "
        f"every server; {machine['cores']} cores ({machine['cpu']}) shared by server and client; "
        f"{arguments.rounds} rounds in turns, {arguments.seconds:g} s a measurement (twice that at 64). "
        "Median of the rounds (lowest to highest round), against raw inference in the same round.",
    ]
    if ONE in stages:
        p50_ms = 1000 * statistics.median(raw[ONE])
        parts += [
            f"## p50 at one client; raw inference, one stream = 1.0 ({p50_ms:.1f} ms)",
            report.latency_table(served, ONE),
        ]
    for stage in (EIGHT, SIXTY_FOUR):
        if stage in stages:
            per_s = statistics.median(rate)
            parts += [
                f"## Rate at {stage}; raw inference, one stream a core = 100 % ({per_s:.1f}/s)",
                report.rate_table(served, stage),
            ]
    if SIXTY_FOUR in stages:
        parts += ["## P99 of what was answered at 64 clients", report.tail_table(served, SIXTY_FOUR)]
    if DICOM in stages:
        parts += [
            "## From DICOM bytes, 2048 x 2048 of 16 bits, one client; decode + preprocess + raw in one "
            f"process = 1.0 ({1000 * statistics.median(raw[DICOM]):.1f} ms)",
            report.latency_table(served, DICOM),
        ]
    if any(sample.server == "null server" and sample.stage == ONE for sample in samples):
        parts += [
            "## What the client costs",
            report.client_table([sample for sample in samples if sample.stage == ONE]),
        ]
    if startups:
        parts += [
            "## Start-up",
            f"From exec to `/v2/health/ready`, warm page cache, {len(startups)} times: "
            f"{report.spread(startups, '{:.2f} s')}.",
        ]
    parts += [f"Left out: {peer}: {reason}." for peer, reason in absent.items()]
    return "\n\n".join(parts) + "\n"


def _machine() -> dict[str, str | int]:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    versions = {
        name: importlib.metadata.version(name) for name in ("onnxruntime", "kserve", "grpcio", "uvicorn")
    }
    return {"cpu": cpu, "cores": cores(), "commit": commit.stdout.strip(), **versions}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

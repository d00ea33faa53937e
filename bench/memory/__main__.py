"""`python -m bench.memory`: resident memory over 100,000 requests of every kind, good and bad.

A small model, so that some minutes see what a busy day sends. Writes build/bench/memory.json and memory.png,
prints the curve, and ends with status 1 when memory grew: when its median over the last fifth of the requests
is more than 5 % above that over the second fifth (the first fills caches, arenas and metric series).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import threading
import time

import grpc

from bench.curves import plot
from bench.serving import model, requests, servers
from bench.serving.load import Connection
from bench.serving.servers import ROOT, Running
from hounsfield.config import MODEL_NAME

OUT = ROOT / "build" / "bench"
ALLOWED_GROWTH = 0.05
SIZE_PX = 32


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args(argv)
    work = OUT / "memory"
    work.mkdir(parents=True, exist_ok=True)
    package = model.package(OUT / "models", "pixel-statistics", SIZE_PX)
    server = servers.ours("Hounsfield", package, {}, f"--log_dir={work / f'log-{time.time_ns()}'}")
    curve: list[tuple[int, int]] = []
    with Running(server, work / "server.log") as running:
        seen = _send(running, arguments.requests, arguments.clients, curve)
    second, last = _fifth(curve, arguments.requests, 1), _fifth(curve, arguments.requests, 4)
    growth = last / second - 1
    (OUT / "memory.json").write_text(json.dumps({"rss_bytes": curve, "statuses": seen, "growth": growth}))
    plot(
        OUT / "memory.png",
        [("resident memory", [(done / 1000, rss / 2**20) for done, rss in curve])],
        x="thousand requests",
        y="MiB, server and its decoders",
        title=f"Memory over {arguments.requests:,} requests: {100 * growth:+.1f} %",
    )
    for done, rss in curve[:: max(1, len(curve) // 10)]:
        print(f"{done:>8} requests  {rss / 2**20:7.1f} MiB")
    print(f"answers by status: {dict(sorted(seen.items()))}")
    print(f"second fifth {second / 2**20:.1f} MiB, last fifth {last / 2**20:.1f} MiB: {100 * growth:+.2f} %")
    return int(growth > ALLOWED_GROWTH)


def kinds() -> dict[str, bytes]:
    """HTTP requests by name; what is bad in them is in the name."""
    image = model.image(SIZE_PX)
    v2 = requests.v2(image)
    scan, packed = model.radiograph(64), model.radiograph(64, compressed=True)
    good = requests.v2(image, scan)
    infer = requests.INFER
    feedback = f"/v2/models/{MODEL_NAME}/feedback"
    return {
        "image rest-binary": v2["rest-binary"],
        "image rest-json": v2["rest-json"],
        "dicom rest-binary": good["rest-binary"],
        "dicom rest-json": good["rest-json"],
        "compressed dicom": requests.v2(image, packed)["rest-binary"],
        "not dicom": requests.v2(image, b"PK" + scan[2:2000])["rest-binary"],
        "cut dicom": requests.v2(image, scan[:3000])["rest-binary"],
        "broken json": requests.http(infer, b'{"inputs": [', "application/json"),
        "wrong shape": v2["rest-json"].replace(b'"shape": [1, 1', b'"shape": [2, 1'),
        "unknown model": v2["rest-binary"].replace(MODEL_NAME.encode(), b"x" * len(MODEL_NAME), 1),
        "unknown feedback": requests.http(
            feedback, b'{"request_id": "nobody", "label": "positive"}', "application/json"
        ),
    }


def _send(running: Running, total: int, clients: int, curve: list[tuple[int, int]]) -> dict[str, int]:
    """Send `total` requests from `clients` threads over HTTP and one over gRPC; notes memory on the way."""
    sources = list(kinds().items())
    turns, seen, lock = itertools.count(), {}, threading.Lock()
    server = running.server
    call = requests.v2(model.image(SIZE_PX))["grpc"]

    def note(status: str) -> None:
        with lock:
            seen[status] = seen.get(status, 0) + 1

    def http() -> None:
        connections = [Connection(server.port("http"), request) for _, request in sources]
        while (turn := next(turns)) < total:
            note(connections[turn % len(connections)].ask())

    def over_grpc() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{server.port('grpc')}") as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while (turn := next(turns)) < total:
                try:
                    infer(call if turn % 3 else b"\xff" + call, timeout=60)
                    note("200")
                except grpc.RpcError as error:
                    note(error.code().name)

    threads = [threading.Thread(target=http, daemon=True) for _ in range(clients)]
    threads.append(threading.Thread(target=over_grpc, daemon=True))
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        curve.append((sum(seen.values()), running.rss_bytes()))
        threads[0].join(0.5)
    curve.append((sum(seen.values()), running.rss_bytes()))
    return seen


def _fifth(curve: list[tuple[int, int]], total: int, number: int) -> float:
    """Median memory over the fifth `number` (0 to 4) of the requests."""
    low, high = total * number / 5, total * (number + 1) / 5
    return statistics.median(rss for done, rss in curve if low <= done <= high)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

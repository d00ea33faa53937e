"""What the inference log costs a prediction, beside its peers on the same disk.

    python -m bench.log [--folder DIR] [--seconds 2] [--records 40000]

A record is one as the predictor writes it: 3.4 KB, of which 2.6 are an embedding of 992 float16. Clients are
coroutines on one event loop, as in the predictor; each waits for its record before it sends the next.

- `chain, fdatasync`: the log as it is. `chain, no sync`: the same with `--log_sync none`.
- `no chain, fdatasync`: the same group commit, lines without hashes: what the chain costs.
- `no group`: each record its own write and fdatasync, no chain: what the group commit saves.
- `SQLite`: WAL, synchronous=FULL, one transaction a group by the same writer thread.
- `busy`: the same as the first, while another thread computes in Python and holds the interpreter, with
  Python's turns of 5 ms and with turns of 0.5 ms (`sys.setswitchinterval`).

Run it alone: it measures times.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hounsfield.audit import log as files
from hounsfield.audit.parquet import export
from hounsfield.audit.reader import read
from hounsfield.audit.verification import verify
from hounsfield.serving.inference_log import InferenceLog

CLIENTS = (1, 8, 64)


def record(number: int) -> dict:
    """A record of the size and the fields that the predictor writes."""
    return {
        "kind": "prediction",
        "time": "2026-11-21T14:30:00.123456Z",
        "request_id": f"5b9f7c1e-3a52-4c1e-9d3a-{number:012d}",
        "instance": 0,
        "caller": "radiology-worklist",
        "study": "9f2c4b1d77aa0e35",
        "shadow": False,
        "door": "grpc",
        "model_name": "opacity",
        "model_version": "3",
        "package_digest": "a" * 64,
        "contract_digest": "b" * 64,
        "input_kind": "dicom",
        "input_sha256": "c" * 64,
        "probability": 0.73125,
        "label": "positive",
        "review_required": False,
        "refusal": "",
        "latency_s": 0.03125,
        "embedding": EMBEDDING,
        "subgroups": {
            "patient_sex": "F",
            "age_band": "40-64",
            "view_position": "PA",
            "manufacturer": "other",
        },
    }


EMBEDDING = base64.b64encode(os.urandom(2 * 992)).decode()


class PlainWriter:
    """Lines without a chain, in one file; a record a sync where `group` is False."""

    def __init__(self, folder: Path, group: bool) -> None:
        self._file = (folder / "plain").open("ab", buffering=0)
        self._group, self._end = group, 0

    def commit(self, records: list[bytes]) -> None:
        for content in [b"\n".join(records)] if self._group else records:
            files.write_whole(self._file, content + b"\n", self._end)
            self._end += len(content) + 1

    def close(self) -> None:
        self._file.close()


class SqliteWriter:
    """One table, one transaction a group."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "log.sqlite", check_same_thread=False, isolation_level=None)
        self._database.execute("pragma journal_mode=wal")
        self._database.execute("pragma synchronous=full")
        self._database.execute("create table log (sequence integer primary key, record blob)")

    def commit(self, records: list[bytes]) -> None:
        self._database.execute("begin")
        self._database.executemany("insert into log (record) values (?)", [(item,) for item in records])
        self._database.execute("commit")

    def close(self) -> None:
        self._database.close()


PEERS: dict[str, Callable[[Path], InferenceLog]] = {
    "chain, fdatasync": lambda folder: InferenceLog(folder),
    "chain, no sync": lambda folder: InferenceLog(folder, sync=False),
    "no chain, fdatasync": lambda folder: _with(PlainWriter(folder, group=True), folder),
    "no chain, no group": lambda folder: _with(PlainWriter(folder, group=False), folder),
    "SQLite": lambda folder: _with(SqliteWriter(folder), folder),
    "busy, turns of 5 ms": lambda folder: InferenceLog(folder),
    "busy, turns of 0.5 ms": lambda folder: InferenceLog(folder),
}


def _with(writer, folder: Path) -> InferenceLog:
    """The inference log's thread and futures in front of another writer."""
    log = InferenceLog(folder)
    log._writer.close()
    log._writer = writer
    return log


async def _clients(log: InferenceLog, count: int, seconds: float) -> list[float]:
    """Latencies (s) of the commits of `count` clients during `seconds`."""
    latencies: list[float] = []

    async def client() -> None:
        number = 0
        while (started := time.perf_counter()) < end:
            await log.commit([record(number)])
            latencies.append(time.perf_counter() - started)
            number += 1

    end = time.perf_counter() + seconds
    await asyncio.gather(*(client() for _ in range(count)))
    return latencies


def _busy(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(10_000))


def _latency_table(folder: Path, seconds: float) -> None:
    columns = f"{'clients':>8}{'p50':>8}{'p99':>8}{'records/s':>11}{'CPU us/record':>15}"
    print(f"{'commit latency, ms':<24}{columns}")
    for name, make in PEERS.items():
        for count in CLIENTS:
            place = folder / "latency"
            place.mkdir()
            sys.setswitchinterval(0.0005 if "0.5" in name else 0.005)
            stop = threading.Event()
            other = threading.Thread(target=_busy, args=(stop,))
            with make(place) as log:
                asyncio.run(_clients(log, count, 0.2))
                if name.startswith("busy"):
                    other.start()
                cpu_s, started = time.process_time(), time.perf_counter()
                latencies = asyncio.run(_clients(log, count, seconds))
                wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
                stop.set()
            ms = sorted(1000 * item for item in latencies)
            cpu = "" if name.startswith("busy") else f"{1e6 * cpu_s / len(ms):.0f}"
            print(
                f"{name:<24}{count:>8}{statistics.median(ms):>8.2f}{ms[int(0.99 * len(ms))]:>8.2f}"
                f"{len(ms) / wall_s:>11.0f}{cpu:>15}"
            )
            shutil.rmtree(place)


def _throughput(folder: Path, records: int) -> None:
    """Records handed over as fast as the log takes them, without an event loop; then read back."""
    items = [record(number) for number in range(1000)]
    place = folder / "throughput"
    for name in ("chain, fdatasync", "chain, no sync", "no chain, fdatasync"):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        cpu_s, started = time.process_time(), time.perf_counter()
        with PEERS[name](place) as log:
            for _ in range(records // 1000):
                for future in [log.append([item]) for item in items]:
                    future.result()
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
        cpu_us = 1e6 * cpu_s / records
        print(f"{name:<24}{records / wall_s:>10.0f} records/s {cpu_us:>8.1f} us of CPU a record")
    shutil.rmtree(place)
    with InferenceLog(place, sync=False) as log:
        for _ in range(records // 1000):
            for future in [log.append([item]) for item in items]:
                future.result()
    size = sum(path.stat().st_size for path in place.glob("*.jsonl"))
    for name, step in (
        ("verify", lambda: verify(place)),
        ("follow", lambda: sum(1 for _ in read(place))),
        ("export to Parquet", lambda: export(place, folder / "parquet")),
        ("start (check the end)", lambda: InferenceLog(place).close()),
    ):
        started = time.perf_counter()
        step()
        wall_s = time.perf_counter() - started
        rate = f"{records / wall_s:>10.0f} records/s {size / wall_s / 1e6:>8.0f} MB/s"
        print(f"{name:<24}{f'{wall_s:>10.2f} s' if name.startswith('start') else rate}")
    print(f"{'on the disk':<24}{size / records:>10.0f} bytes a record")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.log", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--seconds", type=float, default=2.0, help="a measurement (default: 2)")
    parser.add_argument("--records", type=int, default=40_000, help="for the throughput (default: 40000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-log-", dir=arguments.folder) as folder:
        _throughput(Path(folder), arguments.records)
        print()
        _latency_table(Path(folder), arguments.seconds)


if __name__ == "__main__":
    main()

"""How much memory: ingest of more and more files, each run in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from bench.curves import plot
from bench.ingest.files import OUT, many
from bench.ingest.speed import ingest_all

LARGEST_GROWTH = 0.25


def memory(counts: list[int]) -> int:
    """One run a count; status 1 when the last one needs much more than the first."""
    curves, peaks = [], []
    for count in counts:
        source = many(OUT / f"many-{count}", count)
        reader, writer = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=_measured, args=(source, writer))
        process.start()
        points, took_s = reader.recv()
        process.join()
        shutil.rmtree(source)
        peaks.append(max(rss for _, rss in points))
        curves.append((f"{count:,} files", [(at, rss / 2**20) for at, rss in points]))
        print(
            f"| {count:,} | {peaks[-1] / 2**20:.0f} MiB | {took_s:.0f} s | {count / took_s:.0f} |", flush=True
        )
    growth = peaks[-1] / peaks[0] - 1
    title = (
        f"Memory of ingest, all processes: {100 * growth:+.0f} % from {counts[0]:,} to {counts[-1]:,} files"
    )
    plot(OUT / "ingest-memory.png", curves, x="share of the run", y="MiB", title=title)
    (OUT / "ingest-memory.json").write_text(
        json.dumps({"peaks_bytes": dict(zip(counts, peaks, strict=True))})
    )
    print(title)
    return int(growth > LARGEST_GROWTH)


def _measured(source: Path, writer) -> None:
    import psutil

    points: list[tuple[float, int]] = []
    ended = threading.Event()
    own = psutil.Process(os.getpid())
    began_s = time.monotonic()

    def watch() -> None:
        while not ended.wait(0.25):
            total = 0
            for one in (own, *own.children(recursive=True)):
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
            points.append((time.monotonic() - began_s, total))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  progress lines
        sys.stdout = nowhere
        ingest_all(source)
    ended.set()
    watcher.join()
    took_s = time.monotonic() - began_s
    writer.send(([(at / took_s, rss) for at, rss in points], took_s))

"""Replay a folder of DICOM files through a served model, over and over: a hospital's day on a laptop."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from hounsfield.config import MODEL_NAME
from hounsfield.errors import DataError, ServingError
from hounsfield.serving.client import predict_bytes


def replay(
    url: str, folder: Path, clients: int, stop: threading.Event, model_name: str = MODEL_NAME
) -> Counter:
    """Send files until `stop` is set, from `clients` threads; return how often each model version answered.

    An answer with an error counts under `error`: the servers count it too, and the rollout reads it there.
    """
    files = sorted(folder.rglob("*.dcm"))
    if not files:
        raise DataError(f"{folder} holds no .dcm file: name a folder of DICOM images")
    contents = [file.read_bytes() for file in files]
    turns, lock, answered = itertools.count(), threading.Lock(), Counter()

    def send() -> None:
        while not stop.is_set():
            try:
                version = predict_bytes(url, contents[next(turns) % len(contents)], model_name)[
                    "model_version"
                ]
            except ServingError:
                version = "error"
                stop.wait(0.2)  # a server that is restarting is not helped by a tight loop
            with lock:
                answered[version] += 1

    threads = [threading.Thread(target=send, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    return answered


def run(url: str, folder: Path, clients: int, seconds: float | None) -> int:
    """Replay for `seconds`, or until a signal when None, and print which version answered how often."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if seconds is not None:
        threading.Timer(seconds, stop.set).start()
    began_s = time.monotonic()
    answered = replay(url, folder, clients, stop)
    total, elapsed_s = sum(answered.values()), time.monotonic() - began_s
    print(f"{total} requests in {elapsed_s:.1f} s ({total / elapsed_s:.0f}/s)")
    for version, count in sorted(answered.items()):
        name = "errors" if version == "error" else f"version {version}"
        print(f"  {name}: {count} ({100 * count / max(total, 1):.1f} %)")
    return 1 if answered["error"] else 0

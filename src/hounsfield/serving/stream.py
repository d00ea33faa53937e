"""Replay a folder of DICOM files through a served model, over and over: a hospital's day on a laptop.

Each time round the files are other studies. With the same ones a canary of a few percent would see the same
few pictures for ever, or none: of 50 studies the chance that none falls into 5 % is 8 %.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hounsfield.errors import DataError, ServingError
from hounsfield.serving.client import AnsweredError, Client, study_token

ERROR, TURNED_AWAY = "error", "turned away"
_AFTER_AN_ERROR_S = 0.2  # a server that is restarting is not helped by a tight loop
_LONGEST_WAIT_S = 60.0


def replay(connect: Callable[[], Client], folder: Path, clients: int, stop: threading.Event) -> Counter:
    """Send files until `stop` is set, from `clients` threads; return how often each model version answered.

    `connect` makes each thread its own Client. An answer with an error counts under `error`: the servers
    count it too, and the rollout reads it there. A 429 or 503 that says when to come back counts as
    `turned away`, and the thread does come back then.
    """
    files = sorted(folder.rglob("*.dcm"))
    if not files:
        raise DataError(f"{folder} holds no .dcm file: name a folder of DICOM images")
    contents = [file.read_bytes() for file in files]
    studies = [study_token(content) for content in contents]
    turns, lock, answered = itertools.count(), threading.Lock(), Counter()

    def send() -> None:
        with connect() as client:
            while not stop.is_set():
                day, turn = divmod(next(turns), len(contents))
                study = f"{studies[turn]}-{day}" if studies[turn] else ""
                outcome, wait_s = _ask(client, contents[turn], study)
                with lock:
                    answered[outcome] += 1
                if wait_s:
                    stop.wait(wait_s)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    return answered


def _ask(client: Client, content: bytes, study: str) -> tuple[str, float]:
    """The model version that answered, or what came instead, and seconds to wait before the next."""
    try:
        return client.predict(content, study)["model_version"], 0.0
    except AnsweredError as error:
        if error.status in (429, 503) and error.retry_after_s is not None:
            return TURNED_AWAY, min(error.retry_after_s, _LONGEST_WAIT_S)
        return ERROR, _AFTER_AN_ERROR_S
    except ServingError:
        return ERROR, _AFTER_AN_ERROR_S


def run(connect: Callable[[], Client], folder: Path, clients: int, seconds: float | None) -> int:
    """Replay for `seconds`, or until a signal when None, and print which version answered how often."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if seconds is not None:
        threading.Timer(seconds, stop.set).start()
    began_s = time.monotonic()
    answered = replay(connect, folder, clients, stop)
    total, elapsed_s = sum(answered.values()), time.monotonic() - began_s
    print(f"{total} requests in {elapsed_s:.1f} s ({total / elapsed_s:.0f}/s)")
    names = {ERROR: "errors", TURNED_AWAY: "turned away, asked again later"}
    for version, count in sorted(answered.items()):
        name = names.get(version, f"version {version}")
        print(f"  {name}: {count} ({100 * count / max(total, 1):.1f} %)")
    return 1 if answered[ERROR] else 0

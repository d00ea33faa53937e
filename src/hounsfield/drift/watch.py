"""Watch the stream: `python -m hounsfield.drift.watch --logs folder --state folder` (guard environment).

Follows the inference logs, after the fact and in a process of its own: no request ever waits for it. Every
`--window` answered predictions of a model, each picture once, are tested by that model's detectors. What is
said: metrics for Prometheus, and one JSON line a window.

Several logs (pods of one model) are read in turn. How many records each had at that moment decides which
images share a window, so windows over several logs depend on timing; over one log they do not.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hounsfield.audit.reader import BEGINNING, backlog, read
from hounsfield.drift import packaged
from hounsfield.drift.detectors import Detectors
from hounsfield.drift.kinds import kinds
from hounsfield.drift.metrics import Metrics, serve
from hounsfield.drift.state import load_state, save_state
from hounsfield.drift.stream import NO_DETECTORS, REPEATED, TAKEN, Image, ModelStream, read_prediction
from hounsfield.errors import AuditError, ConfigError, GuardError, HounsfieldError, PlatformError

WINDOW = 100
MIN_WINDOW = 20
_SAVE_EVERY = 2000  # records: what is read again after a kill


class Watcher:
    """One worker. `step` reads what is there; `state` is on the disk after each."""

    def __init__(self, logs: Path, state: Path, window: int, metrics: Metrics) -> None:
        self._logs, self._state_folder, self._window, self._metrics = logs, state, window, metrics
        self._detectors: dict[str, Detectors | None] = {}
        self._said: dict[str, str] = {}
        self.state = load_state(state)
        for outcome, count in self.state.predictions.items():
            metrics.count(outcome, count)
        for model in self.state.models.values():
            name, version = model.model_name, model.model_version
            metrics.count_windows(name, version, model.windows)
            metrics.set_filling(name, version, len(model.images))
            if model.last:
                metrics.set_result(name, version, model.last["detectors"])

    def step(self, stop: threading.Event | None = None) -> int:
        """Read each log to its end and test the windows that fill up; returns how many records were read."""
        done, failed, lag = 0, 0, 0
        for log in _find_logs(self._logs):
            name = log.relative_to(self._logs).as_posix()
            try:
                done += self._read(log, name, stop)
                lag += backlog(log, self.state.cursors.get(name, BEGINNING))
                self._said.pop(name, None)
            except (AuditError, OSError) as error:
                failed += 1
                self._say_once(name, error)
            if stop is not None and stop.is_set():
                break
        self._metrics.set_logs(lag, failed)
        return done

    def _read(self, log: Path, name: str, stop: threading.Event | None) -> int:
        done = 0
        cursor = self.state.cursors.get(name, BEGINNING)
        try:
            for record, after in read(log, cursor):
                self._take(log, record)
                self.state.cursors[name] = after
                done += 1
                if done % _SAVE_EVERY == 0:
                    self._save()
                if stop is not None and stop.is_set():
                    break
        finally:
            if done:
                self._save()
        return done

    def _take(self, log: Path, record: dict[str, Any]) -> None:
        image = read_prediction(record)
        if image is None:
            return
        outcome = image if isinstance(image, str) else self._add(log, record, image)
        self.state.predictions[outcome] += 1
        self._metrics.count(outcome)

    def _add(self, log: Path, record: dict[str, Any], image: Image) -> str:
        digest = str(record.get("package_digest"))
        if packaged.find(log, digest) is None:
            return NO_DETECTORS
        name, version = str(record.get("model_name")), str(record.get("model_version"))
        model = self.state.model(digest, name, version)
        if not model.add(image):
            return REPEATED
        if len(model.images) >= self._window:
            self._test(log, digest, model)
        self._metrics.set_filling(name, version, len(model.images))
        return TAKEN

    def _test(self, log: Path, digest: str, model: ModelStream) -> None:
        result = None
        try:
            if digest not in self._detectors:
                self._detectors[digest] = packaged.load(packaged.find(log, digest), digest)
            found = self._detectors[digest].test(model.rows())
            result = {name: answer.as_dict() for name, answer in found.items()}
        except (GuardError, ValueError) as error:
            # Detectors that were tampered with, or that do not fit: said, and the stream goes on.
            _say({"event": "window_failed", "package_digest": digest, "error": _sentence(error)})
        if result is not None:
            line = {
                "event": "window",
                "model_name": model.model_name,
                "model_version": model.model_version,
                "package_digest": digest,
                "window": model.windows + 1,
                "images": len(model.images),
                "first": model.images[0].time,
                "last": model.images[-1].time,
                "is_drift": any(answer["is_drift"] for answer in result.values()),
                "kinds": list(kinds(found)),
                "detectors": result,
            }
            # Before the state is saved: after a kill a line may come again, by its number, but none is lost.
            _say(line)
            self._metrics.count_windows(model.model_name, model.model_version)
            self._metrics.set_result(model.model_name, model.model_version, result)
            result = line
        model.close_window(result)

    def _save(self) -> None:
        save_state(self._state_folder, self.state)

    def _say_once(self, name: str, error: Exception) -> None:
        if self._said.get(name) != str(error):
            self._said[name] = str(error)
            _say({"event": "log_failed", "log": name, "error": _sentence(error)})


def _find_logs(folder: Path) -> list[Path]:
    """`folder` itself, or the folders in it, that hold a chained log."""
    return [each for each in (folder, *sorted(folder.glob("*/"))) if (each / "HEAD").is_file()]


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line, sort_keys=True), flush=True)


def _sentence(error: Exception) -> str:
    """Our own sentences may be shown; those of a library may quote data."""
    return str(error) if isinstance(error, HounsfieldError) else type(error).__name__


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hounsfield.drift.watch", description="Watch inference logs for drift.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--logs", type=Path, required=True, help="an inference log, or a folder of several")
    add("--state", type=Path, required=True, help="folder of the worker's own, kept over restarts")
    add("--window", type=int, default=WINDOW, help=f"predictions a test (at least {MIN_WINDOW}, {WINDOW})")
    add("--host", default="0.0.0.0", help="address to listen on; 127.0.0.1 on a laptop")  # noqa: S104
    add("--port", type=int, default=9090, help="of /metrics and /ready; 0 takes a free one")
    add("--poll_s", type=float, default=1.0, help="pause when the logs are read to their end")
    add("--once", action="store_true", help="read what is there, then end; listens on no port")
    options = parser.parse_args(arguments)
    if options.window < MIN_WINDOW:
        parser.error(f"--window is {options.window}; fewer than {MIN_WINDOW} predictions tell too little")
    if not 0 < options.poll_s < 3600:
        parser.error(f"--poll_s is {options.poll_s}; it must be a number of seconds above 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when a first window imports it
    try:
        with _state_folder(options.state):
            _watch(options)
    except HounsfieldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _watch(options: argparse.Namespace) -> None:
    metrics, stop = Metrics(), threading.Event()
    watcher = Watcher(options.logs, options.state, options.window, metrics)
    if options.once:
        watcher.step()
        return
    os.nice(10)  # on a machine shared with a predictor, the predictor's work comes first
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = serve(metrics, options.host, options.port)
    try:
        _say({"event": "listening", "port": server.server_address[1]})
        while not stop.is_set():
            if not watcher.step(stop):
                stop.wait(options.poll_s)
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _state_folder(folder: Path) -> Iterator[None]:
    """The folder, made and ours alone: two workers with one state would each undo the other's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise PlatformError(f"the state folder {folder} cannot be used: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another drift worker uses the state folder {folder}; stop it first") from None
        yield


if __name__ == "__main__":
    sys.exit(main())

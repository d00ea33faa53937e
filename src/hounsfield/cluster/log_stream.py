"""The log of a job's first pod, line by line, across broken connections, restarts and replaced pods."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator

import urllib3
from kubernetes import client

from hounsfield.cluster.connection import REQUEST_TIMEOUT_S, Connection

_QUIET_S = 60.0
"""Reading again after so long without a line, in case the connection died without a word."""

_SENTENCE = re.compile(r"^(?:hounsfield train: )?error: (?P<said>.+)$")
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?!ChildFailedError)\w+(?:Error|Exception)\b.*$")


class LastWords:
    """What a failed training said: the sentence of a HounsfieldError, else the first exception."""

    def __init__(self) -> None:
        self.sentence: str | None = None
        self.exception: str | None = None

    def hear(self, line: str) -> None:
        said = _SENTENCE.match(line)
        self.sentence = self.sentence or (said["said"] if said else None)
        self.exception = self.exception or (line.strip() if _EXCEPTION.match(line) else None)

    @property
    def said(self) -> str | None:
        return self.sentence or self.exception


class LogStream:
    """Follow the log of one container in a thread; each line once, in order.

    Lines come with the kubelet's timestamps, so that after a break those already seen are left out. `on_line`
    is called in the thread. A log that cannot be read is no reason to fail: the job's state decides.
    """

    def __init__(
        self,
        connection: Connection,
        container: str,
        on_line: Callable[[str], None],
        pause_s: float = 1.0,
    ) -> None:
        self._core, self._namespace = connection.core(), connection.namespace
        self._container, self._on_line = container, on_line
        self._ending = threading.Event()
        self._pause_s = pause_s
        self._pod: str | None = None
        self._last = ""
        self._thread: threading.Thread | None = None
        self.words = LastWords()

    def follow(self, pod: str) -> None:
        """Start, with the first call; `pod` is the pod to read from now on."""
        self._pod = pod
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="job-log", daemon=True)
            self._thread.start()

    def end(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Read what is left, for at most `timeout_s`; call when the job has ended."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._read(follow=True)
            self._ending.wait(self._pause_s)
        self._read(follow=False)

    def _read(self, follow: bool) -> None:
        with contextlib.suppress(client.ApiException, urllib3.exceptions.HTTPError, OSError):
            answer = self._core.read_namespaced_pod_log(
                self._pod,
                self._namespace,
                container=self._container,
                follow=follow,
                timestamps=True,
                _preload_content=False,
                _request_timeout=(REQUEST_TIMEOUT_S, _QUIET_S),
            )
            try:
                for line in _lines(answer):
                    stamp, _, text = line.partition(" ")
                    if stamp > self._last:  # of fixed width, so that text compares as time
                        self._last = stamp
                        self.words.hear(text)
                        self._on_line(text)
            finally:
                answer.close()


def _lines(answer: urllib3.HTTPResponse) -> Iterator[str]:
    """Whole lines; one that a broken connection cut is read again the next time."""
    rest = b""
    for chunk in answer.stream(4096, decode_content=False):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", errors="replace")
    if rest:  # the stream ended well: the container's last line had no newline
        yield rest.decode("utf-8", errors="replace")

"""Progress as lines, so that it is readable in a pod's log and can be drawn as a bar on a terminal.

A step prints `[progress] ingest 400/1200 files`; `pipelines/run.py` turns such lines into a bar.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

_LINE = re.compile(r"^\[progress\] (?P<label>\S+) (?P<done>\d+)/(?P<total>\d+) ?(?P<note>.*)$")


@dataclass(frozen=True)
class Progress:
    label: str
    done: int
    total: int
    note: str


class Reporter:
    """Print at most one progress line every `interval_s` seconds, and always the last one."""

    def __init__(self, label: str, total: int, interval_s: float = 0.5) -> None:
        self.label, self.total, self.interval_s = label, total, interval_s
        self._last_s = float("-inf")

    def update(self, done: int, note: str = "") -> None:
        now_s = time.monotonic()
        if done < self.total and now_s - self._last_s < self.interval_s:
            return
        self._last_s = now_s
        print(f"[progress] {self.label} {done}/{self.total} {note}".rstrip(), flush=True)


def parse(line: str) -> Progress | None:
    """The progress that `line` reports, or None when it is an ordinary line."""
    match = _LINE.match(line.rstrip("\n"))
    if match is None:
        return None
    return Progress(match["label"], int(match["done"]), int(match["total"]), match["note"])

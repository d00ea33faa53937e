"""What a person sees of a pipeline run: one line a step and a bar, instead of the executor's log.

`kfp.local` prints everything that a step prints to this process's standard output. `StepOutput` takes
the place of that stream: the whole log goes to a file, the progress lines to a bar, and the sentence of
a step that failed is kept for the end.
"""

from __future__ import annotations

import io
import re
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hounsfield import progress

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BEGUN = re.compile(r"Executing task '(?P<task>[^']+)'")
_ENDED = re.compile(r"Task '(?P<task>[^']+)' finished with status (?P<status>\w+)")
_CACHED = re.compile(r"Task (?P<task>\S+) cache hit")
_OURS = re.compile(r"^hounsfield\.errors\.\w+: (?P<said>.+)$")
_OTHERS = re.compile(r"^(?P<said>(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)$")


class StepOutput(io.TextIOBase):
    """A text stream that writes `log` and draws the steps on `console`."""

    def __init__(self, console: Console, log: TextIO) -> None:
        self.console, self.log = console, log
        self.failure: str | None = None
        """The sentence of the step that failed, if one has."""
        self.finished: list[str] = []
        self.cached: list[str] = []
        self._rest = ""
        self._began_s = time.monotonic()
        self._printed_percent = -100.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = None

    def __enter__(self) -> StepOutput:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self.log.flush()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        self.log.flush()

    def _take(self, line: str) -> None:
        plain = _COLOUR.sub("", line)
        self.log.write(plain + "\n")
        state = progress.parse(plain.strip())
        if state is not None:
            self._draw(state)
        elif match := _BEGUN.search(plain):
            self._begin(match["task"])
        elif match := _CACHED.search(plain):
            self.cached.append(match["task"])
        elif match := _ENDED.search(plain):
            self._end(match["task"], match["status"])
        elif match := _OURS.match(plain.strip()) or _OTHERS.match(plain.strip()):
            self.failure = match["said"]

    def _begin(self, task: str) -> None:
        self._began_s, self._printed_percent = time.monotonic(), -100.0
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(task, total=1, note="")
        if not self.console.is_terminal:
            self.console.print(f"  {task} ...")

    def _draw(self, state: progress.Progress) -> None:
        if self._task is None:
            self._task = self._bar.add_task(state.label, total=1, note="")
        self._bar.update(self._task, completed=state.done, total=max(state.total, 1), note=state.note)
        percent = 100 * state.done / max(state.total, 1)
        # Without a terminal there is no bar: a line each quarter tells that it moves.
        if not self.console.is_terminal and (percent - self._printed_percent >= 25):
            self._printed_percent = percent
            self.console.print(
                f"    {state.label} {state.done}/{state.total} {state.note}".rstrip(), highlight=False
            )

    def _end(self, task: str, status: str) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        elapsed_s = time.monotonic() - self._began_s
        if status == "SUCCESS":
            self.finished.append(task)
            self.console.print(f"  [green]ok[/] {task:<12} {elapsed_s:5.1f} s", highlight=False)
        else:
            self.console.print(f"  [red]failed[/] {task} after {elapsed_s:.1f} s", highlight=False)

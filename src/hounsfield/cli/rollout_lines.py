"""What a person sees of a rollout while it runs: a line for each thing that happens, said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hounsfield.rollout.controller import Event


def rollout_lines(write: Callable[[str], None]) -> Callable[[Event], None]:
    """A listener for `run_canary` that writes one line an event.

    A verdict that is the last one again, while the canary waits for a person or for requests, is not said
    again; `hounsfield rollout status --watch` shows each look.
    """
    last = ""

    def listen(event: Event) -> None:
        nonlocal last
        line = f"{event.weight:3d} %  {event.message}"
        if event.kind == "approval_wanted":
            line += " (hounsfield rollout approve)"
        if line != last:
            write(line)
        last = line

    return listen

"""`hounsfield outcomes add`: labels that came in days later.

Exit code 0: added. 3: added, and they took the champion back. 2: the file is wrong, and nothing was added.
"""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Callable
from pathlib import Path

from hounsfield.config import Home

TAKEN_BACK = 3
_MOST_NAMED = 10


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    add = command(
        commands,
        "add",
        _add,
        "add a CSV file of labels (request_id or study, label) to the rollout's ledger; the same file again "
        "changes nothing",
        "hounsfield outcomes add labels.csv",
    )
    add.add_argument("file", type=Path, help="columns: label; request_id and instance, or study")
    add.add_argument("--by", default=None, help="who adds them (default: the name of your account)")


def _add(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from hounsfield.laptop.outcomes import add_outcomes

    with Console(stderr=True).status("reading the inference logs") as status:
        result = add_outcomes(
            Home.at(arguments.home),
            arguments.file,
            arguments.by or getpass.getuser(),
            on_progress=lambda records: status.update(f"reading the inference logs: {records} records"),
        )
    added = result.added
    print(f"{added.rows} labels: {added.new} added, {added.known} known before", end="")
    print(f", {len(added.unmatched)} without a prediction in the logs" if added.unmatched else "")
    if added.unmatched:
        rows = ", ".join(map(str, added.unmatched[:_MOST_NAMED]))
        print(f"without a prediction: rows {rows}{' ...' if len(added.unmatched) > _MOST_NAMED else ''}")
    if result.late is None:
        print("champion: no rollout compares it with the one before by these labels")
        return 0
    verdict = result.late.verdict
    print(f"champion: {verdict['decision']}: {'; '.join(verdict['reasons'])}")
    if result.restored is not None:
        print(f"version {result.restored} is champion again")
        return TAKEN_BACK
    return 0

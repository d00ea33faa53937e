"""`hounsfield rollout ...`: what a rollout does, did, and whether its ledger holds.

Exit code 0: as it should be. 1: the ledger does not hold what was written, and the sentence names the record.
2: the command could not be carried out.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hounsfield.cli import approvals, rollout_gate, rollout_run
from hounsfield.config import Home
from hounsfield.errors import RolloutError

if TYPE_CHECKING:
    from rich.console import Group

    from hounsfield.rollout.ledger import Ledger, Story


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    verify = command(
        commands,
        "verify",
        _verify,
        "find an edited, dropped, added or moved record of the ledger, also off its end",
        "hounsfield rollout verify --head 547f2ea9...",
    )
    replay = command(
        commands,
        "replay",
        _replay,
        "work every verdict out again from the ledger's observations, and compare to the bit",
        "hounsfield rollout replay ledger.jsonl",
    )
    verify.add_argument(
        "--head", metavar="HASH", help="a head that verify printed before: it must be held still"
    )
    for parser in (verify, replay):
        parser.add_argument("ledger", type=Path, nargs="?", help="default: the ledger of the home folder")

    status = command(
        commands, "status", _status, "where the last rollout stands", "hounsfield rollout status --watch"
    )
    status.add_argument("--watch", action="store_true", help="follow it until it ends")

    approvals.add_commands(commands, command)
    rollout_gate.add_commands(commands, command)
    rollout_run.add_commands(commands, command)


def _ledger(arguments: argparse.Namespace) -> Ledger:
    from hounsfield.rollout.ledger import Ledger

    path = getattr(arguments, "ledger", None) or Home.at(arguments.home).ledger
    if not path.exists():
        raise RolloutError(f"there is no ledger {path}: no rollout has been run")
    return Ledger(path)


def _verify(arguments: argparse.Namespace) -> None:
    from hounsfield.audit import log
    from hounsfield.rollout import repository

    ledger, tree = _ledger(arguments), Home.at(arguments.home).tree
    head = log.verify(ledger.path, arguments.head)
    print(f"{ledger.path}: {head.count} records, the chain holds; its head is {head.hash}")
    if arguments.ledger is None and (tree / ".git").is_dir():
        anchors = repository.ledger_anchors(tree)
        ledger.check_anchors(anchors)
        print(f"{tree}: {len(anchors)} commits name a record of it, and it holds them all")


def _replay(arguments: argparse.Namespace) -> None:
    from hounsfield.rollout.ledger import replay_ledger

    ledger = _ledger(arguments)
    print(f"{ledger.path}: {replay_ledger(ledger)} verdicts follow from their observations, to the bit")


def _status(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.live import Live

    from hounsfield.audit.chain import ChainError

    console, ledger = Console(), _ledger(arguments)
    story = _last(ledger)
    if not arguments.watch:
        console.print(_picture(story))
        return
    with Live(_picture(story), console=console, refresh_per_second=4) as live:
        failed = 0
        while story.outcome is None:
            time.sleep(0.5)
            try:
                story, failed = _last(ledger), 0
            except ChainError:  # a record that is just being written is whole at the next look
                failed += 1
                if failed > 3:
                    raise
            live.update(_picture(story))


def _last(ledger: Ledger) -> Story:
    stories = ledger.stories()
    if not stories:
        raise RolloutError(f"the ledger {ledger.path} has no rollout yet")
    return stories[-1]


def _picture(story: Story) -> Group:
    """The step, the last verdict and its reasons, and a line a guardrail."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    revisions = f"canary {story.revisions['canary'][:12]} beside stable {story.revisions['stable'][:12]}"
    if not story.verdicts:
        return Group(Text(f"rollout of {revisions}: no look yet"))
    last = story.verdicts[-1]
    verdict, numbers = last["verdict"], last["verdict"]["numbers"]
    where = "in the shadow" if last["shadow"] else f"at {last['weight']} %"
    where += " and the first callers" if last.get("first") else ""
    title = Text(f"rollout of {revisions}\n")
    title.append(f"{where}, {numbers['elapsed_s']:.0f} s, {numbers['looks']} looks: ", style="bold")
    title.append(story.outcome or verdict["decision"], style="bold")
    table = Table(pad_edge=False)
    for name, justify in (
        ("guardrail", "left"), ("group", "left"), ("canary", "right"), ("stable", "right"),
        ("margin", "right"), ("proof", "left"), ("harm", "right"), ("standing", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)
    for found in verdict["findings"]:
        table.add_row(
            found["guardrail"].replace("_", " "),
            found["group"],
            _share(found["canary_bad"], found["canary_total"]),
            _share(found["stable_bad"], found["stable_total"]),
            f"{found['margin']:.1%}",
            _bar(found["proof"] / numbers["proof_wanted"]),
            f"{math.exp(min(found['harm'], 50)):.2g}",
            found["standing"],
        )
    harm, wanted = (math.exp(min(numbers[key], 50)) for key in ("harm", "harm_wanted"))
    reasons = [Text(f"- {reason}") for reason in verdict["reasons"]]
    for record in story.late:
        said = record["verdict"]
        reasons.append(Text(f"labels since: {said['decision']}: {'; '.join(said['reasons'])}"))
    return Group(title, table, Text(f"evidence of harm over all: {harm:.2g} of {wanted:.0f}"), *reasons)


def _share(bad: int, total: int) -> str:
    return f"{bad}/{total} {bad / total:.1%}" if total else "none"


def _bar(part: float) -> str:
    full = round(10 * min(max(part, 0.0), 1.0))
    return "#" * full + "." * (10 - full)

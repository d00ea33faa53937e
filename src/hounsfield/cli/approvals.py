"""`hounsfield rollout approver | sign-off | approve`: approvals that their approver's key has signed."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from hounsfield.config import Home
from hounsfield.errors import RolloutError


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    approver = command(
        commands,
        "approver",
        _approver,
        "make an approver's key, and print what the policy lists them by",
        "hounsfield rollout approver ~/keys/ada.key",
    )
    approver.add_argument("key", type=Path, help="the new private key: keep it, and keep it to yourself")

    sign_off = command(
        commands,
        "sign-off",
        _sign_off,
        "sign an approval where the ledger is not; whoever runs the rollout records it with approve --entry",
        "hounsfield rollout sign-off --digest 041310eb... --step 50 --key ~/keys/ada.key > ada.json",
    )
    sign_off.add_argument("--digest", required=True, help="the package that you have looked at")

    approve = command(
        commands,
        "approve",
        _approve,
        "let the canary go on from a step that waits for a person",
        "hounsfield rollout approve --step 25 --key ~/keys/ada.key",
    )
    for parser in (sign_off, approve):
        parser.add_argument(
            "--step", "--weight", dest="step", required=True, help="the step's percent, or shadow, or first"
        )
    sign_off.add_argument("--key", type=Path, required=True, help="the approver's private key")
    by = approve.add_mutually_exclusive_group(required=True)
    by.add_argument("--key", type=Path, help="the approver's private key")
    by.add_argument("--entry", type=Path, help="what sign-off printed")


def _approver(arguments: argparse.Namespace) -> None:
    from hounsfield.rollout import signed

    key = signed.make_key(arguments.key)
    print(signed.key_name(key))


def _sign_off(arguments: argparse.Namespace) -> None:
    from hounsfield.rollout import approvals, signed

    key = signed.load_key(arguments.key)
    print(json.dumps(approvals.approve(key, arguments.digest, arguments.step, time.time())))


def _approve(arguments: argparse.Namespace) -> None:
    from hounsfield.rollout import approvals, signed
    from hounsfield.rollout.ledger import Ledger
    from hounsfield.rollout.policy import Policy

    ledger = Ledger(Home.at(arguments.home).ledger)
    stories = ledger.stories() if ledger.path.exists() else []
    if not stories:
        raise RolloutError(f"the ledger {ledger.path} has no rollout yet; there is nothing to approve")
    story, step = stories[-1], arguments.step
    if story.outcome is not None:
        raise RolloutError(f"the last rollout has ended ({story.outcome}); there is nothing to approve")
    policy, digest = Policy.from_mapping(story.policy), story.revisions["canary"]
    known = [known.name for known in policy.all_steps if known.approval]
    if step not in known:
        raise RolloutError(
            f"the step {step!r} waits for no approval; of this rollout {', '.join(known) or 'none'} does"
        )
    if arguments.entry is None:
        entry = approvals.approve(signed.load_key(arguments.key), digest, step, time.time())
    else:
        entry = _read_entry(arguments.entry)
    by = approvals.approver(entry, policy.approvers, digest, step, story.started_at)
    before = approvals.given(ledger.entries(approvals.KIND), policy.approvers, digest, step, story.started_at)
    if by in before:
        raise RolloutError(f"{by} has approved this already; a second approval is another person's")
    ledger.record(approvals.KIND, time.time(), step=step, by=by, entry=entry)
    wanted = next(known.approval for known in policy.all_steps if known.name == step)
    print(f"{by} has approved going on from {step}: {len(before) + 1} of {wanted}")


def _read_entry(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RolloutError(f"{path} cannot be read as a signed approval; sign-off prints one") from None

"""`hounsfield rollout gate`: have the gate of a cluster judge the canary that the tree names.

Exit code 0: it has passed, now or before, or stable serves it already. 3: the gate refused it. 2: it could
not be asked.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hounsfield.errors import RolloutError

if TYPE_CHECKING:
    from hounsfield.rollout.admission import Admission
    from hounsfield.rollout.ledger import Ledger

REFUSED = 3


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    gate = command(
        commands,
        "gate",
        _gate,
        "have a cluster's gate judge the canary, and put its signed word into the ledger",
        "hounsfield rollout gate --tree gitops --overlay production --gate http://gate-default:9000 "
        "--gateway https://hounsfield.example --validation s3://bucket/validation "
        "--judged /var/lib/hounsfield/judged --ledger ledger.jsonl --gate-key 2o7H...",
    )
    add = gate.add_argument
    add("--tree", type=Path, required=True, help="a clone of the repository")
    add("--overlay", required=True, help="whose rollout.yaml and policy: staging, production")
    add("--gate", required=True, metavar="URL", help="the gate's address")
    add("--gateway", required=True, metavar="URL", help="where the gate asks the revisions, by name")
    add("--validation", required=True, metavar="PLACE", help="the frozen validation set: a folder or a URL")
    add("--judged", type=Path, required=True, help="the folder that the gate reads, by the same path")
    add("--ledger", type=Path, required=True, help="where the gate's record goes")
    add("--gate-key", required=True, help="the public key that the gate's passes are signed with")
    add("--timeout-s", type=float, default=3600.0, help="the longest judgement (default: an hour)")


def _gate(arguments: argparse.Namespace) -> int:
    from hounsfield.rollout import manifest
    from hounsfield.rollout.admission import KIND, Admission
    from hounsfield.rollout.ledger import Ledger
    from hounsfield.rollout.manifest import NOTHING
    from hounsfield.rollout.rules import read_rules

    tree, file = arguments.tree, manifest.rollout_file(arguments.overlay)
    policy, plan = read_rules(tree, arguments.overlay)
    canary, stable = (manifest.revision(tree, role, file) for role in ("canary", "stable"))
    if canary.package_digest == NOTHING:
        raise RolloutError(f"{file} names no canary: commit the candidate's package there first")
    if canary == stable:
        print(f"stable serves version {canary.model_version} already")
        return 0
    champion = None if stable.package_digest == NOTHING else stable.package_digest
    admission = Admission(arguments.gate_key, policy.gate.digest, plan.digest)
    ledger = Ledger(arguments.ledger)
    if ledger.path.exists() and _has_passed(admission, ledger, canary.package_digest, champion):
        print(f"the gate has passed version {canary.model_version} before")
        return 0

    from hounsfield.rollout.gate_client import request_verdict

    judged = request_verdict(
        arguments.gate,
        candidate_url=arguments.gateway,
        candidate_version=canary.model_version,
        package_digest=canary.package_digest,
        package_dir=_placed(canary.storage_uri, arguments.judged / "packages" / canary.package_digest),
        champion_url=arguments.gateway if champion else None,
        validation_dir=_validation(arguments.validation, arguments.judged),
        policy=policy.gate,
        plan=plan,
        timeout_s=arguments.timeout_s,
    )
    if judged.passed:  # a gate with another key than the one that the rollout believes is said at once
        admission.check(judged.entry, canary.package_digest, champion)
    ledger.record(KIND, time.time(), entry=judged.entry, verdict=judged.verdict)
    if judged.passed:
        print(f"the gate passes version {canary.model_version}")
        return 0
    print(f"the gate refuses version {canary.model_version}: {'; '.join(judged.reasons)}")
    return REFUSED


def _has_passed(
    admission: Admission, ledger: Ledger, package_digest: str, champion_digest: str | None
) -> bool:
    try:
        admission.require(ledger, package_digest, champion_digest)
    except RolloutError:
        return False
    return True


def _validation(place: str, judged: Path) -> Path:
    """The set's folder; one from a store is kept under its address, which has to name one set for good."""
    from hounsfield.training.whole_file import is_remote

    if not is_remote(place):
        return Path(place)
    return _placed(place, judged / "validation" / hashlib.sha256(place.encode()).hexdigest()[:16])


def _placed(place: str, folder: Path) -> Path:
    """`folder`, with a copy of the files at the URL `place` if it is not there: whole or not at all."""
    from hounsfield.training.whole_file import fetch_folder

    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
        try:
            fetch_folder(place, draft)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder

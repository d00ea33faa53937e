"""The git repository of the tree that a rollout edits: commits that carry their evidence, and an upstream.

The commits are the record of who got how much traffic, and on what evidence. Every function raises
RolloutError, with git's last line, when git refuses.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hounsfield.errors import RolloutError
from hounsfield.rollout import recovery

EVIDENCE_TRAILER = "Evidence"
"""Name of the git trailer whose value is the evidence of a commit, as JSON on one line."""


def commit(tree: Path, message: str, evidence: Mapping[str, Any]) -> str:
    """Commit every change of the tree, with `evidence` as the last trailer of the message; returns the
    commit's SHA.

    Nothing to commit is an error: each step of a rollout changes something.
    """
    trailer = f"{EVIDENCE_TRAILER}: {json.dumps(evidence, sort_keys=True, allow_nan=False)}"
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--cleanup=verbatim", f"--message={message}\n\n{trailer}\n")
    recovery.forget(tree)
    return head(tree)


def evidence_of(tree: Path, sha: str = "HEAD") -> dict[str, Any]:
    """The evidence in the message of a commit, {} for a commit of a person."""
    return _read_evidence(git(tree, "show", "--no-patch", "--format=%B", sha))


def ledger_anchors(tree: Path) -> list[str]:
    """The hashes of the ledger that the tree's commits name in their evidence, in order."""
    return [evidence["ledger"] for evidence in _history(tree) if "ledger" in evidence]


def has_rolled_back(tree: Path, record: str) -> bool:
    """Whether a commit carried out the ROLLBACK that the ledger's record of that hash holds."""
    return any(
        evidence.get("ledger") == record and (evidence.get("verdict") or {}).get("decision") == "ROLLBACK"
        for evidence in _history(tree)
    )


def former_champions(tree: Path) -> set[str]:
    """Digests of the packages that a release has made stable, by the evidence of the tree's commits."""
    return {evidence["package_digest"] for evidence in _history(tree) if evidence.get("role") == "stable"}


def dirty(tree: Path) -> bool:
    """Whether the working tree has changes that are not committed."""
    return bool(git(tree, "status", "--porcelain"))


def head(tree: Path) -> str:
    return git(tree, "rev-parse", "HEAD")


def parent(tree: Path) -> str:
    return git(tree, "rev-parse", "HEAD^")


def has_upstream(tree: Path) -> bool:
    """Whether the branch follows one of another repository, such as the one that ArgoCD watches."""
    try:
        git(tree, "rev-parse", "--abbrev-ref", "@{upstream}")
    except RolloutError:
        return False
    return True


def pushed_by_others(tree: Path) -> str | None:
    """The newest commit of the upstream branch that the tree does not have; None for none."""
    git(tree, "fetch", "--quiet")
    return git(tree, "rev-list", "--max-count=1", "HEAD..@{upstream}") or None


def push(tree: Path) -> None:
    """Bring the commits to the upstream branch; RolloutError when it does not take them."""
    git(tree, "push", "--quiet")


def take_back(tree: Path, to: str) -> None:
    """Undo the commits after `to`, which no one else has seen."""
    git(tree, "reset", "--quiet", "--hard", to)


def git(tree: Path, *arguments: str) -> str:
    # A GIT_DIR or an identity of the caller's (a hook, say) must not lead these commands to another
    # repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_CEILING_DIRECTORIES": str(tree.parent), "LC_ALL": "C"}
    try:
        with recovery.at_work(tree) as descriptors:
            done = subprocess.run(
                ["git", "-C", str(tree), *arguments],
                capture_output=True,
                text=True,
                env=environment,
                check=False,
                start_new_session=True,  # an interrupt of the caller's group does not cut a commit in two
                pass_fds=descriptors,
            )
    except FileNotFoundError:
        raise RolloutError("git is not installed; the rollout keeps its tree in a git repository") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RolloutError(
            f"git {arguments[0]} in {tree} failed: {said[-1] if said else f'exit code {done.returncode}'}"
        )
    return done.stdout.strip()


def _history(tree: Path) -> list[dict[str, Any]]:
    """The evidence of every commit, the oldest first, by one git process."""
    messages = git(tree, "log", "--reverse", "-z", "--format=%B").split("\0")
    return [_read_evidence(message) for message in messages]


def _read_evidence(message: str) -> dict[str, Any]:
    found = [line for line in message.splitlines() if line.startswith(f"{EVIDENCE_TRAILER}: ")]
    return json.loads(found[-1].removeprefix(f"{EVIDENCE_TRAILER}: ")) if found else {}

"""What a killed process leaves in the tree: found by the note it took before its first edit, and taken back.

The note stands in the tree's `.git` folder from before an edit until after its commit: the commit that the
edit began at, and the SHA-256 of what was written. So an unfinished edit of our own can be told from a
person's, which is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from hounsfield.errors import RolloutError

NOTE = Path(".git/hounsfield-edit.json")
_PATIENCE_S = 3.0
"""How long a git process that outlived its parent may take to end by itself."""


def note(tree: Path, head: str, content: bytes) -> None:
    """Say, on the disk, that `content` is about to be written on top of the commit `head`."""
    written = [] if (found := _read(tree)) is None or found["head"] != head else found["written"]
    draft = tree / f"{NOTE}.draft"
    with draft.open("w", encoding="ascii") as file:
        json.dump({"head": head, "written": [*written, hashlib.sha256(content).hexdigest()]}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(tree / NOTE)


def forget(tree: Path) -> None:
    (tree / NOTE).unlink(missing_ok=True)


def recover(tree: Path, file: Path, git: Callable[..., str]) -> bool:
    """Take back an edit of `file` that a killed process left without a commit; whether there was one.

    An edit that did reach its commit stays. Raises RolloutError when the file is neither what that process
    wrote nor what was there before: then a person is at work.
    """
    found = _read(tree)
    if found is None:
        return False
    _wait_for_git(tree)
    if git("rev-parse", "HEAD") == found["head"]:
        present = hashlib.sha256((tree / file).read_bytes()).hexdigest() if (tree / file).is_file() else None
        is_untouched = present and git("hash-object", str(file)) == git("rev-parse", f"HEAD:{file}")
        if present not in found["written"] and not is_untouched:
            raise RolloutError(
                f"{tree / file} was edited by someone after a rollout was killed; commit or undo that"
            )
        git("restore", "--staged", "--worktree", str(file))
    (tree / file).with_name(f".{file.name}.draft").unlink(missing_ok=True)
    forget(tree)
    return True


def _wait_for_git(tree: Path) -> None:
    """Let a commit that is still under way end; a lock that stays is one of a dead process."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while (locks := _locks(tree)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for lock in locks:
        lock.unlink(missing_ok=True)


def _locks(tree: Path) -> list[Path]:
    git = tree / ".git"
    return [*git.glob("*.lock"), *(git / "refs" / "heads").glob("*.lock")]


def _read(tree: Path) -> dict | None:
    try:
        return json.loads((tree / NOTE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None

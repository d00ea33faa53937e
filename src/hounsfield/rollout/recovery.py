"""What a killed process leaves in the tree: found by the note it took before its first edit, and taken back.

The note stands in the tree's `.git` folder from before an edit until after its commit: the commit that the
edit began at, and the SHA-256 of what was written. So an unfinished edit of our own can be told from a
person's, which is never touched.

A git process may outlive a parent that is killed. Each of ours has inherited a lock, which is free when the
last one has ended; a lock file of git's own that is left then is of a dead one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hounsfield.errors import RolloutError

NOTE = Path(".git/hounsfield-edit.json")
AT_WORK = Path(".git/hounsfield-git")
_PATIENCE_S = 60.0
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


@contextlib.contextmanager
def at_work(tree: Path) -> Iterator[tuple[int, ...]]:
    """Descriptors for a git process to inherit, by which `recover` knows that it is still alive."""
    if not (tree / ".git").is_dir():  # it is only being made
        yield ()
        return
    with (tree / AT_WORK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield (file.fileno(),)


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
    deadline_s = time.monotonic() + _PATIENCE_S
    with (tree / AT_WORK).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise RolloutError(f"a git process is still at work in {tree}; end it first") from None
                time.sleep(0.05)
        for lock in _locks(tree):
            lock.unlink(missing_ok=True)


def _locks(tree: Path) -> list[Path]:
    git = tree / ".git"
    return [*git.glob("*.lock"), *(git / "refs" / "heads").glob("*.lock")]


def _read(tree: Path) -> dict | None:
    try:
        return json.loads((tree / NOTE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None

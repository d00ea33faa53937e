"""The tree that a rollout edits, made from the clone's manifests, and brought up to them after an upgrade.

The branch `clone` of the tree holds the manifests as they were taken last, and nothing else. What is new in
them is a commit there, and a merge into the tree: what people and rollouts have changed stays, and where both
have changed the same lines a person decides.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hounsfield.errors import RolloutError
from hounsfield.rollout import manifest, repository
from hounsfield.rollout.manifest import ROLLOUT_FILE

BRANCH = "clone"

_SEEDED = ("README.md", "base", "overlays/laptop")
_FIRST_MESSAGE = "Seed the tree from the laptop overlay"
_IDENTITY = {
    "user.name": "Hounsfield rollout",
    "user.email": "rollout@hounsfield.invalid",
    "commit.gpgsign": "false",
    "gc.auto": "0",  # nothing of git's goes on in the background
}


def seed_tree(manifests: Path, tree: Path) -> bool:
    """Make the repository at `tree` from the clone's `manifests`; False when it is there already, and then
    untouched.

    It appears by a rename, complete or not at all.
    """
    if (tree / ".git").is_dir():
        return False
    if tree.exists() and any(tree.iterdir()):
        raise RolloutError(
            f"the folder {tree} is neither empty nor a git repository; move it away to have it seeded"
        )
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(tree) as draft:
        _copy(manifests, draft)
        repository.git(draft, "init", "--quiet", "--initial-branch=main")
        for key, value in _IDENTITY.items():
            repository.git(draft, "config", key, value)
        repository.commit(draft, _FIRST_MESSAGE, {})
        repository.git(draft, "branch", BRANCH)
        if tree.exists():
            tree.rmdir()
        draft.replace(tree)
    return True


def take_over(manifests: Path, tree: Path) -> bool:
    """Merge what is new in the clone's `manifests` into the tree; whether there was anything to merge.

    Nothing is done while a canary gets requests, while a person is editing, and in a tree that was not seeded
    here. Raises RolloutError, with the tree as it was, where the same lines were changed on both sides.
    """
    if not _is_ours(tree) or repository.dirty(tree) or _is_rolling_out(tree):
        return False
    _record(manifests, tree)
    if repository.git(tree, "rev-list", "--max-count=1", f"HEAD..{BRANCH}") == "":
        return False
    try:
        repository.git(tree, "merge", "--quiet", "-m", "Take over the clone's manifests", BRANCH)
    except RolloutError:
        both = repository.git(tree, "diff", "--name-only", "--diff-filter=U").splitlines()
        if not both:
            raise
        repository.git(tree, "merge", "--abort")
        raise RolloutError(
            f"the clone's manifests and the tree have both changed the same lines of {', '.join(both)}: "
            f"merge them with `git -C {tree} merge {BRANCH}`, or keep the tree's by adding `-s ours` to it"
        ) from None
    return True


def _is_ours(tree: Path) -> bool:
    """Whether the tree was seeded here; one of before the branch was kept is given it."""
    if repository.git(tree, "branch", "--list", BRANCH):
        return True
    root = repository.git(tree, "rev-list", "--max-parents=0", "HEAD").splitlines()[-1]
    if repository.git(tree, "show", "--no-patch", "--format=%s", root) != _FIRST_MESSAGE:
        return False
    repository.git(tree, "branch", BRANCH, root)
    return True


def _is_rolling_out(tree: Path) -> bool:
    return manifest.weights(tree) != (100, 0) or manifest.shadow(tree) > 0 or manifest.first(tree) > 0


def _record(manifests: Path, tree: Path) -> None:
    """Commit the clone's `manifests` to the branch, where they differ from what it holds."""
    with _folder_beside(tree) as draft:
        work = draft / "work"
        repository.git(tree, "worktree", "prune")
        repository.git(tree, "worktree", "add", "--quiet", "--detach", "--no-checkout", str(work), BRANCH)
        _copy(manifests, work)
        repository.git(work, "add", "--all")
        if repository.git(work, "status", "--porcelain"):
            repository.git(work, "commit", "--quiet", "-m", "The clone's manifests")
            repository.git(tree, "branch", "--force", BRANCH, repository.head(work))
    repository.git(tree, "worktree", "prune")


def _copy(manifests: Path, target: Path) -> None:
    if not (manifests / ROLLOUT_FILE).is_file():
        raise RolloutError(f"{manifests} has no {ROLLOUT_FILE}; it is not the manifests folder of the clone")
    for name in _SEEDED:
        if (manifests / name).is_dir():
            shutil.copytree(manifests / name, target / name)
        elif (manifests / name).is_file():
            shutil.copyfile(manifests / name, target / name)


@contextlib.contextmanager
def _folder_beside(tree: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".seed-", dir=tree.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""What carries a decision out: the weights of the git tree, committed, then applied."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from hounsfield.errors import RolloutError
from hounsfield.rollout import manifest, repository
from hounsfield.rollout.evidence import REVISIONS
from hounsfield.rollout.policy import First

LOCK = Path(".git/hounsfield-rollout")  # no *.lock: those of dead git processes are removed


class SomeoneElseError(RolloutError):
    """A person changed the tree: the rollout stops where it is."""


class Actuator(Protocol):
    def weights(self) -> tuple[int, int]:
        """Percents of requests (stable, canary) at present."""

    def shadow(self) -> int:
        """Percent of requests that the canary also gets as a mirror at present."""

    def first(self) -> int:
        """Percent of the first callers' requests that the canary answers at present."""

    def revisions(self) -> dict[str, str]:
        """Digest of the package that each of stable and canary serves."""

    def head(self) -> str:
        """Name of the present state, as `set_weights` returned it."""

    def set_weights(
        self,
        stable: int,
        canary: int,
        evidence: Mapping[str, Any],
        shadow: int = 0,
        first: First | None = None,
    ) -> str:
        """Move the traffic and return the name of the new state; back when the servers have it.

        Raises SomeoneElseError, with nothing moved, when a person changed the state meanwhile.
        """

    def foreign_edit(self) -> str | None:
        """What someone else changed since this actuator's last write, in a sentence; None for nothing."""


class GitActuator:
    """Edits and commits `file` of the tree, pushes where the branch has an upstream, then calls `apply`.

    Where ArgoCD watches the tree's upstream, `apply` is nothing.
    """

    def __init__(
        self, tree: Path, apply: Callable[[], None] = lambda: None, file: Path = manifest.ROLLOUT_FILE
    ) -> None:
        self.tree, self._apply, self._file = tree, apply, file
        if manifest.recover(tree, file):  # a predecessor was killed between its edit and its end
            apply()
        if repository.dirty(tree):
            raise RolloutError(
                f"{tree} has changes that are not committed; commit or undo them, then start the rollout"
            )
        self._head = repository.head(tree)
        self._has_upstream = repository.has_upstream(tree)
        if self._has_upstream:
            if (theirs := repository.pushed_by_others(tree)) is not None:
                raise RolloutError(f"the upstream of {tree} has {theirs[:10]}, which the tree lacks: pull it")
            repository.push(tree)  # what a killed predecessor had committed and not yet pushed

    def weights(self) -> tuple[int, int]:
        return manifest.weights(self.tree, self._file)

    def shadow(self) -> int:
        return manifest.shadow(self.tree, self._file)

    def first(self) -> int:
        return manifest.first(self.tree, self._file)

    def revisions(self) -> dict[str, str]:
        return {role: manifest.revision(self.tree, role, self._file).package_digest for role in REVISIONS}

    def head(self) -> str:
        return self._head

    def set_weights(
        self,
        stable: int,
        canary: int,
        evidence: Mapping[str, Any],
        shadow: int = 0,
        first: First | None = None,
    ) -> str:
        edit = self.foreign_edit()
        if edit is not None:
            raise SomeoneElseError(edit)
        manifest.set_weights(self.tree, stable, canary, shadow, first, self._file)
        mirrored = f", {shadow} % mirrored to the canary" if shadow else ""
        named = f", {first.header} {', '.join(first.values)} first" if first else ""
        self._commit(f"Canary at {canary} %, stable at {stable} %{mirrored}{named}", evidence)
        return self._head

    def make_stable(self) -> str:
        """Have stable serve what the canary serves, and return its version; again is no change."""
        canary = manifest.revision(self.tree, "canary", self._file)
        if manifest.revision(self.tree, "stable", self._file) != canary:
            if (edit := self.foreign_edit()) is not None:
                raise SomeoneElseError(edit)
            values = dataclasses.asdict(canary)
            manifest.set_revision(self.tree, "stable", **values, file=self._file)
            evidence = {"role": "stable", "package_digest": canary.package_digest}
            self._commit(f"Promote version {canary.model_version} to stable", evidence)
        return canary.model_version

    def foreign_edit(self) -> str | None:
        if repository.dirty(self.tree):
            return f"someone is editing {self.tree}: there are changes that are not committed"
        head = repository.head(self.tree)
        if head != self._head:
            return f"someone committed {head[:10]} to {self.tree}"
        if self._has_upstream and (theirs := repository.pushed_by_others(self.tree)) is not None:
            return f"someone pushed {theirs[:10]} to the upstream of {self.tree}"
        return None

    def _commit(self, message: str, evidence: Mapping[str, Any]) -> None:
        before, self._head = self._head, repository.commit(self.tree, message, evidence)
        self._check_parent(before)
        if self._has_upstream:
            self._push(before)
        self._apply()

    def _check_parent(self, before: str) -> None:
        """A person may have committed between our last look and our commit."""
        theirs = repository.parent(self.tree)
        if theirs != before:
            repository.take_back(self.tree, theirs)
            raise SomeoneElseError(f"someone committed {theirs[:10]} to {self.tree}")

    def _push(self, before: str) -> None:
        try:
            repository.push(self.tree)
        except RolloutError:
            theirs = repository.pushed_by_others(self.tree)
            if theirs is None:
                raise
            repository.take_back(self.tree, before)
            self._head = before
            raise SomeoneElseError(f"someone pushed {theirs[:10]} to the upstream of {self.tree}") from None


@contextlib.contextmanager
def alone(tree: Path) -> Iterator[None]:
    """Hold the tree for one rollout, until left or killed. RolloutError when another process holds it."""
    try:
        with (tree / LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise RolloutError(f"another rollout is at work in {tree}; wait until it ends") from None
    except FileNotFoundError:
        raise RolloutError(f"{tree} is not a git repository") from None

"""What carries a decision out: the weights of the git tree, committed, then applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hounsfield.errors import RolloutError
from hounsfield.rollout import manifest
from hounsfield.rollout.evidence import REVISIONS


class Actuator(Protocol):
    def weights(self) -> tuple[int, int]:
        """Percents of requests (stable, canary) at present."""

    def shadow(self) -> int:
        """Percent of requests that the canary also gets as a mirror at present."""

    def revisions(self) -> dict[str, str]:
        """Digest of the package that each of stable and canary serves."""

    def head(self) -> str:
        """Name of the present state, as `set_weights` returned it."""

    def set_weights(self, stable: int, canary: int, evidence: Mapping[str, Any], shadow: int = 0) -> str:
        """Move the traffic and return the name of the new state; back when the servers have it."""

    def foreign_edit(self) -> str | None:
        """What someone else changed since this actuator's last write, in a sentence; None for nothing."""


class GitActuator:
    """Edits and commits the tree, then calls `apply`; where ArgoCD watches the tree, that is nothing."""

    def __init__(self, tree: Path, apply: Callable[[], None] = lambda: None) -> None:
        self.tree, self._apply = tree, apply
        if manifest.recover(tree):  # a predecessor was killed between its edit and its end
            apply()
        if manifest.dirty(tree):
            raise RolloutError(
                f"{tree} has changes that are not committed; commit or undo them, then start the rollout"
            )
        self._head = manifest.head(tree)

    def weights(self) -> tuple[int, int]:
        return manifest.weights(self.tree)

    def shadow(self) -> int:
        return manifest.shadow(self.tree)

    def revisions(self) -> dict[str, str]:
        return {role: manifest.revision(self.tree, role).package_digest for role in REVISIONS}

    def head(self) -> str:
        return self._head

    def set_weights(self, stable: int, canary: int, evidence: Mapping[str, Any], shadow: int = 0) -> str:
        edit = self.foreign_edit()
        if edit is not None:
            raise RolloutError(edit)
        manifest.set_weights(self.tree, stable, canary, shadow)
        mirrored = f", {shadow} % mirrored to the canary" if shadow else ""
        message = f"Canary at {canary} %, stable at {stable} %{mirrored}"
        self._head = manifest.commit(self.tree, message, evidence)
        self._apply()
        return self._head

    def foreign_edit(self) -> str | None:
        if manifest.dirty(self.tree):
            return f"someone is editing {self.tree}: there are changes that are not committed"
        head = manifest.head(self.tree)
        if head != self._head:
            return f"someone committed {head[:10]} to {self.tree}"
        return None

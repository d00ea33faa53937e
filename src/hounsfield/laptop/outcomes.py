"""Labels that came in days later: into the ledger, and a champion that they speak against is taken back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hounsfield.config import Home
from hounsfield.errors import RolloutError
from hounsfield.laptop import stack
from hounsfield.registry.registry import CHAMPION, Registry
from hounsfield.rollout import champion, manifest, outcomes
from hounsfield.rollout.champion import Late
from hounsfield.rollout.controller import Event
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.notify import Notifier
from hounsfield.rollout.outcomes import Added
from hounsfield.rollout.policy import Policy


@dataclass(frozen=True)
class Result:
    """`late` is the verdict on the champion, None where no label bears on it; `restored` the version that is
    champion again."""

    added: Added
    late: Late | None
    restored: str | None


def add_outcomes(
    home: Home, path: Path, by: str, *, on_progress: Callable[[int], None] = lambda records: None
) -> Result:
    """Add the labels of the CSV file `path`, judge the champion by them, and take it back if it is worse.

    What was decided and not done, since a process was killed, is done by the next call. Raises LabelError for
    the file, with nothing added, and RolloutError where there is no rollout to add to.
    """
    ledger, tree = Ledger(home.ledger), home.tree
    if not home.ledger.exists() or not (tree / ".git").is_dir():
        raise RolloutError("no rollout has been run here, so there is nothing that labels could be added to")
    logs = sorted(folder for folder in (home.root / "log").glob("*") if folder.is_dir())
    added = outcomes.add(ledger, logs, path, time.time(), by, on_progress)
    serving = manifest.revision(tree, "stable")
    late = champion.judge(ledger, serving.package_digest, time.time())
    restored = None
    if late is not None and late.is_rollback and not champion.is_done(tree, late):
        restored = _take_back(home, late)
    _align_registry(home)
    return Result(added, late, restored)


def _take_back(home: Home, late: Late) -> str:
    before = champion.take_back(home.tree, late)
    if stack.status(home).running:
        stack.apply(home)
    message = f"version {before.model_version} is champion again: {'; '.join(late.verdict['reasons'])}"
    policy = Policy.from_mapping(late.story.policy, "the ledger's policy")
    with Notifier(policy.notifications) as notify:
        notify(Event("champion_rolled_back", time.time(), 0, message))
    return before.model_version


def _align_registry(home: Home) -> None:
    """The tree says who is champion; a process may have been killed before the registry heard of it."""
    version = int(manifest.revision(home.tree, "stable").model_version)
    registry = Registry(home.mlflow_uri)
    found = registry.by_alias(CHAMPION)
    if version and (found is None or found.version != version):
        registry.set_alias(CHAMPION, version)

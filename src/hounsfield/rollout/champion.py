"""A champion that late labels prove to be worse than the one before it: judged, and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hounsfield.rollout import decide, manifest, outcomes, repository
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.ledger import Ledger, Story
from hounsfield.rollout.manifest import ROLLOUT_FILE, Revision
from hounsfield.rollout.policy import Policy


@dataclass(frozen=True)
class Late:
    """What labels say of a champion after its promotion: a verdict as the ledger has it, and its record."""

    story: Story
    verdict: Mapping[str, Any]
    record: str

    @property
    def is_rollback(self) -> bool:
        return self.verdict["decision"] == decide.Decision.ROLLBACK


def judge(ledger: Ledger, champion: str, at: float) -> Late | None:
    """The verdict on the package of digest `champion`, recorded when labels have come in since the last one.

    It goes on with the evidence of the rollout that promoted it, under that rollout's policy. None where no
    rollout did, or no labels of it have come in since its end.
    """
    promoted = [s for s in ledger.stories() if s.outcome == "promoted" and s.revisions["canary"] == champion]
    if not promoted:
        return None
    story = promoted[-1]
    last = story.late[-1] if story.late else None
    decided = None if last is None else Late(story, last["verdict"], last["hash"])
    if decided is not None and decided.is_rollback:  # a process may have been killed before it was done
        return decided
    seen = set(story.outcomes_seen)
    records = [record for record in ledger.records() if record["kind"] == outcomes.KIND]
    nothing = Observation(at, 0.0, 100, {}, {}, late=True)
    observation = outcomes.with_labels(nothing, records, story.started_at, seen)
    if not observation.outcomes:
        return decided
    policy = Policy.from_mapping(story.policy, "the ledger's policy")
    *_, verdict = decide.replay(policy, story.started_at, [*story.observations, observation])
    told = verdict.as_dict()
    record = ledger.record(
        "late_verdict", at, started_at=story.started_at, verdict=told, observation=observation.as_dict()
    )
    return Late(story, told, record)


def is_done(tree: Path, late: Late) -> bool:
    """Whether a commit has carried the rollback out; if the champion serves, a person has put it back."""
    return repository.has_rolled_back(tree, late.record)


def take_back(tree: Path, late: Late, file: Path = ROLLOUT_FILE) -> Revision:
    """Put the champion before it into its place, in one commit; the canary's traffic, if any, ends too.

    Returns what stable serves then. A rollout that is under way sees the commit and stops.
    """
    before = manifest.past_revision(tree, "stable", late.story.revisions["stable"], file)
    manifest.set_revision(
        tree,
        "stable",
        storage_uri=before.storage_uri,
        model_version=before.model_version,
        package_digest=before.package_digest,
        file=file,
    )
    manifest.set_weights(tree, 100, 0, file=file)
    evidence = {"role": "stable", "package_digest": before.package_digest, "ledger": late.record}
    repository.commit(
        tree,
        f"Take back the champion: version {before.model_version} is stable again",
        evidence | {"verdict": dict(late.verdict)},
    )
    if repository.has_upstream(tree):
        repository.push(tree)
    return before

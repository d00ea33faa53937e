"""The rollout's ledger: what it saw, decided and changed, as records of the hash-chained log.

Every record has `kind` and `at` (unix time, seconds): `rollout_started` (the policy, and the revisions by
the digests of their packages), `verdict` (with the observation that it followed), `weights_set`,
`approval`, `rollout_ended`; `outcomes` (labels that came in, see `hounsfield.rollout.outcomes`) and
`late_verdict` (what they say of a rollout that has ended). Everything is counted a revision: no record holds
a patient's data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hounsfield.audit import log
from hounsfield.audit.chain import START, ChainError, Head, check_line, record_of
from hounsfield.errors import RolloutError
from hounsfield.rollout.decide import METHOD, replay
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.policy import Policy


@dataclass
class Story:
    """One rollout, as the ledger tells it; a controller that went on after a stop goes on with the same
    story."""

    started_at: float
    policy: Mapping[str, Any]
    policy_digest: str
    revisions: Mapping[str, str]
    method: int = 1
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    moves: list[dict[str, Any]] = field(default_factory=list)
    outcome: str | None = None
    ended_at: float | None = None
    late: list[dict[str, Any]] = field(default_factory=list)
    """Verdicts on labels that came in after the end."""

    @property
    def observations(self) -> list[Observation]:
        return [Observation.from_dict(record["observation"]) for record in (*self.verdicts, *self.late)]

    @property
    def outcomes_seen(self) -> frozenset[str]:
        """The records of `outcomes` whose labels an observation holds."""
        return frozenset(name for observation in self.observations for name in observation.outcomes)


@dataclass(frozen=True)
class Mark:
    """A place between two records: the byte at which the next one begins, and the chain's head there."""

    offset: int = 0
    head: Head = START


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, kind: str, at: float, **fields: Any) -> str:
        """Append one record and return the hash of the log's new head, once it is on the disk."""
        return log.append(self.path, {"kind": kind, "at": at, **fields}).hash

    def head(self) -> str:
        """The hash of the last record, zeros before the first, for a commit to name; raises as `records`."""
        return log.verify(self.path).hash

    def records(self) -> Iterator[dict[str, Any]]:
        """All records in order; raises AuditError when the log was tampered with."""
        for entry in log.read(self.path):
            yield {**entry.record, "hash": entry.hash}

    def stories(self) -> list[Story]:
        """The rollouts in order."""
        found: list[Story] = []
        for record in self.records():
            kind = record["kind"]
            if kind == "rollout_started" and not record["goes_on"]:
                names = ("started_at", "policy", "policy_digest", "revisions")
                found.append(Story(**{n: record[n] for n in names}, method=record.get("method", 1)))
            elif kind == "verdict":
                found[-1].verdicts.append(record)
            elif kind == "weights_set":
                found[-1].moves.append(record)
            elif kind == "rollout_ended":
                found[-1].outcome, found[-1].ended_at = record["outcome"], record["at"]
            elif kind == "late_verdict":
                next(s for s in found if s.started_at == record["started_at"]).late.append(record)
        return found

    def after(self, mark: Mark) -> tuple[list[dict[str, Any]], Mark]:
        """The whole records after `mark` and the mark after them; raises AuditError as `records` does."""
        if not self.path.exists():
            return [], mark
        found, head, offset = [], mark.head, mark.offset
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # another process is writing it
                    break
                head = check_line(line, head, f"{self.path.name} record {head.count}")
                offset += len(line)
                found.append({**record_of(line), "hash": head.hash})
        return found, Mark(offset, head)

    def has_promoted(self, revisions: Mapping[str, str]) -> bool:
        """Whether the last rollout was of these revisions and ended with a promotion."""
        last = next(iter(self.stories()[-1:]), None)
        return last is not None and last.outcome == "promoted" and last.revisions == dict(revisions)

    def taken_back(self) -> frozenset[str]:
        """Digests of the packages that labels have proven to be worse after their promotion."""
        return frozenset(
            story.revisions["canary"]
            for story in self.stories()
            for record in story.late
            if record["verdict"]["decision"] == "ROLLBACK"
        )

    def unfinished(self, policy_digest: str, revisions: Mapping[str, str]) -> Story | None:
        """The last rollout, when it has no end yet and was of this policy and these revisions.

        For the one process that goes on with it: a record that its predecessor was killed at is taken away.
        """
        log.mend(self.path)
        last = next(iter(self.stories()[-1:]), None)
        if last is None or last.outcome is not None:
            return None
        same = policy_digest, dict(revisions), METHOD
        is_same = (last.policy_digest, last.revisions, last.method) == same
        return last if is_same else None

    def check_anchors(self, anchors: Sequence[str]) -> None:
        """Raises ChainError when a record that a commit names is missing, such as one cut off the end."""
        held = {START.hash, *(record["hash"] for record in self.records())}
        missing = [anchor for anchor in anchors if anchor not in held]
        if missing:
            raise ChainError(
                f"{self.path.name}: a commit of the tree names the record {missing[0][:12]}, which is not in "
                "it; records were cut off its end, or this is another ledger"
            )

    def entries(self, kind: str) -> list[Any]:
        """The signed entries of that kind (`approval`, `gate`), in order; nothing is checked here."""
        return [record.get("entry") for record in self.records() if record["kind"] == kind]


def replay_ledger(ledger: Ledger) -> int:
    """Work every verdict out again, from its story's policy and observations alone; how many there were.

    Raises ChainError that names the first verdict which does not come out as it was recorded, to the bit, and
    RolloutError for a rollout that was decided by another method than this version has.
    """
    count = 0
    for story in ledger.stories():
        policy = Policy.from_mapping(story.policy, "the ledger's policy")
        if policy.digest != story.policy_digest:
            raise ChainError(f"the rollout of {story.started_at:.0f}: its policy has another digest")
        if story.method != METHOD:
            raise RolloutError(
                f"the rollout of {story.started_at:.0f} was decided by method {story.method}, and this "
                f"version has method {METHOD}: replay it with the version that ran it"
            )
        again = replay(policy, story.started_at, story.observations)
        for record, verdict in zip((*story.verdicts, *story.late), again, strict=True):
            recorded = record["verdict"]
            if recorded != verdict.as_dict():
                raise ChainError(
                    f"record {record['hash'][:12]}: {recorded['decision']} at "
                    f"{record['observation']['weight']} % and its "
                    f"numbers do not follow from the observations, which give {verdict.decision}"
                )
            count += 1
    return count

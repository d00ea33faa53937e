"""Labels that come in days later: read from a CSV file, joined to the inference logs, kept in the ledger.

A label (`hounsfield.rollout.labels`) is counted for every revision that predicted its case, mirrored requests
too: a case that both revisions saw is an outcome of each. A study was called positive when one of its images
was.

One record of the ledger holds a whole file: for each rollout that it bears on the counts of both revisions,
and of each label a hash, by which a later run knows it again. No record holds an id, a token or a label by
itself.

Labels have to be collected whatever the model said. A hospital that follows up on positive calls only makes
every sensitivity look like 1.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hounsfield.audit.reader import read as read_log
from hounsfield.config import CLASS_NAMES
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.labels import Row, read_csv, refuse, request_unit, study_unit
from hounsfield.rollout.ledger import Ledger, Mark, Story

KIND = "outcomes"
REFUSED = "refused"


@dataclass
class _Seen:
    """What the logs hold of one unit: by package digest when, what was called and in which groups."""

    predictions: dict[str, list[tuple[float, str, tuple[str, ...]]]] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)
    feedback: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Added:
    """What became of a file's rows; `record` is the hash in the ledger, None when nothing was new."""

    rows: int
    new: int
    known: int
    unmatched: tuple[int, ...]
    record: str | None


def add(
    ledger: Ledger,
    logs: Sequence[Path],
    path: Path,
    at: float,
    by: str,
    on_progress: Callable[[int], None] = lambda records: None,
) -> Added:
    """Put the labels of the CSV file `path` into the ledger, all or none, in one record.

    `logs` are folders of inference logs. Labels that were added before, or that a reader sent to the server,
    are left out; a row without a prediction is told and can be added later. Raises LabelError for a file with
    a row that cannot be used, or that contradicts an earlier label; then nothing is written.
    """
    rows = read_csv(path)
    lock = ledger.path.with_name(ledger.path.name + ".outcomes.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two at once would both find a label new
        seen = _join(rows, logs, on_progress)
        taken = {name for record in ledger.records() if record["kind"] == KIND for name in record["taken"]}
        refuse(path, _contradicting(rows, seen, taken))
        matched = [row for row in rows if row.unit in seen]
        new = [row for row in matched if not _is_known(row, seen[row.unit], taken)]
        unmatched = tuple(row.number for row in rows if row.unit not in seen)
        record = None
        if new:
            record = ledger.record(
                KIND,
                at,
                by=by,
                file_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                taken=sorted({name for row in new for name in _names(row, seen[row.unit])}),
                counts=_counts(new, seen, None, float("-inf")),
                rollouts=_rollouts(ledger.stories(), new, seen),
            )
    return Added(len(rows), len(new), len(matched) - len(new), unmatched, record)


class Inbox:
    """The labels that come in while a rollout runs: each counted in the first look after it."""

    def __init__(self, ledger: Ledger, started_at: float, seen: Iterable[str]) -> None:
        self._ledger, self._started_at, self._seen = ledger, started_at, set(seen)
        self._mark = Mark()
        self._waiting: list[dict[str, Any]] = []

    def added_to(self, observation: Observation) -> Observation:
        """`observation` with the labels that no look has counted yet; one without counters stays as it is."""
        records, self._mark = self._ledger.after(self._mark)
        self._waiting += [record for record in records if record["kind"] == KIND]
        if observation.stable is None or observation.canary is None:
            return observation
        waiting, self._waiting = self._waiting, []
        return with_labels(observation, waiting, self._started_at, self._seen)


def with_labels(
    observation: Observation, records: Iterable[Mapping[str, Any]], started_at: float, seen: set[str]
) -> Observation:
    """`observation` with the counts that `records` hold for the rollout of `started_at`; `seen` grows."""
    stable, canary = dict(observation.stable or {}), dict(observation.canary or {})
    names = list(observation.outcomes)
    for record in records:
        ours = [r for r in record["rollouts"] if r["started_at"] == started_at]
        if not ours or record["hash"] in seen:
            continue
        for counters, role in ((stable, "stable"), (canary, "canary")):
            for key, count in ours[0][role].items():
                counters[key] = counters.get(key, 0) + count
        seen.add(record["hash"])
        names.append(record["hash"])
    return replace(observation, stable=stable, canary=canary, outcomes=tuple(names))


def _contradicting(rows: Iterable[Row], seen: Mapping[str, _Seen], taken: set[str]) -> Iterator[str]:
    for row in rows:
        sent = seen[row.unit].feedback if row.unit in seen else set()
        if any(_name(row.unit, other) in taken for other in CLASS_NAMES if other != row.truth):
            yield f"row {row.number}: it was added before with the other label"
        elif row.instance is not None and sent - {row.truth}:
            yield f"row {row.number}: a reader gave the other label before"


def _join(rows: Sequence[Row], logs: Sequence[Path], on_progress: Callable[[int], None]) -> dict[str, _Seen]:
    """What the logs hold of the rows' units."""
    wanted = {row.unit for row in rows}
    seen: dict[str, _Seen] = {}
    by_request: dict[str, list[str]] = {}
    feedback: dict[str, set[str]] = {}
    read = 0
    for folder in logs:
        for record, _ in read_log(folder):
            read += 1
            if read % 10_000 == 0:
                on_progress(read)
            kind = record.get("kind")
            if kind not in ("prediction", "feedback"):
                continue
            request = request_unit(record["request_id"], record["instance"])
            if kind == "feedback":
                feedback.setdefault(request, set()).add(record["truth"])
                continue
            for unit in (request, study_unit(record.get("study", ""))):
                if unit in wanted:
                    found = seen.setdefault(unit, _Seen())
                    found.requests.add(request)
                    by_request.setdefault(request, []).append(unit)
                    groups = tuple(f"{key}={value}/" for key, value in record["subgroups"].items())
                    called = record["label"] or REFUSED
                    at = datetime.fromisoformat(record["time"]).timestamp()
                    found.predictions.setdefault(record["package_digest"], []).append((at, called, groups))
    for request, labels in feedback.items():
        for unit in by_request.get(request, ()):
            seen[unit].feedback |= labels
    return seen


def _is_known(row: Row, seen: _Seen, taken: set[str]) -> bool:
    """Whether this label, or one of an image in it, has been counted before."""
    if _name(row.unit, row.truth) in taken or seen.feedback:
        return True
    return any(_name(request, "") in taken for request in seen.requests)


def _names(row: Row, seen: _Seen) -> list[str]:
    return [_name(row.unit, row.truth), *(_name(request, "") for request in seen.requests)]


def _name(unit: str, truth: str) -> str:
    """By which a label is known again, and which does not tell it to someone who does not know the unit."""
    return hashlib.sha256(f"{truth}\n{unit}".encode()).hexdigest()[:24]


def _counts(
    rows: Iterable[Row], seen: Mapping[str, _Seen], digests: Sequence[str] | None, since: float
) -> dict[str, dict[str, int]]:
    """By package digest the counters of the rows, of predictions made at or after the unix time `since`."""
    found: dict[str, dict[str, int]] = {digest: {} for digest in digests or ()}
    for row in rows:
        for digest, predictions in seen[row.unit].predictions.items():
            recent = [prediction for prediction in predictions if prediction[0] >= since]
            if not recent or (digests is not None and digest not in digests):
                continue
            counters = found.setdefault(digest, {})
            for prefix in ("", *recent[-1][2]):
                key = f"{prefix}{row.truth}/{_called(row, recent)}"
                counters[key] = counters.get(key, 0) + 1
    return found


def _called(row: Row, predictions: Sequence[tuple[float, str, tuple[str, ...]]]) -> str:
    """Of a request what was said last; a study is positive when one of its images is."""
    if row.instance is not None:
        return predictions[-1][1]
    called = {prediction[1] for prediction in predictions}
    return next(name for name in (CLASS_NAMES[1], CLASS_NAMES[0], REFUSED) if name in called)


def _rollouts(
    stories: Sequence[Story], rows: Sequence[Row], seen: Mapping[str, _Seen]
) -> list[dict[str, Any]]:
    """The counts of both revisions since its start, for each rollout that runs or ended with a promotion."""
    found = []
    for story in stories:
        if story.outcome not in (None, "promoted"):
            continue
        stable, canary = story.revisions["stable"], story.revisions["canary"]
        counts = _counts(rows, seen, (stable, canary), story.started_at)
        if any(counts.values()):
            found.append({"started_at": story.started_at, "stable": counts[stable], "canary": counts[canary]})
    return found

"""The objects of a source, or of a part of it, examined in processes of their own; no labels yet."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hounsfield.data.examine import Examined, Rules, examine, examine_header, unread
from hounsfield.data.journal import Journal
from hounsfield.data.sample import is_simulated
from hounsfield.data.sources import FETCH_AHEAD, Item, Shard, Source, open_source
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.sandbox import Sandbox
from hounsfield.errors import DataError
from hounsfield.progress import Reporter

LOST_AFTER = 20
"""A remote source of which so many objects in a row cannot be read has gone away."""


WHOLE = Shard()


@dataclass(frozen=True)
class ShardSummary:
    """Objects of one shard: `examined` now, and `known` from an earlier run."""

    examined: int
    known: int


def read_shard(
    source: str | Path,
    out: Path,
    rules: Rules,
    shard: Shard = WHOLE,
    workers: int = 2,
    store: Path | None = None,
) -> ShardSummary:
    """Examine each object of `shard` that is not done yet, so that `out` holds all of them and no others.

    What is done is known from `out`, or from `store`, a folder that outlives `out` and shares its images. The
    source is only read. Raises DataError when it is empty or cannot be used, or goes away; what was done
    until then stays.
    """
    opened = open_source(source)
    folder = out if store is None else store / f"{shard.number}-of-{shard.count}"
    check_outside(source, folder)
    simulated = not opened.remote and is_simulated(Path(source))
    with Journal(folder, rules, simulated=simulated) as journal:
        counts: Counter[str] = Counter()
        todo = _todo(opened, shard, rules, journal, counts)
        lost = 0
        for (name, _), outcome in _outcomes(todo, opened, rules, journal.images, workers):
            reason = outcome.refusal[0] if outcome.refusal else None
            # A network may be better next time, a file's permissions put right, a busy machine idle.
            journal.add(name, outcome, again=reason in (Reason.UNREADABLE, Reason.DECODE_TIMEOUT))
            lost = lost + 1 if reason == Reason.UNREADABLE and opened.remote else 0
            if lost == LOST_AFTER:
                raise DataError(
                    f"the source has gone away: {lost} objects in a row could not be read, the last one with "
                    f"{outcome.refusal[1]!r}; run again to go on from here"
                )
            counts["examined"] += 1
        if not counts["listed"]:
            raise DataError(f"data source {source} is empty: put DICOM files into it")
        journal.forget_the_gone()
        if store is not None:
            journal.copy_to(out)
    return ShardSummary(counts["examined"], counts["known"])


def check_outside(source: str | Path, folder: Path) -> None:
    """Raise DataError when `folder` lies in the source: the next run would take it for data."""
    if not open_source(source).remote and folder.resolve().is_relative_to(Path(source).resolve()):
        raise DataError(f"the output folder {folder.name} lies in the data folder: choose one outside of it")


def _todo(
    source: Source, shard: Shard, rules: Rules, journal: Journal, counts: Counter
) -> Iterator[tuple[str, Item]]:
    """(name in the journal, object) of what is not done; counts what is `listed` and `known`, and reports."""
    total = source.count()
    if total == 0:
        return
    progress = Reporter("read", total or 1)
    for item in source.items():
        counts["listed"] += 1
        # Where the source does not say how many there are, the bar is as long as what was seen.
        progress.total = total or counts["listed"] + 1
        progress.update(counts["listed"], "files")
        if not shard.holds(item):
            continue
        name = rules.digest_of("item", f"{item.name}\0{item.version}")
        if name in journal:
            counts["known"] += 1
        else:
            yield name, item


def _outcomes(
    todo: Iterable[tuple[str, Item]], source: Source, rules: Rules, images: Path, workers: int
) -> Iterator[tuple[tuple[str, Item], Examined]]:
    def fetch(job: tuple[str, Item]) -> tuple[str, bytes | Path]:
        return job[0], source.fetch(job[1])

    work = functools.partial(examine, rules=rules, folder=images)
    with Sandbox(workers) as sandbox:
        for job, result in sandbox.map(work, todo, prepare=fetch, threads=workers * FETCH_AHEAD):
            if isinstance(result, Refused):
                result = _after_refusal(sandbox, fetch, job, rules, result)
            yield job, result


def _after_refusal(
    sandbox: Sandbox, fetch: Callable, job: tuple[str, Item], rules: Rules, refusal: Refused
) -> Examined:
    """The object could not be fetched, or took its worker along: then its header alone may still be read."""
    if refusal.reason not in (Reason.DECODER_ABORTED, Reason.DECODE_TIMEOUT):
        return unread(refusal)
    try:
        again = fetch(job)
    except Refused:
        return unread(refusal)
    try:
        return sandbox.call(functools.partial(examine_header, rules=rules, refusal=refusal), again)
    except Refused:
        return unread(refusal, again[1])

"""From DICOM objects and a labels file to a data set: every object is accepted or quarantined, with a reason.

Two halves: `shard.read_shard` examines the objects of a source and knows no labels, `collect.collect` joins
shards and labels. A pipeline runs the first as often as it has shards; `ingest` is both on one machine.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hounsfield.data.collect import IngestSummary, collect
from hounsfield.data.examine import Rules
from hounsfield.data.labels import load_labels
from hounsfield.data.shard import check_outside, read_shard


def ingest(
    source: str | Path,
    labels: Path,
    out: Path,
    rules: Rules,
    seed: int = 7,
    workers: int = 2,
    store: Path | None = None,
) -> IngestSummary:
    """Write the data set of `source` (see `sources.open_source`) to `out`.

    With a `store`, a folder that outlives the run, the next one examines only what is new in the source.
    Raises what the two halves raise; for a labels file that cannot be used before anything is read.
    """
    load_labels(labels)
    check_outside(source, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if store is None:
            # Beside the data set, so that its images are linked and not copied.
            scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent)
            store = Path(stack.enter_context(scratch))
        read_shard(source, store, rules, workers=workers)
        return collect([store], labels, out, rules, seed=seed)

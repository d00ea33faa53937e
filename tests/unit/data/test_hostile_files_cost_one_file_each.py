"""Files that end or hold up the process that reads them, and damaged ones: the run goes on and names each."""

import functools
import os
import shutil
import time

from bench.ingest.mutants import account, write
from hounsfield.data import examine as real
from hounsfield.data import shard
from hounsfield.data.examine import Rules
from hounsfield.data.ingest import ingest
from hounsfield.dicom.sandbox import Sandbox

RULES = Rules(b"a key for the tests only")


def examine(job, rules, folder):
    """As the real one, but some files do to it what a decoder may do."""
    data = job[1].read_bytes()
    if data.endswith(b"ABORT"):
        os.abort()
    if data.endswith(b"HANGS"):
        time.sleep(3600)
    return real.examine(job, rules, folder)


def test_an_abort_and_a_hang_cost_one_file_each(sample, tmp_path, monkeypatch):
    source = shutil.copytree(sample / "dicom", tmp_path / "source")
    taken = [path for path in sorted(source.rglob("*.dcm")) if path.stat().st_size > 7000]
    for path, ending in zip(taken, (b"ABORT", b"HANGS"), strict=False):
        path.write_bytes(path.read_bytes() + ending)
    monkeypatch.setattr(shard, "examine", examine)
    monkeypatch.setattr(shard, "Sandbox", functools.partial(Sandbox, timeout_s=5))
    summary = ingest(source, sample / "labels.csv", tmp_path / "set", RULES)
    assert summary.by_reason["decoder_aborted"] == 1
    assert summary.by_reason["decode_timeout"] == 1
    assert summary.accepted + summary.quarantined == 128
    assert summary.accepted >= 118


def test_every_mutated_file_is_accounted_for(tmp_path):
    assert write(tmp_path / "source", files=120, seed=2) == 120
    outcomes = account(tmp_path / "source", tmp_path / "read")
    assert outcomes.total() == 120
    assert len(outcomes) >= 5

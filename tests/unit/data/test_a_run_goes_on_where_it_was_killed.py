"""The journal: nothing is examined twice or lost, what is new is taken, what is gone is forgotten."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest

from hounsfield.data.examine import Rules
from hounsfield.data.fingerprint import file_sha256, source_fingerprint
from hounsfield.data.ingest import ingest
from hounsfield.data.journal import IMAGES, JOURNAL
from hounsfield.data.shard import ShardSummary, read_shard
from hounsfield.data.sources import Shard
from hounsfield.dicom.frames import Frames
from hounsfield.errors import ConfigError, DataError, PlatformError

RULES = Rules(b"a key for the tests only")
FILES = 128


@pytest.fixture(scope="module")
def done(sample, tmp_path_factory):
    """The sample, read once; a test works on its own copy."""
    folder = tmp_path_factory.mktemp("read") / "all"
    assert read_shard(sample / "dicom", folder, RULES) == ShardSummary(examined=FILES, known=0)
    return folder


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "read")


def records(folder):
    return [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()[1:]]


def images(folder):
    return sorted(path.name for path in (folder / IMAGES).iterdir())


def test_a_killed_run_goes_on_without_doing_a_file_twice(sample, done, tmp_path):
    out = tmp_path / "read"
    program = f"""
        from pathlib import Path
        from hounsfield.data.examine import Rules
        from hounsfield.data.shard import read_shard
        if __name__ == "__main__":
            read_shard({str(sample / "dicom")!r}, Path({str(out)!r}), Rules(b"a key for the tests only"))
    """
    (tmp_path / "run.py").write_text(textwrap.dedent(program))
    process = subprocess.Popen([sys.executable, tmp_path / "run.py"], start_new_session=True)
    journal = out / JOURNAL
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    lines = journal.read_bytes().split(b"\n")
    before = {json.loads(line)["item"] for line in lines[1:-1]}
    assert 20 <= len(before) < FILES
    with journal.open("ab") as stream:
        stream.write(b'{"item": "half a li')
    done_at = {path.name: path.stat().st_mtime_ns for path in (out / IMAGES).iterdir()}

    assert read_shard(sample / "dicom", out, RULES) == ShardSummary(FILES - len(before), len(before))

    found = records(out)
    assert len(found) == len({record["item"] for record in found}) == FILES
    kept = [image["file"] for record in found if record["item"] in before for image in record["images"]]
    assert all((out / IMAGES / name).stat().st_mtime_ns == done_at[name] for name in kept)
    assert images(out) == images(done)
    assert {record["sha256"] for record in found} == {record["sha256"] for record in records(done)}


def test_a_run_over_the_same_files_examines_none(sample, copy):
    assert read_shard(sample / "dicom", copy, RULES) == ShardSummary(examined=0, known=FILES)


def test_a_day_of_new_files_is_all_that_is_examined_and_what_is_gone_is_forgotten(sample, done, tmp_path):
    source = shutil.copytree(sample / "dicom", tmp_path / "source", copy_function=shutil.copy2)
    out = shutil.copytree(done, tmp_path / "read")
    files = sorted(source.rglob("*.dcm"))
    for number, path in enumerate(files[:5]):
        shutil.copy(path, source / f"new-{number}.dcm")
    gone = {file_sha256(path) for path in files[-3:]}
    for path in files[-3:]:
        path.unlink()
    assert read_shard(source, out, RULES) == ShardSummary(examined=5, known=FILES - 3)
    found = records(out)
    assert len(found) == FILES + 5 - 3
    assert not gone & {record["sha256"] for record in found}
    assert images(out) == sorted(image["file"] for record in found for image in record["images"])


def test_a_file_that_changed_is_examined_again(sample, done, tmp_path):
    source = shutil.copytree(sample / "dicom", tmp_path / "source", copy_function=shutil.copy2)
    out = shutil.copytree(done, tmp_path / "read")
    changed = next(source.rglob("*.dcm"))
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    assert read_shard(source, out, RULES) == ShardSummary(examined=1, known=FILES - 1)
    assert len(records(out)) == FILES


@pytest.mark.parametrize(
    "rules",
    [
        Rules(b"another key for the tests"),
        dataclasses.replace(RULES, frames=Frames.SPLIT),
        dataclasses.replace(RULES, allowed_sop_classes=frozenset({"1.2.3"})),
    ],
)
def test_what_other_rules_have_made_is_made_anew(rules, sample, copy):
    before = images(copy)
    assert read_shard(sample / "dicom", copy, rules).examined == FILES
    assert images(copy) != before


def test_an_image_that_a_power_cut_left_short_is_made_again(sample, copy):
    lost, short = images(copy)[:2]
    (copy / IMAGES / lost).unlink()
    (copy / IMAGES / short).write_bytes(b"")
    assert read_shard(sample / "dicom", copy, RULES) == ShardSummary(examined=2, known=FILES - 2)
    assert (copy / IMAGES / short).stat().st_size > 1000


def test_labels_that_change_cost_no_reading(sample, copy, tmp_path):
    text = (sample / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(text[:1] + text[2:]))
    journal = (copy / JOURNAL).read_bytes()
    rounds = [
        ingest(sample / "dicom", labels, tmp_path / "set", RULES, store=copy)
        for labels in (sample / "labels.csv", tmp_path / "labels.csv")
    ]
    assert [summary.accepted + summary.quarantined for summary in rounds] == [FILES, FILES]
    assert [summary.by_reason["no_label"] for summary in rounds] == [1, 2]
    assert (copy / JOURNAL).read_bytes() == journal


def test_shards_together_give_the_data_set_of_one(sample, done, tmp_path):
    from hounsfield.data.collect import collect

    parts = [tmp_path / str(number) for number in (1, 2, 3)]
    counts = [
        read_shard(sample / "dicom", part, RULES, Shard(n, 3)).examined for n, part in enumerate(parts, 1)
    ]
    assert sum(counts) == FILES
    assert min(counts) > 25
    whole = collect([done], sample / "labels.csv", tmp_path / "whole", RULES)
    assert collect(parts, sample / "labels.csv", tmp_path / "joined", RULES) == whole
    for table in ("index.parquet", "quarantine.parquet"):
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(tmp_path / name / table) for name in ("whole", "joined"))
        )


def test_data_that_breaks_a_limit_of_its_reference_profile_makes_no_data_set(sample, done, tmp_path):
    from hounsfield.data.collect import collect

    collect([done], sample / "labels.csv", tmp_path / "set", RULES)
    profile = json.loads((tmp_path / "set" / "profile.json").read_text())
    assert collect([done], sample / "labels.csv", tmp_path / "new", RULES, reference=tmp_path / "set")
    profile["expectations"]["rows"]["max"] = 63
    (tmp_path / "edited.json").write_text(json.dumps(profile))
    with pytest.raises(DataError, match="rows: 120 of 120 images lie outside 32 to 63: 64 to 64"):
        collect([done], sample / "labels.csv", tmp_path / "no", RULES, reference=tmp_path / "edited.json")
    assert not (tmp_path / "no").exists()


def test_a_store_is_shared_and_not_copied(sample, copy, tmp_path):
    store = tmp_path / "store"
    shutil.move(copy, store / "1-of-1")
    done = read_shard(sample / "dicom", tmp_path / "out", RULES, store=store)
    assert done == ShardSummary(examined=0, known=FILES)
    name = images(tmp_path / "out")[0]
    assert (tmp_path / "out" / IMAGES / name).samefile(store / "1-of-1" / IMAGES / name)


def test_two_runs_do_not_write_to_one_folder(sample, copy):
    from hounsfield.data.journal import Journal

    with Journal(copy, RULES), pytest.raises(PlatformError, match="another ingest is writing"):
        read_shard(sample / "dicom", copy, RULES)


def test_a_name_in_the_source_is_written_nowhere(sample, tmp_path):
    source = tmp_path / "Miller^Anna 1950-01-01"
    source.mkdir()
    shutil.copy(next((sample / "dicom").rglob("*.dcm")), source / "Miller^Anna.dcm")
    read_shard(source, tmp_path / "read", RULES)
    written = [path for path in (tmp_path / "read").rglob("*") if path.is_file()]
    assert len(written) >= 2
    for path in written:
        assert b"Miller" not in path.read_bytes() + path.name.encode()


def test_a_damaged_shard_is_one_sentence(tmp_path, sample):
    from hounsfield.data.collect import collect

    with pytest.raises(DataError, match="is missing or damaged in the shard"):
        collect([tmp_path / "nothing"], sample / "labels.csv", tmp_path / "set", RULES)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="the third of eight"):
        Shard.parse(text)


def test_the_fingerprint_of_a_source_follows_names_sizes_and_times(sample, tmp_path):
    labels = sample / "labels.csv"
    source = Path(shutil.copytree(sample / "dicom", tmp_path / "source", copy_function=shutil.copy2))
    first = source_fingerprint(source, labels)
    assert source_fingerprint(str(source), labels) == first
    os.utime(next(source.rglob("*.dcm")), (1, 1))
    assert source_fingerprint(source, labels) != first

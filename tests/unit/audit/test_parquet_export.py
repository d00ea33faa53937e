"""The Parquet export: typed columns that lead back to the record, added to by each run, never in halves."""

import base64

import numpy as np
import orjson
import pandas as pd
import pyarrow.parquet
import pytest

from hounsfield.audit import parquet
from hounsfield.audit.chain import ChainError
from hounsfield.audit.parquet import export
from hounsfield.audit.reader import read
from hounsfield.audit.retention import purge
from hounsfield.audit.segments import Writer, segment_paths
from hounsfield.errors import AuditError
from tests.unit.audit.small_logs import write

PREDICTION = {
    "kind": "prediction",
    "time": "2026-11-21T14:30:00.123456Z",
    "request_id": "r-1",
    "instance": 1,
    "caller": "ward-3",
    "study": "0123456789abcdef",
    "shadow": False,
    "door": "grpc",
    "model_name": "opacity",
    "model_version": "3",
    "package_digest": "a" * 64,
    "contract_digest": "b" * 64,
    "input_kind": "dicom",
    "input_sha256": "c" * 64,
    "probability": 0.1234567890123,
    "label": "negative",
    "review_required": True,
    "refusal": "",
    "latency_s": 0.031,
    "embedding": base64.b64encode(np.array([0.5, -1.5, 65504, 2**-24], "<f2").tobytes()).decode(),
    "subgroups": {"patient_sex": "F", "age_band": "40-64"},
}
REFUSED = {**PREDICTION, "probability": None, "label": "", "refusal": "no_pixels", "embedding": None}
FEEDBACK = {"kind": "feedback", "time": "2026-11-22T00:00:00Z", "request_id": "r-1", "truth": "positive"}
SETTINGS = {"kind": "opened", "time": "2026-11-21T00:00:00Z", "retention_days": 30, "sync": True}


def log_of(folder, *records):
    writer = Writer(folder, sync=False)
    writer.commit([orjson.dumps(item) for item in records])
    writer.close()
    return folder


def table(out):
    return pyarrow.parquet.ParquetDataset(sorted(out.glob("*.parquet"))).read()


def test_each_field_has_its_type_and_value(tmp_path):
    log_of(tmp_path / "log", SETTINGS, PREDICTION, REFUSED, FEEDBACK)
    done = export(tmp_path / "log", tmp_path / "out")
    assert (done.records, done.unchanged, done.missed) == (4, 0, 0)
    (path,) = done.written
    assert path.name == "00000000000000000000.parquet"
    rows = table(tmp_path / "out")
    assert str(rows.schema.field("embedding").type) == "list<element: float>"
    assert str(rows.schema.field("time").type) == "timestamp[us, tz=UTC]"
    opened, prediction, refused, feedback = rows.to_pylist()
    for name in set(PREDICTION) - {"time", "embedding", "subgroups"}:
        assert prediction[name] == PREDICTION[name], name
    assert prediction["time"].isoformat() == "2026-11-21T14:30:00.123456+00:00"
    assert prediction["embedding"] == [0.5, -1.5, 65504.0, 2.0**-24]
    assert dict(prediction["subgroups"]) == PREDICTION["subgroups"]
    assert prediction["other"] is None
    assert refused["embedding"] is None
    assert refused["probability"] is None
    assert (feedback["truth"], feedback["instance"]) == ("positive", None)
    assert orjson.loads(opened["other"]) == {"retention_days": 30, "sync": True}


def test_each_row_leads_back_to_its_record(folder, tmp_path):
    export(folder, tmp_path / "out")
    rows = table(tmp_path / "out").to_pylist()
    assert [row["sequence"] for row in rows] == list(range(48))
    assert [row["hash"] for row in rows] == [cursor.hash for _, cursor in read(folder)]
    assert len(pd.read_parquet(tmp_path / "out")) == 48


def test_a_second_run_adds_what_is_new_and_leaves_the_rest(folder, tmp_path):
    out = tmp_path / "out"
    export(folder, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert export(folder, out).written == ()
    write(folder, range(48, 58), segment_bytes=2200)
    done = export(folder, out)
    assert [path.name for path in done.written] == [f"{48:020d}.parquet", f"{56:020d}.parquet"]
    assert (done.records, done.unchanged) == (10, 6)
    write(folder, range(58, 59), segment_bytes=2200)
    assert [path.name for path in export(folder, out).written] == [f"{56:020d}.parquet"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [row["sequence"] for row in table(out).to_pylist()] == list(range(59))


def test_files_of_purged_segments_stay_and_what_no_export_had_is_counted(folder, tmp_path, clock):
    out = tmp_path / "out"
    export(folder, out)
    clock.now_s += 1e6
    write(folder, range(48, 66), segment_bytes=2200)  # 48 to 55, 56 to 63, and 64 on
    purge(folder, 0, through=segment_paths(folder)[7].name, clock=clock)
    done = export(folder, out)
    assert done.missed == 16
    assert [row["sequence"] for row in table(out).to_pylist()] == [*range(48), *range(64, 67)]
    assert export(folder, out).missed == 16  # as long as the gap lies before the oldest segment


def test_a_purge_after_each_export_misses_nothing(folder, tmp_path, clock):
    out = tmp_path / "out"
    for start in range(48, 96, 8):
        assert export(folder, out).missed == 0
        clock.now_s += 1e6
        purge(folder, 0, clock=clock)
        write(folder, range(start, start + 8), segment_bytes=2200)
    assert export(folder, out).missed == 0
    assert [row["sequence"] for row in table(out).to_pylist()] == list(range(48 + 6 * 8 + 6))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("probability", "high", r"0\.jsonl: a record's 'probability' is not a double"),
        ("label", 3, r"0\.jsonl: a record's 'label' is not a string"),
        ("shadow", "no", r"0\.jsonl: a record's 'shadow' is not a bool"),
        ("instance", 2**40, r"0\.jsonl: a record's 'instance' is not a int32"),
        ("embedding", "AAA", r"0\.jsonl record 1: its embedding is not base64 of float16"),
        ("embedding", 7, r"0\.jsonl record 1: its embedding is not base64 of float16"),
        ("time", "noon", r"0\.jsonl record 1: its time is not ISO 8601"),
        ("subgroups", {"age_band": 7}, r"0\.jsonl: a record's 'subgroups' is not a map"),
        ("subgroups", "F", r"0\.jsonl record 1: its subgroups are not an object"),
    ],
)
def test_a_record_of_other_types_is_named_and_nothing_is_half_written(tmp_path, field, value, sentence):
    log_of(tmp_path / "log", PREDICTION, {**PREDICTION, field: value})
    with pytest.raises(AuditError, match=sentence):
        export(tmp_path / "log", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_edited_log_is_not_exported(folder, tmp_path):
    path = segment_paths(folder)[1]
    path.write_bytes(path.read_bytes().replace(b"r-12", b"r-21"))
    with pytest.raises(ChainError, match="record 12: the record was edited"):
        export(folder, tmp_path / "out")
    assert [item.name for item in (tmp_path / "out").iterdir()] == [f"{0:020d}.parquet"]


def test_another_logs_export_is_not_overwritten(folder, tmp_path):
    export(folder, tmp_path / "out")
    log_of(tmp_path / "other", PREDICTION)
    with pytest.raises(AuditError, match="is of another log; export each log to its own folder"):
        export(tmp_path / "other", tmp_path / "out")
    (tmp_path / "out" / f"{0:020d}.parquet").write_bytes(b"PAR1")
    with pytest.raises(AuditError, match="was not written by this export; remove it"):
        export(folder, tmp_path / "out")


def test_a_log_of_many_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP", 7)
    folder = tmp_path / "log"
    write(folder, range(30))
    export(folder, tmp_path / "out")
    file = pyarrow.parquet.ParquetFile(tmp_path / "out" / f"{0:020d}.parquet")
    assert file.num_row_groups == 5
    assert [row["request_id"] for row in file.read().to_pylist()] == [f"r-{number}" for number in range(30)]


def test_no_log_is_named(tmp_path):
    with pytest.raises(AuditError, match="there is no log in this folder, or it is empty"):
        export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

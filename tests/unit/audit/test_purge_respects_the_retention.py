"""A purge deletes what is old enough, leaves its own record, and refuses anything younger."""

import threading

import orjson
import pytest

from hounsfield.audit import chain, retention
from hounsfield.audit.chain import ChainError
from hounsfield.audit.reader import read
from hounsfield.audit.retention import purge
from hounsfield.audit.segments import Writer, segment_paths
from hounsfield.audit.verification import verify
from hounsfield.errors import AuditError
from hounsfield.serving.inference_log import InferenceLog
from tests.unit.audit.small_logs import record, write

DAY_S = 86_400.0
MIDNIGHT_S = 1_795_219_200.0  # 2026-11-21T00:00:00Z; record n of the log is of n seconds later


def test_segments_older_than_the_retention_go_and_the_log_still_verifies(folder, clock):
    # The third segment ends with record 23: at 23 s past midnight, ten days later, it is just old enough.
    clock.now_s = MIDNIGHT_S + 10 * DAY_S + 23
    done = purge(folder, 10, by="a person", clock=clock)
    assert done.segments == tuple(f"{n:020d}.jsonl" for n in (0, 8, 16))
    assert (done.records, done.young) == (24, f"{24:020d}.jsonl")
    assert done.young_newest == "2026-11-21T00:00:31.000000+00:00"
    assert [int(path.stem) for path in segment_paths(folder)][:3] == [24, 32, 40]
    assert verify(folder).count == 49
    items = [item for item, _ in read(folder)]
    assert items[0]["request_id"] == "r-24"
    assert items[-1]["kind"] == "purge"
    assert items[-1]["by"] == "a person"
    assert items[-1]["retention_days"] == 10
    assert [(item["first"], item["count"]) for item in items[-1]["segments"]] == [(0, 8), (8, 8), (16, 8)]
    assert (
        items[-1]["segments"][2]["hash"]
        == chain.parse_json(segment_paths(folder)[0].read_bytes().splitlines()[0])["previous"]
    )


def test_a_segment_one_second_too_young_stays(folder, clock):
    clock.now_s = MIDNIGHT_S + 10 * DAY_S + 22
    assert purge(folder, 10, clock=clock).records == 16


def test_nothing_old_enough_leaves_the_log_alone(folder, clock):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    clock.now_s = MIDNIGHT_S + DAY_S
    done = purge(folder, 10, clock=clock)
    assert (done.segments, done.records, done.young) == ((), 0, f"{0:020d}.jsonl")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_segment_asked_for_that_is_too_young_is_refused_by_name_date_and_retention(folder, clock):
    clock.now_s = MIDNIGHT_S + 10 * DAY_S + 20
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(AuditError) as error:
        purge(folder, 10, through=f"{32:020d}.jsonl", clock=clock)
    assert str(error.value) == (
        "00000000000000000016.jsonl holds a record of 2026-11-21T00:00:23.000000+00:00, "
        "younger than the retention of 10 days; nothing was deleted"
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert purge(folder, 10, through=f"{0:020d}.jsonl", clock=clock).records == 8
    with pytest.raises(AuditError, match=r"no segment 'x'; the oldest is 0+8\.jsonl"):
        purge(folder, 10, through="x", clock=clock)


def test_an_idle_log_is_purged_whole_and_goes_on(folder, clock):
    clock.now_s += 100 * DAY_S
    assert purge(folder, 10, clock=clock).records == 48
    write(folder, range(48, 50))
    assert [item["kind"] for item, _ in read(folder)] == ["purge", "prediction", "prediction"]
    assert verify(folder).count == 51


def test_a_purge_of_a_purge(folder, clock):
    for days in range(1, 5):
        clock.now_s = MIDNIGHT_S + days * 100 * DAY_S
        assert purge(folder, 10, clock=clock).records == (48 if days == 1 else 1)
        assert verify(folder).count == 48 + days
    assert len(segment_paths(folder)) == 1


def test_the_writer_at_work_goes_on_in_the_segment_that_the_purge_began(folder, clock):
    writer = Writer(folder)
    clock.now_s += 100 * DAY_S
    for number in range(48, 51):
        purge(folder, 0, clock=clock)
        purge(folder, 0, clock=clock)
        writer.commit([record(number)])
        clock.now_s += 100 * DAY_S
    writer.close()
    assert verify(folder).count == 48 + 3 + 6
    assert "recovered" not in {item["kind"] for item, _ in read(folder)}


def test_purges_under_load_delete_no_record_that_they_do_not_name(tmp_path, clock):
    # Each purge takes the segment that the writer is adding to at that moment, too.
    clock.now_s += 1000 * DAY_S
    stop, appended, purged = threading.Event(), [], 0
    item = {"kind": "prediction", "time": "2026-11-21T00:00:00Z"}
    with InferenceLog(tmp_path, sync=False, segment_bytes=50_000) as log:

        def client():
            while not stop.is_set():
                log.append([item] * 3).result(20)
                appended.extend([item] * 3)

        clients = [threading.Thread(target=client) for _ in range(3)]
        for thread in clients:
            thread.start()
        try:
            for _ in range(25):
                purged += purge(tmp_path, 0, clock=clock).records
                assert verify(tmp_path).count >= purged
        finally:
            stop.set()
            for thread in clients:
                thread.join()
    left = [record["kind"] for record, _ in read(tmp_path)]
    assert purged + len(left) == verify(tmp_path).count == 1 + len(appended) + 25
    assert "recovered" not in left


def test_the_first_segments_deleted_by_hand_beyond_a_purge_are_found(folder, clock):
    clock.now_s = MIDNIGHT_S + 10 * DAY_S + 23
    purge(folder, 10, clock=clock)
    segment_paths(folder)[0].unlink()
    with pytest.raises(ChainError, match="the log begins with record 32, and no purge in it covers"):
        verify(folder)


def test_a_purge_that_was_killed_between_two_deletions_verifies_and_is_finished_by_the_next(
    folder, clock, monkeypatch
):
    clock.now_s = MIDNIGHT_S + 10 * DAY_S + 23
    real, deleted = retention.Path.unlink, []

    def killed(path, **options):
        if len(deleted) == 1:
            raise KeyboardInterrupt
        deleted.append(path)
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(retention.Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            purge(folder, 10, clock=clock)
    assert segment_paths(folder)[0].name == f"{8:020d}.jsonl"
    assert verify(folder).count == 49
    assert purge(folder, 10, clock=clock).records == 16
    assert verify(folder).count == 50


def test_a_tampered_log_is_not_purged(folder, clock):
    clock.now_s += 100 * DAY_S
    path = segment_paths(folder)[4]
    path.write_bytes(path.read_bytes().replace(b"r-33", b"r-44"))
    with pytest.raises(ChainError, match="record 33"):
        purge(folder, 10, clock=clock)
    assert len(segment_paths(folder)) == 6


def test_the_logs_own_retention_is_the_shortest_allowed(tmp_path, clock):
    folder = tmp_path / "log"
    InferenceLog(folder, retention_days=30).close()
    clock.now_s = 4e9  # long after
    with pytest.raises(AuditError, match="of 7 days is shorter than the log's own of 30 days; nothing was"):
        purge(folder, 7, clock=clock)
    assert purge(folder, clock=clock).records == 1
    # The record that said so is gone; the purge carried it on.
    with pytest.raises(AuditError, match="shorter than the log's own of 30 days"):
        purge(folder, 7, clock=clock)
    # Another setting is a record of the chain, too.
    InferenceLog(folder, retention_days=5).close()
    clock.now_s += 10 * DAY_S
    assert purge(folder, 7, clock=clock).records == 2


def test_a_log_without_a_retention_needs_one(folder):
    with pytest.raises(AuditError, match="the log names no retention; say how many days"):
        purge(folder)
    for days in (-1, float("nan")):
        with pytest.raises(AuditError, match="is not one; give 0 or more"):
            purge(folder, days)


@pytest.mark.parametrize("value", [None, 5, "yesterday"])
def test_records_whose_age_is_not_known_stay(tmp_path, value):
    writer = Writer(tmp_path)
    writer.commit([orjson.dumps({"kind": "prediction", "time": value})])
    writer.close()
    with pytest.raises(AuditError, match=r"record 0: it has no time in ISO 8601.*; nothing was deleted"):
        purge(tmp_path, 0)

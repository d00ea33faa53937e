"""The inference log: no future ends before its records are on the disk, and none waits for ever."""

import asyncio
import threading
import time

import numpy as np
import pytest

from hounsfield.audit import segments
from hounsfield.audit.reader import read
from hounsfield.audit.verification import verify
from hounsfield.errors import AuditError
from hounsfield.serving.inference_log import InferenceLog

WAIT_S = 20


def record(number, **fields):
    return {
        "kind": "prediction",
        "time": "2026-11-21T14:30:00.000000Z",
        "request_id": f"r-{number}",
        "probability": 0.5,
        **fields,
    }


def ids(folder):
    return [item["request_id"] for item, _ in read(folder) if item["kind"] == "prediction"]


class Disk:
    """Counts the writer's syncs, and holds them up while `gate` is closed."""

    def __init__(self, monkeypatch):
        self.syncs = 0
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Event()
        real = segments.write_whole

        def slow(file, content, end, sync):
            self.syncs += sync
            self.at_gate.set()
            assert self.gate.wait(WAIT_S)
            real(file, content, end, sync)

        monkeypatch.setattr(segments, "write_whole", slow)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_a_future_ends_when_its_records_are_on_the_disk_and_not_before(tmp_path, disk):
    with InferenceLog(tmp_path) as log:
        disk.gate.clear()
        future = log.append([record(0), record(1)])
        assert not future.done()
        assert log.depth() == 2
        assert ids(tmp_path) == []
        disk.gate.set()
        assert future.result(WAIT_S) is None
        assert ids(tmp_path) == ["r-0", "r-1"]
        assert log.depth() == 0


def test_requests_that_wait_together_share_one_write_and_one_sync(tmp_path, disk):
    with InferenceLog(tmp_path) as log:
        disk.gate.clear()
        disk.at_gate.clear()
        futures = [log.append([record(0)])]
        assert disk.at_gate.wait(WAIT_S)
        before = disk.syncs
        futures += [log.append([record(number)]) for number in range(1, 65)]
        disk.gate.set()
        for future in futures:
            future.result(WAIT_S)
        assert disk.syncs - before == 1
        assert ids(tmp_path) == [f"r-{number}" for number in range(65)]


def test_without_sync_nothing_is_synced(tmp_path, disk):
    with InferenceLog(tmp_path, sync=False) as log:
        log.append([record(0)]).result(WAIT_S)
        assert disk.syncs == 0
    assert next(read(tmp_path))[0]["sync"] is False


def test_each_start_is_a_record_with_the_settings(tmp_path):
    for days in (3650, None):
        InferenceLog(tmp_path, retention_days=days).close()
    opened = [item for item, _ in read(tmp_path)]
    assert [(item["kind"], item["retention_days"], item["sync"]) for item in opened] == [
        ("opened", 3650, True),
        ("opened", None, True),
    ]


def test_closing_writes_all_that_waits(tmp_path, disk):
    log = InferenceLog(tmp_path)
    disk.gate.clear()
    futures = [log.append([record(number)]) for number in range(20)]
    closing = threading.Thread(target=log.close)
    closing.start()
    disk.gate.set()
    closing.join(WAIT_S)
    assert all(future.done() and future.exception() is None for future in futures)
    assert len(ids(tmp_path)) == 20
    with pytest.raises(AuditError, match="the inference log is closed: the server is stopping"):
        log.append([record(20)])
    log.close()


def test_more_than_the_backlog_is_refused_at_once(tmp_path, disk):
    with InferenceLog(tmp_path, max_backlog=10) as log:
        disk.gate.clear()
        futures = [log.append([record(0)] * 6), log.append([record(1)] * 4)]
        with pytest.raises(AuditError, match="10 records wait for the inference log's disk, 10 may"):
            log.append([record(2)])
        disk.gate.set()
        for future in futures:
            future.result(WAIT_S)
        log.append([record(3)]).result(WAIT_S)
    assert len(ids(tmp_path)) == 11


def test_a_disk_that_fails_ends_the_futures_with_an_error_and_the_next_ones_well(tmp_path, monkeypatch):
    with InferenceLog(tmp_path) as log:
        log.append([record(0)]).result(WAIT_S)

        def broken(_):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("hounsfield.audit.log.os.fdatasync", broken)
            for number in range(3):
                with pytest.raises(AuditError, match="cannot be written: Input/output error"):
                    log.append([record(100 + number)]).result(WAIT_S)
        log.append([record(1)]).result(WAIT_S)
    assert ids(tmp_path) == ["r-0", "r-1"]
    assert verify(tmp_path).count == 3


def test_an_unforeseen_failure_leaves_nobody_waiting(tmp_path, monkeypatch):
    with InferenceLog(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(segments, "write_line", None)
            with pytest.raises(AuditError, match="the inference log failed: TypeError"):
                log.append([record(0)]).result(WAIT_S)
        log.append([record(1)]).result(WAIT_S)
    assert ids(tmp_path) == ["r-1"]


def test_a_record_that_is_not_json_is_refused_and_its_values_stay_out_of_the_error(tmp_path):
    with InferenceLog(tmp_path) as log:
        with pytest.raises(AuditError) as error:
            log.append([record(0), record(1, secret={"Anna Example"})])
        assert "Anna" not in str(error.value)
        log.append([record(2, latency_s=float("nan"))]).result(WAIT_S)
        with pytest.raises(AuditError):
            log.append([record(3, probability=np.float32(0.5))])
    (item,) = [item for item, _ in read(tmp_path) if item["kind"] == "prediction"]
    assert item["latency_s"] is None


def test_no_records_are_on_the_disk_at_once(tmp_path):
    with InferenceLog(tmp_path) as log:
        log.append([]).result(WAIT_S)
    assert verify(tmp_path).count == 1


def test_a_client_that_hangs_up_neither_loses_its_record_nor_breaks_the_others(tmp_path, disk):
    async def requests(log):
        disk.gate.clear()
        gone, other = (asyncio.create_task(log.commit([record(number)])) for number in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        disk.gate.set()
        await asyncio.wait_for(other, WAIT_S)

    with InferenceLog(tmp_path) as log:
        asyncio.run(requests(log))
        log.append([record(2)]).result(WAIT_S)
    assert ids(tmp_path) == ["r-0", "r-1", "r-2"]


def test_the_event_loop_goes_on_while_the_disk_is_slow(tmp_path, disk):
    async def requests(log):
        disk.gate.clear()
        waiting = [asyncio.create_task(log.commit([record(number)])) for number in range(8)]
        turns, end = 0, time.monotonic() + 0.2
        while time.monotonic() < end:
            await asyncio.sleep(0)
            turns += 1
        assert not any(task.done() for task in waiting)
        disk.gate.set()
        await asyncio.wait_for(asyncio.gather(*waiting), WAIT_S)
        return turns

    with InferenceLog(tmp_path) as log:
        assert asyncio.run(requests(log)) > 100
    assert sorted(ids(tmp_path)) == sorted(f"r-{number}" for number in range(8))


def test_many_threads_get_each_their_records_in_their_order(tmp_path):
    def client(name):
        for number in range(25):
            log.append([record(f"{name}-{number}")]).result(WAIT_S)

    with InferenceLog(tmp_path, segment_bytes=4000) as log:
        threads = [threading.Thread(target=client, args=(name,)) for name in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert verify(tmp_path).count == 201
    for name in "abcdefgh":
        mine = [text for text in ids(tmp_path) if text.startswith(f"r-{name}-")]
        assert mine == [f"r-{name}-{number}" for number in range(25)]

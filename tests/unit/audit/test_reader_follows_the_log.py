"""Readers see every record once and in order: across segments, restarts, purges and tampering."""

import threading
from itertools import islice

import pytest

from hounsfield.audit import segments
from hounsfield.audit.chain import ChainError
from hounsfield.audit.reader import BEGINNING, Cursor, backlog, before_last, follow, read
from hounsfield.audit.retention import purge
from hounsfield.audit.segments import Writer, segment_paths
from hounsfield.errors import AuditError
from tests.unit.audit.small_logs import record, write


def numbers(items):
    return [int(item["request_id"][2:]) for item, _ in items if item["kind"] == "prediction"]


def test_all_records_are_read_in_order_with_the_cursor_after_each(folder):
    items = list(read(folder))
    assert numbers(items) == list(range(48))
    assert [cursor.count for _, cursor in items] == list(range(1, 49))
    assert items[-1][1].hash == segments.read_head(folder).hash


def test_every_cursor_is_a_place_to_go_on_from(folder, tmp_path):
    for number, (_, cursor) in enumerate(list(read(folder))):
        cursor.save(tmp_path / "cursor")
        assert Cursor.load(tmp_path / "cursor") == cursor
        assert numbers(read(folder, cursor)) == list(range(number + 1, 48))
        assert backlog(folder, cursor) == 47 - number


def test_no_log_yet_is_nothing_to_read(tmp_path):
    assert list(read(tmp_path / "none")) == []
    assert before_last(tmp_path / "none", 10) == BEGINNING
    assert backlog(tmp_path / "none", BEGINNING) == 0


def test_only_what_is_committed_is_read(folder):
    with segment_paths(folder)[-1].open("ab") as file:
        file.write(b'{"hash":"')  # a commit on its way
    assert len(list(read(folder))) == 48


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40, 47, 48, 1000])
def test_the_tail_of_a_log(folder, count):
    assert numbers(read(folder, before_last(folder, count))) == list(range(max(0, 48 - count), 48))


def test_following_goes_on_while_the_log_grows_is_rotated_and_purged(tmp_path, clock):
    folder = tmp_path / "log"  # not there yet
    stop, seen = threading.Event(), []
    reached = threading.Event()

    def reader():
        for item, cursor in follow(folder, poll_s=0.001, stop=stop):
            seen.append((item, cursor))
            if len(seen) % 20 == 0:
                reached.set()

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        writer = Writer(folder, sync=False, segment_bytes=1000)
        for number in range(60):
            writer.commit([record(number)])
            if number % 20 == 19:
                assert reached.wait(10)  # the purge below is not to outrun the reader
                reached.clear()
                clock.now_s += 1e6
                if number == 39:
                    assert purge(folder, 0, clock=clock).records == 40
        # 60 predictions and the purge
        for _ in range(1000):
            if len(seen) == 61:
                break
            stop.wait(0.01)
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert numbers(seen) == list(range(60))
    assert [cursor.count for _, cursor in seen] == list(range(1, 62))


def test_a_reader_whose_place_was_purged_goes_on_with_what_is_left(folder, clock):
    place = list(read(folder))[9][1]
    clock.now_s += 1e6
    write(folder, range(48, 50), segment_bytes=2200)
    purge(folder, 0, through=segment_paths(folder)[3].name, clock=clock)
    assert numbers(read(folder, place)) == list(range(32, 50))
    assert numbers(read(folder)) == list(range(32, 50))
    end_of_purged = Cursor(32, next(read(folder))[1].hash, 24, 99)
    with pytest.raises(ChainError, match="record 32: the record does not follow"):
        list(read(folder, end_of_purged))


def test_a_reader_at_the_end_of_a_purged_segment_misses_nothing(folder, clock):
    place = list(read(folder))[31][1]
    clock.now_s += 1e6
    purge(folder, 0, through=segment_paths(folder)[3].name, clock=clock)
    assert numbers(read(folder, place)) == list(range(32, 48))


def test_an_edited_record_is_not_handed_on(folder):
    path = segment_paths(folder)[2]
    path.write_bytes(path.read_bytes().replace(b"r-20", b"r-21"))
    items = read(folder)
    assert numbers(islice(items, 20)) == list(range(20))
    with pytest.raises(ChainError, match="record 20: the record was edited"):
        next(items)


def test_a_segment_that_was_removed_by_hand_is_not_passed_over(folder):
    segment_paths(folder)[3].unlink()
    with pytest.raises(ChainError, match="record 24 is missing; 48 records were written"):
        list(read(folder))


def test_a_cursor_of_another_log_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    write(other, range(100, 110))
    with pytest.raises(ChainError, match="record 5: the record does not follow"):
        list(read(other, Cursor(5, "a" * 64, 0, list(read(other))[4][1].offset)))
    with pytest.raises(ChainError, match="a reader stands after record 47, and the log has 10 records"):
        list(read(other, list(read(folder))[-1][1]))


@pytest.mark.parametrize(
    "text", ["", "hello", "{}x", '{"count": -1}', '{"count": "1"}', '{"place": 1}', "[]"]
)
def test_a_damaged_cursor_file_is_named(tmp_path, text):
    path = tmp_path / "sink.cursor"
    path.write_text(text)
    with pytest.raises(AuditError, match=r"sink\.cursor: this is not a reader's cursor"):
        Cursor.load(path)
    assert Cursor.load(tmp_path / "none") == BEGINNING

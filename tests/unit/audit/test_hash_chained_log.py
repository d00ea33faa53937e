"""The hash-chained log finds every way of changing what was written."""

import hashlib
import json
import multiprocessing
import resource
import signal
from pathlib import Path

import pytest

from hounsfield.audit import chain as links
from hounsfield.audit import log
from hounsfield.errors import AuditError


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for number in range(4):
        log.append(path, {"kind": "verdict", "number": number})
    return path


def test_each_record_holds_the_hash_of_the_one_before_it(chain):
    lines = [json.loads(line) for line in chain.read_text().splitlines()]
    assert [line["sequence"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["previous"] == "0" * 64
    assert [line["previous"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]


def test_a_hash_can_be_recomputed_by_hand(tmp_path):
    head = log.append(tmp_path / "log", {"a": 1})
    text = '{"previous":"' + "0" * 64 + '","record":{"a":1},"sequence":0}'
    assert head == log.Head(1, hashlib.sha256(text.encode()).hexdigest())


def test_an_untouched_log_verifies_to_its_head(chain):
    last = json.loads(chain.read_text().splitlines()[-1])
    assert log.verify(chain) == log.Head(4, last["hash"])


def test_a_log_that_does_not_exist_is_empty(tmp_path):
    assert log.verify(tmp_path / "none").count == 0


def test_any_changed_byte_is_found(chain):
    content = chain.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x01
        chain.write_bytes(changed)
        with pytest.raises(AuditError):
            log.verify(chain)


def test_an_edit_with_a_recomputed_hash_breaks_the_next_link(chain):
    lines = chain.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[1])
    edited = links.canonical({"kind": "verdict", "number": 99})
    lines[1], _ = links.write_line(links.Head(1, entry["previous"]), edited)
    chain.write_bytes(b"".join(lines))
    with pytest.raises(AuditError, match="line 3: the record does not follow"):
        log.verify(chain)


@pytest.mark.parametrize(
    ("order", "line"),
    [([0, 2, 3], 2), ([0, 1, 1, 2, 3], 3), ([0, 2, 1, 3], 2), ([1, 2, 3], 1)],
    ids=["dropped", "added", "reordered", "first dropped"],
)
def test_a_dropped_added_or_moved_record_is_named_by_its_line(chain, order, line):
    lines = chain.read_bytes().splitlines(keepends=True)
    chain.write_bytes(b"".join(lines[index] for index in order))
    with pytest.raises(AuditError, match=f"line {line}: record"):
        log.verify(chain)


def test_a_log_cut_short_is_found_by_a_head_kept_elsewhere(chain):
    head = log.verify(chain)
    chain.write_bytes(b"".join(chain.read_bytes().splitlines(keepends=True)[:-1]))
    assert log.verify(chain).count == 3
    with pytest.raises(AuditError, match="cut off the end"):
        log.verify(chain, expected_head=head.hash)


def test_an_unfinished_last_line_is_reported_and_the_next_append_removes_it(chain):
    with chain.open("ab") as file:
        file.write(b'{"previous":"')
    with pytest.raises(AuditError, match="line 5: the record is cut off"):
        log.verify(chain)
    log.append(chain, {"number": 4})
    assert log.verify(chain).count == 5


def test_nothing_is_appended_after_a_record_that_was_edited(chain):
    chain.write_text(chain.read_text().replace('"number":3', '"number":7'))
    before = chain.read_bytes()
    with pytest.raises(AuditError, match="line 4: the record was edited"):
        log.append(chain, {"number": 4})
    assert chain.read_bytes() == before


def test_nothing_is_appended_after_a_line_that_is_no_record(chain):
    with chain.open("ab") as file:
        file.write(b"hello\n")
    with pytest.raises(AuditError, match="last line: this is not a record"):
        log.append(chain, {"number": 4})


def test_appending_reads_the_last_line_only(tmp_path):
    path = tmp_path / "log"
    head = links.START
    with path.open("wb") as file:
        for number in range(20_000):  # 6 MB
            line, head = links.write_line(head, links.canonical({"number": number, "text": "x" * 150}))
            file.write(line)
    before = _bytes_read()
    assert log.append(path, {"number": 20_000}).count == 20_001
    assert _bytes_read() - before < 200_000
    assert log.verify(path).count == 20_001


def _bytes_read():
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.parametrize("size", [10, 65_000, 65_535, 65_536, 65_537, 200_000])
def test_a_last_line_of_any_length_is_found(tmp_path, size):
    path = tmp_path / "log"
    for number in range(3):
        log.append(path, {"number": number, "text": "x" * size})
    assert log.verify(path).count == 3


def test_a_disk_that_refuses_leaves_the_log_as_it_was(tmp_path):
    path = tmp_path / "log"
    log.append(path, {"number": 0})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(AuditError, match="log: cannot write to the log: File too large"):
            log.append(path, {"number": 1, "text": "x" * 500})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert log.append(path, {"number": 1}).count == 2


def test_nan_is_refused_because_it_would_not_replay(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        log.append(tmp_path / "log", {"rate": float("nan")})


def _append_ten(path):
    for number in range(10):
        log.append(path, {"number": number})


def test_writers_in_several_processes_make_one_chain(tmp_path):
    path = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_ten, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert log.verify(path).count == 30

"""Every way of changing a log of several segments is found, and the first record that does not fit is named.

The positions are the first and the last record, the first and the last of a segment, and some at random
from a fixed seed. The log has 48 records, 8 a segment.
"""

import random
import shutil
import zlib

import pytest

from hounsfield.audit import chain, segments
from hounsfield.audit.chain import ChainError, Head
from hounsfield.audit.verification import verify
from hounsfield.errors import AuditError
from tests.unit.audit.small_logs import record

RECORDS, A_SEGMENT = 48, 8
RANDOM = random.Random(20261121)
POSITIONS = sorted({0, 1, 7, 8, 15, 16, 40, 46, 47, *RANDOM.sample(range(RECORDS), 12)})


class Log:
    """The lines of a log's segments, in the hands of someone who changes them."""

    def __init__(self, folder):
        self.folder = folder
        self.paths = segments.segment_paths(folder)
        self.lines = [path.read_bytes().splitlines(keepends=True) for path in self.paths]

    def at(self, number):
        return self.lines[number // A_SEGMENT], number % A_SEGMENT

    def head_after(self, number):
        lines, place = self.at(number)
        values = chain._values(lines[place])
        return Head(values["sequence"] + 1, values["hash"])

    def save(self):
        for path, lines in zip(self.paths, self.lines, strict=True):
            path.write_bytes(b"".join(lines))

    def rewrite_head(self, head):
        (self.folder / "HEAD").write_bytes(segments._head_text(head, 0))


def found(folder):
    with pytest.raises(ChainError) as error:
        verify(folder)
    assert error.value.exit_code == 1
    return str(error.value)


@pytest.fixture
def log(folder):
    return Log(folder)


def test_an_untouched_log_verifies(folder, log):
    assert verify(folder) == log.head_after(47) == segments.read_head(folder)
    assert verify(folder).count == RECORDS


@pytest.mark.parametrize("number", POSITIONS)
def test_any_changed_byte_of_a_record_is_found(folder, log, number):
    lines, place = log.at(number)
    line = lines[place]
    segment = log.paths[number // A_SEGMENT].name
    for offset in {0, 8, 9, 74, 90, 160, len(line) - 2, len(line) - 1, *RANDOM.sample(range(len(line)), 12)}:
        changed = bytearray(line)
        changed[offset] ^= RANDOM.choice([1, 2, 4, 32, 128])
        lines[place] = bytes(changed)
        log.save()
        assert f"{segment} line {place + 1} (record {number})" in found(folder), offset
    lines[place] = line
    log.save()
    assert verify(folder).count == RECORDS


@pytest.mark.parametrize("number", POSITIONS)
def test_an_edit_with_its_hash_made_anew_is_found_by_the_next_record(folder, log, number):
    lines, place = log.at(number)
    before = chain.head_before(lines[place])
    lines[place], _ = chain.write_line(before, record(999))
    log.save()
    sentence = found(folder)
    if number == RECORDS - 1:
        assert "record 47 is not the one that HEAD knows" in sentence
    else:
        assert f"(record {number + 1}): the record does not follow from the one before it" in sentence


@pytest.mark.parametrize("number", POSITIONS)
def test_a_dropped_record_is_found(folder, log, number):
    lines, place = log.at(number)
    del lines[place]
    log.save()
    sentence = found(folder)
    if number == RECORDS - 1:
        assert "the log ends before record 47" in sentence
    else:
        assert f"record {number + 1} stands where record {number} belongs" in sentence


@pytest.mark.parametrize("number", POSITIONS)
def test_a_record_that_stands_twice_is_found(folder, log, number):
    lines, place = log.at(number)
    lines.insert(place, lines[place])
    log.save()
    assert f"record {number} stands where record {number + 1} belongs" in found(folder)


@pytest.mark.parametrize("number", POSITIONS)
def test_an_added_record_that_fits_the_one_before_it_is_found(folder, log, number):
    lines, place = log.at(number)
    line, _ = chain.write_line(log.head_after(number), record(999))
    lines.insert(place + 1, line)
    log.save()
    sentence = found(folder)
    if number == RECORDS - 1:
        assert "record 48 stands after the end that HEAD knows" in sentence
    else:
        assert f"record {number + 1} stands where record {number + 2} belongs" in sentence


@pytest.mark.parametrize(("one", "other"), [(0, 47), (0, 1), (7, 8), (46, 47), (3, 30), (16, 23), (15, 40)])
def test_two_records_that_changed_places_are_found(folder, log, one, other):
    (lines, place), (others, other_place) = log.at(one), log.at(other)
    lines[place], others[other_place] = others[other_place], lines[place]
    log.save()
    assert f"record {other} stands where record {one} belongs" in found(folder)


@pytest.mark.parametrize("number", range(6))
def test_a_removed_segment_is_found(folder, log, number):
    log.paths[number].unlink()
    sentence = found(folder)
    if number == 0:
        assert "the log begins with record 8, and no purge in it covers those before it" in sentence
    elif number == 5:
        assert "the log ends before record 40" in sentence
    else:
        assert f"record {8 * number + 8} stands where record {8 * number} belongs" in sentence


def test_all_segments_removed_is_found(folder, log):
    for path in log.paths:
        path.unlink()
    assert "HEAD knows 48 records, and no segment is left" in found(folder)


@pytest.mark.parametrize(("one", "other"), [(0, 5), (0, 1), (1, 2), (2, 4), (4, 5)])
def test_two_segments_that_changed_places_are_found(folder, log, one, other):
    log.lines[one], log.lines[other] = log.lines[other], log.lines[one]
    log.save()
    assert f"record {8 * other} stands where record {8 * one} belongs" in found(folder)


@pytest.mark.parametrize("number", range(6))
def test_an_emptied_segment_is_found(folder, log, number):
    log.lines[number] = []
    log.save()
    sentence = found(folder)
    if number == 5:
        assert "the log ends before record 40" in sentence
    else:
        assert f"record {8 * number + 8} stands where record {8 * number} belongs" in sentence


def test_a_segment_that_was_added_is_found(folder, log):
    shutil.copy(log.paths[2], log.paths[2].with_name(f"{48:020d}.jsonl"))
    assert f"{48:020d}.jsonl line 1 (record 48): record 16 stands where record 48 belongs" in found(folder)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("text", [b"\n", b" ", b"{}\n", b"null\n", b"[" * 5000 + b"\n", b"\xff\x00\n"])
def test_bytes_added_to_the_end_of_a_segment_are_found(folder, log, number, text):
    log.lines[number].append(text)
    log.save()
    sentence = found(folder)
    assert f"{log.paths[number].name} line 9 (record {8 * number + 8})" in sentence


@pytest.mark.parametrize("cut", [1, 2, 100, 280])
def test_a_last_record_that_was_cut_is_found(folder, log, cut):
    log.lines[5][-1] = log.lines[5][-1][:-cut]
    log.save()
    assert "(record 47): the record is cut off" in found(folder)


@pytest.mark.parametrize("offset", range(0, segments._HEAD_BYTES))
def test_any_changed_byte_of_head_is_found(folder, offset):
    path = folder / "HEAD"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    assert "HEAD is damaged" in found(folder)


def test_a_head_that_was_written_anew_is_found(folder, log):
    end = log.head_after(47)
    for head, sentence in [
        (Head(49, end.hash), "HEAD knows 49 records and the log ends before record 48"),
        (Head(48, "f" * 64), "record 47 is not the one that HEAD knows"),
        (Head(20, "f" * 64), "record 19 is not the one that HEAD knows"),
        (log.head_after(19), "record 20 stands after the end that HEAD knows"),
        (chain.START, "record 0 stands after the end that HEAD knows"),
    ]:
        log.rewrite_head(head)
        assert sentence in found(folder)


def test_a_missing_or_longer_head_is_found(folder):
    path = folder / "HEAD"
    path.write_bytes(path.read_bytes() + b"x")
    assert "HEAD is damaged" in found(folder)
    path.unlink()
    assert "HEAD is missing" in found(folder)


def test_an_end_cut_off_together_with_head_is_found_by_a_hash_kept_elsewhere(folder, log):
    kept = log.head_after(47).hash
    del log.lines[5][4:]
    log.save()
    log.rewrite_head(log.head_after(43))
    assert verify(folder).count == 44
    assert verify(folder, log.head_after(20).hash).count == 44
    with pytest.raises(ChainError, match=f"no record has the hash {kept[:12]}"):
        verify(folder, kept)


def test_a_log_rewritten_from_a_record_on_is_found_by_a_hash_kept_elsewhere(folder, log):
    kept = log.head_after(30).hash
    head = log.head_after(29)
    for number in range(30, RECORDS):
        lines, place = log.at(number)
        lines[place], head = chain.write_line(head, record(number + 500))
    log.save()
    log.rewrite_head(head)
    assert verify(folder) == head
    with pytest.raises(ChainError, match=f"no record has the hash {kept[:12]}"):
        verify(folder, kept)


def test_no_log_is_not_a_log_that_verifies(tmp_path):
    with pytest.raises(AuditError, match="there is no log"):
        verify(tmp_path / "none")
    with pytest.raises(AuditError, match="there is no log in this folder"):
        verify(tmp_path)


def test_head_has_a_checksum_that_can_be_recomputed_by_hand(folder, log):
    text = b"%020d %b %020d" % (48, log.head_after(47).hash.encode(), 40)
    assert (folder / "HEAD").read_bytes() == text + b" %08x\n" % zlib.crc32(text)

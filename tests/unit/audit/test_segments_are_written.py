"""The writer: segments by size and age, several writers on one chain, nothing added to a changed end."""

import json
import multiprocessing

import pytest

from hounsfield.audit import segments
from hounsfield.audit.chain import ChainError, Head
from hounsfield.audit.reader import read
from hounsfield.audit.segments import Writer, read_head, segment_paths
from hounsfield.audit.verification import verify
from hounsfield.errors import AuditError
from tests.unit.audit.small_logs import HOUR_S, record, write


def kinds(folder):
    return [item["kind"] for item, _ in read(folder)]


def test_a_commit_returns_the_head_that_is_on_the_disk(tmp_path):
    writer = Writer(tmp_path)
    head = writer.commit([record(0), record(1)])
    assert head == read_head(tmp_path) == verify(tmp_path)
    assert head.count == 2
    writer.close()


def test_one_chain_goes_across_the_segments(folder):
    lines = [json.loads(line) for path in segment_paths(folder) for line in path.read_text().splitlines()]
    assert [line["sequence"] for line in lines] == list(range(48))
    assert [line["previous"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]


def test_a_segment_is_closed_when_its_first_record_is_old(tmp_path, clock):
    # The records' own times go from 00:00:00 on, a second each; the clock says when they are committed.
    writer = Writer(tmp_path, segment_age_s=HOUR_S, clock=clock)
    writer.commit([record(0)])
    clock.now_s += HOUR_S - 1
    writer.commit([record(1)])
    clock.now_s += 1
    writer.commit([record(2)])
    writer.close()
    assert [path.name[-7:] for path in segment_paths(tmp_path)] == ["0.jsonl", "2.jsonl"]
    # A writer started anew takes the age from the segment's first record, which is of 00:00:02.
    clock.now_s = 1_795_219_200.0 + 1.9 + HOUR_S
    write(tmp_path, range(3, 4), segment_age_s=HOUR_S, clock=clock)
    assert len(segment_paths(tmp_path)) == 2
    clock.now_s += 0.2
    write(tmp_path, range(4, 5), segment_age_s=HOUR_S, clock=clock)
    assert [path.name[-7:] for path in segment_paths(tmp_path)] == ["0.jsonl", "2.jsonl", "4.jsonl"]
    assert verify(tmp_path).count == 5


def test_a_group_is_never_split_between_segments(tmp_path):
    writer = Writer(tmp_path, segment_bytes=1000)
    for start in (0, 20, 40):
        writer.commit([record(number) for number in range(start, start + 20)])
    writer.close()
    assert [len(path.read_bytes().splitlines()) for path in segment_paths(tmp_path)] == [20, 20, 20]


def _write_twenty(folder):
    write(folder, range(20), segment_bytes=3000)


def test_writers_in_several_processes_make_one_chain(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_twenty, args=(tmp_path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert verify(tmp_path).count == 60
    assert len(segment_paths(tmp_path)) > 3
    assert set(kinds(tmp_path)) == {"prediction"}


def test_two_writers_that_take_turns_see_each_others_records_and_segments(tmp_path):
    one, other = Writer(tmp_path, segment_bytes=600), Writer(tmp_path, segment_bytes=600)
    for number in range(12):
        one.commit([record(number)])
        if number % 2:
            other.commit([record(100 + number)])
    one.close()
    other.close()
    assert verify(tmp_path).count == 18
    assert set(kinds(tmp_path)) == {"prediction"}


def test_a_line_that_was_not_finished_is_cut_and_the_log_says_so(folder):
    with segment_paths(folder)[-1].open("ab") as file:
        file.write(b'{"hash":"0123')
    write(folder, range(48, 49))
    (recovered, _), (last, _) = list(read(folder))[48:]
    assert recovered["kind"] == "recovered"
    assert (recovered["after_head"], recovered["cut_bytes"]) == (0, 13)
    assert last["request_id"] == "r-48"
    assert verify(folder).count == 50


def test_whole_records_after_head_stay_and_the_log_says_so(folder):
    old = (folder / "HEAD").read_bytes()
    write(folder, range(48, 51), segment_bytes=600)
    (folder / "HEAD").write_bytes(old)  # as if the writer had been killed before it came to HEAD
    with pytest.raises(ChainError, match="record 48 stands after the end that HEAD knows"):
        verify(folder)
    write(folder, range(51, 52))
    assert verify(folder).count == 53
    recovered = list(read(folder))[51][0]
    assert recovered["kind"] == "recovered"
    assert (recovered["after_head"], recovered["cut_bytes"]) == (3, 0)


def test_a_segment_that_was_made_and_not_written_is_used(folder):
    (folder / f"{48:020d}.jsonl").touch()
    write(folder, range(48, 49), segment_bytes=10_000)
    assert len(segment_paths(folder)[-1].read_bytes().splitlines()) == 1
    assert verify(folder).count == 49


def test_a_writer_looks_for_the_segment_that_another_made_before_it_was_killed(tmp_path, monkeypatch):
    one, other = Writer(tmp_path), Writer(tmp_path)
    one.commit([record(0)])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segments.Writer, "_store_head", _first_time_only(segments.Writer._store_head, killed))
        other.close_segment()
        with pytest.raises(KeyboardInterrupt):
            other.commit([record(1)])
    assert [path.name[-7:] for path in segment_paths(tmp_path)] == ["0.jsonl", "1.jsonl"]
    one.commit([record(2)])
    assert verify(tmp_path).count == 4
    assert kinds(tmp_path) == ["prediction", "prediction", "recovered", "prediction"]
    one.close()
    other.close()


def _first_time_only(real, then):
    calls = []

    def replacement(*arguments):
        calls.append(arguments)
        return real(*arguments) if len(calls) == 1 else then()

    return replacement


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda lines: lines[:-1],
            "HEAD knows 48 records, the log does not hold them all; record 47 and later",
        ),
        (lambda lines: [*lines[:3], *lines[4:]], "record 44 stands where record 43 belongs"),
        (
            lambda lines: [*lines[:5], lines[5].replace(b"r-45", b"r-54"), *lines[6:]],
            "record 45: the record was",
        ),
        (lambda lines: [], "HEAD knows 48 records"),
    ],
    ids=["cut", "dropped", "edited", "emptied"],
)
def test_nothing_is_added_to_a_log_whose_end_was_tampered_with(folder, change, sentence):
    path = segment_paths(folder)[-1]
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    before = {item: item.read_bytes() for item in folder.iterdir()}
    with pytest.raises(ChainError, match=sentence) as error:
        Writer(folder)
    assert "keep this folder for the auditor" in str(error.value)
    assert {item: item.read_bytes() for item in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["HEAD", "last segment", "segment before"])
def test_nothing_is_added_to_a_log_without_one_of_its_files(folder, name):
    paths = segment_paths(folder)
    {"HEAD": folder / "HEAD", "last segment": paths[-1], "segment before": paths[-2]}[name].unlink()
    left = {path.name for path in segment_paths(folder)}
    with pytest.raises(
        ChainError, match=r"HEAD is missing|HEAD knows 48 records|records before it are missing"
    ):
        Writer(folder)
    assert {path.name for path in segment_paths(folder)} == left
    assert (folder / "HEAD").exists() == (name != "HEAD")


@pytest.mark.parametrize("names", [["HEAD"], ["last"], ["HEAD", "last"]])
def test_a_file_that_is_deleted_under_a_running_writer_is_an_error_and_not_a_lost_record(folder, names):
    writer = Writer(folder)
    for name in names:
        (segment_paths(folder)[-1] if name == "last" else folder / name).unlink()
    for _ in range(2):
        with pytest.raises(AuditError):
            writer.commit([record(48)])
    writer.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AuditError, match=r"the log .*file/log cannot be written: Not a directory"):
        Writer(tmp_path / "file" / "log")


def test_a_head_that_could_not_be_written_does_not_undo_a_commit(tmp_path, monkeypatch):
    writer = Writer(tmp_path)
    writer.commit([record(0)])

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(segments.Writer, "_store_head", refuse)
        assert writer.commit([record(1)]).count == 2
    assert read_head(tmp_path).count == 1
    assert writer.commit([record(2)]).count == 3
    assert verify(tmp_path) == read_head(tmp_path) == Head(3, verify(tmp_path).hash)
    assert kinds(tmp_path) == ["prediction"] * 3
    writer.close()

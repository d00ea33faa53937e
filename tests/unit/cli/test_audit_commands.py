"""`hounsfield audit`: what it prints, and the exit codes 0 (holds), 1 (does not) and 2 (cannot tell)."""

import json

import pytest

from hounsfield.audit import log
from hounsfield.audit.segments import segment_paths
from hounsfield.audit.verification import verify
from hounsfield.cli.main import main
from hounsfield.serving.inference_log import InferenceLog

WAIT_S = 20


@pytest.fixture
def folder(tmp_path):
    with InferenceLog(tmp_path / "log", retention_days=30, segment_bytes=500) as inference_log:
        for number in range(8):
            record = {"kind": "prediction", "time": "2020-01-01T00:00:00Z", "request_id": f"r-{number}"}
            inference_log.append([record]).result(WAIT_S)
    return tmp_path / "log"


def run(capsys, *arguments):
    code = main(["audit", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_verify_says_how_many_records_and_which_head(folder, capsys):
    head = verify(folder).hash
    expected = f"{folder}: 9 records, the chain holds; its head is {head}\n"
    assert run(capsys, "verify", folder) == (0, expected, "")
    assert run(capsys, "verify", folder, "--expect-head", head)[0] == 0


def test_verify_names_the_record_that_was_edited_and_exits_with_1(folder, capsys):
    path = segment_paths(folder)[1]
    path.write_bytes(path.read_bytes().replace(b"r-3", b"r-4"))
    code, out, err = run(capsys, "verify", folder)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {path.name} line")
    assert "(record 4): the record was edited" in err
    assert len(err.splitlines()) == 1


def test_verify_with_a_head_that_the_log_does_not_hold_exits_with_1(folder, capsys):
    code, _, err = run(capsys, "verify", folder, "--expect-head", "f" * 64)
    assert code == 1
    assert "no record has the hash ffffffffffff" in err


def test_verify_takes_the_rollout_ledger_where_no_log_is_given(tmp_path, capsys):
    assert main(["--home", str(tmp_path), "audit", "verify"]) == 2
    assert "there is no log" in capsys.readouterr().err
    log.append(tmp_path / "ledger.jsonl", {"kind": "verdict"})
    assert main(["--home", str(tmp_path), "audit", "verify"]) == 0
    assert "ledger.jsonl: 1 records, the chain holds" in capsys.readouterr().out


def test_tail_prints_the_last_records_as_json_lines(folder, capsys):
    code, out, _ = run(capsys, "tail", folder, "--records", 3)
    items = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(item["sequence"], item["request_id"]) for item in items] == [(6, "r-5"), (7, "r-6"), (8, "r-7")]
    assert items[-1]["hash"] == verify(folder).hash
    assert run(capsys, "tail", folder / "none")[0] == 2


def test_export_says_what_it_wrote(folder, tmp_path, capsys):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "export", folder, "--out", out)
    assert (code, text) == (0, f"{out}: 9 records written, 0 files unchanged\n")
    files = len(list(out.iterdir()))
    _, text, _ = run(capsys, "export", folder, "--out", out)
    assert text == f"{out}: 0 records written, {files} files unchanged\n"


def test_purge_deletes_what_is_old_enough_and_says_what_stays(folder, capsys):
    # The `opened` record is of today: its segment stays, and so do all after it.
    code, out, _ = run(capsys, "purge", folder)
    first = segment_paths(folder)[0].name
    assert code == 0
    assert out.startswith(
        f"{folder}: 0 segments with 0 records deleted\n{first} stays: it holds a record of 20"
    )
    code, _, err = run(capsys, "purge", folder, "--through", first)
    assert code == 2
    assert f"{first} holds a record of 20" in err
    assert "younger than the retention of 30 days; nothing was deleted" in err
    code, _, err = run(capsys, "purge", folder, "--retention-days", 7)
    assert code == 2
    assert "a retention of 7 days is shorter than the log's own of 30 days" in err


@pytest.mark.parametrize("command", ["verify", "tail", "export", "purge"])
def test_each_command_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as error:
        main(["audit", command, "--help"])
    assert error.value.code == 0
    assert f"example: hounsfield audit {command} " in " ".join(capsys.readouterr().out.split())

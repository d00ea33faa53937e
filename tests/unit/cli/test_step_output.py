"""The stream that stands in for standard output while kfp.local runs."""

import io

from rich.console import Console

from hounsfield.cli.console import StepOutput


def shown(text: str) -> tuple[str, str, StepOutput]:
    screen, log = io.StringIO(), io.StringIO()
    with StepOutput(Console(file=screen, width=120), log) as output:
        output.write(text)
    return screen.getvalue(), log.getvalue(), output


def test_finished_step_is_one_line_and_the_log_has_everything():
    screen, log, output = shown(
        "10:00:00.000 - INFO - Executing task \x1b[96m'ingest'\x1b[0m\n"
        "    a detail\n"
        "10:00:01.000 - INFO - Task \x1b[96m'ingest'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m\n"
    )
    assert "ok ingest" in screen
    assert "a detail" not in screen
    assert "    a detail" in log
    assert output.finished == ["ingest"]


def test_sentence_of_the_failing_step_is_kept_without_its_traceback():
    _, _, output = shown(
        "    Traceback (most recent call last):\n"
        '      File "x.py", line 3, in ingest\n'
        "    hounsfield.errors.LabelError: labels.csv row 17: label 'maybe' is not one of no, yes\n"
        "10:00:01.000 - INFO - Task 'ingest' finished with status FAILURE\n"
    )
    assert output.failure == "labels.csv row 17: label 'maybe' is not one of no, yes"
    assert output.finished == []


def test_a_line_that_comes_in_pieces_is_one_line():
    screen = io.StringIO()
    with StepOutput(Console(file=screen, width=120), io.StringIO()) as output:
        output.write("Task 'train' finished ")
        output.write("with status SUCCESS\n")
    assert output.finished == ["train"]


def test_progress_without_a_terminal_prints_a_line_each_quarter():
    lines = "".join(f"[progress] ingest {done}/100 files\n" for done in range(0, 101, 5))
    screen, _, _ = shown("Executing task 'ingest'\n" + lines)
    assert [line.strip() for line in screen.splitlines() if "/100" in line] == [
        f"ingest {done}/100 files" for done in (0, 25, 50, 75, 100)
    ]

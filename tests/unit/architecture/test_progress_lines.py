from hounsfield.progress import Progress, Reporter, parse


def test_line_is_read_back(capsys):
    Reporter("ingest", 4).update(4, "files")
    assert parse(capsys.readouterr().out) == Progress("ingest", 4, 4, "files")


def test_ordinary_line_is_no_progress():
    assert parse("ingest 4/4 files") is None


def test_lines_are_rationed_but_the_last_one_is_always_printed(capsys):
    reporter = Reporter("ingest", 100, interval_s=3600)
    for done in range(1, 101):
        reporter.update(done)
    assert capsys.readouterr().out.splitlines() == ["[progress] ingest 1/100", "[progress] ingest 100/100"]

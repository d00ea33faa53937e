"""docs/compliance.md promises files and tests: they are there, and a promise without either is found."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def broken(text):
    """Sentences on rows that name no file, no test, or one that is not there."""
    found = []
    for line in text.splitlines():
        if not line.startswith("|") or line.startswith(("|---", "| rule |")):
            continue
        _, behaviour, files, tests = (cell.strip() for cell in line.strip("|").split("|"))
        for kind, cell in (("file", files), ("test", tests)):
            paths = re.findall(r"`([^`]+)`", cell)
            if not paths:
                found.append(f"{behaviour}: no {kind}")
            found += [f"{behaviour}: {path} is not there" for path in paths if not (ROOT / path).exists()]
            found += [
                f"{path} is no test" for path in paths if kind == "test" and not path.startswith("tests/")
            ]
    return found


def test_every_file_and_test_that_compliance_names_is_there():
    text = (ROOT / "docs/compliance.md").read_text()
    assert broken(text) == []
    for rule in ("164.312", "GDPR", "EU AI Act", "Art. 12", "Art. 19", "GMLP", "PCCP", "IEC 62304"):
        assert rule in text


def test_a_promise_without_a_test_and_a_file_that_is_gone_are_found():
    row = "| rule | behaviour | file | test |\n|---|---|---|---|\n| x | Keeps it safe | `src/gone.py` | |\n"
    assert broken(row) == ["Keeps it safe: src/gone.py is not there", "Keeps it safe: no test"]

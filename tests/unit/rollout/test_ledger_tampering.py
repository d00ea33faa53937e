"""Whatever is done to a ledger's bytes is found: by its chain, or by the commits that name its records."""

import random

import pytest

from hounsfield.audit import log
from hounsfield.audit.chain import ChainError, Head, canonical, check_line, record_of, write_line
from hounsfield.rollout.ledger import Ledger

RECORDS = 12


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "ledger.jsonl")
    made.heads = [
        made.record("verdict", 1000.0 + n, weight=5 * n, verdict={"decision": "HOLD", "harm": n / 7})
        for n in range(RECORDS)
    ]
    return made


def is_found(ledger):
    """As `hounsfield rollout verify` does it: the chain, then the records that the tree's commits name."""
    try:
        log.verify(ledger.path)
        ledger.check_anchors([ledger.heads[4], ledger.heads[-1]])
    except ChainError:
        return True
    return False


def test_a_ledger_that_nobody_touched_holds(ledger):
    assert not is_found(ledger)


def test_no_byte_can_be_changed(ledger):
    whole, dice = ledger.path.read_bytes(), random.Random(4)
    for position in range(len(whole)):
        other = dice.choice([value for value in range(256) if value != whole[position]])
        ledger.path.write_bytes(whole[:position] + bytes([other]) + whole[position + 1 :])
        assert is_found(ledger), f"byte {position}"


def rechained(lines):
    """The records of `lines` as a chain of their own, by someone who knows how it is made."""
    head, found = Head(0, "0" * 64), []
    for line in lines:
        made, head = write_line(head, canonical(record_of(line)))
        found.append(made)
    return found


def edited(line):
    return line.replace(b'"weight":', b'"weight":1')


TAMPERINGS = {
    "dropped": lambda lines, n, m: lines[:n] + lines[n + 1 :],
    "doubled": lambda lines, n, m: lines[: n + 1] + lines[n:],
    "moved": lambda lines, n, m: moved(lines, n, m),
    "reordered": lambda lines, n, m: swapped(lines, n, m),
    "edited": lambda lines, n, m: [*lines[:n], edited(lines[n]), *lines[n + 1 :]],
    "cut off": lambda lines, n, m: lines[:n],
    "cut within": lambda lines, n, m: [*lines[:n], lines[n][: 20 + m]],
    "added": lambda lines, n, m: [*lines[:n], lines[m], *lines[n:]] if n != m else [*lines, lines[m]],
    "edited and hashed again": lambda lines, n, m: rehashed(lines, n),
    "edited and chained again": lambda lines, n, m: rechained(
        [*lines[:n], edited(lines[n]), *lines[n + 1 :]]
    ),
    "dropped and chained again": lambda lines, n, m: rechained(lines[:n] + lines[n + 1 :]),
}


def moved(lines, n, m):
    kept = lines[:n] + lines[n + 1 :]
    return [*kept[:m], lines[n], *kept[m:]] if n != m else swapped(lines, n, (n + 1) % len(lines))


def swapped(lines, n, m):
    m = m if n != m else (n + 1) % len(lines)
    found = list(lines)
    found[n], found[m] = found[m], found[n]
    return found


def rehashed(lines, n):
    """One record edited, and its own hash made to fit; the next one still names the old hash."""
    head = Head(0, "0" * 64)
    for number in range(n):
        head = check_line(lines[number], head, "")
    made, _ = write_line(head, canonical(record_of(edited(lines[n]))))
    return [*lines[:n], made, *lines[n + 1 :]]


@pytest.mark.parametrize("how", TAMPERINGS)
def test_tampering_at_random_places_is_found(ledger, how):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    whole, dice = b"".join(lines), random.Random(how)
    for _ in range(60):
        n, m = dice.randrange(RECORDS), dice.randrange(RECORDS)
        ledger.path.write_bytes(b"".join(TAMPERINGS[how](lines, n, m)))
        assert ledger.path.read_bytes() != whole
        assert is_found(ledger), (how, n, m)

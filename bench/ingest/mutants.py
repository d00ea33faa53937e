"""`python -m bench.ingest.mutants [--files 5000]`: damaged files through ingest, every one accounted for.

Seeds are pydicom's own test files and small radiographs of ours in each kind of transfer syntax. A mutant has
one to four damages: bits turned, a piece lost, doubled, zeroed or foreign, the end cut off, a false length.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pydicom.data

from bench.serving.servers import ROOT
from hounsfield.data.examine import Rules
from hounsfield.data.journal import read_journal
from hounsfield.data.shard import read_shard
from hounsfield.dicom.frames import Frames
from hounsfield.dicom.parsing import load, parse
from hounsfield.dicom.quarantine import Reason, Refused

MAX_SEED_BYTES = 2**20
BUNDLED = Path(pydicom.data.__file__).parent


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest.mutants", description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    work = ROOT / "build" / "bench" / f"mutants-{time.time_ns()}"
    written = write(work / "source", arguments.files, arguments.seed)
    began_s = time.monotonic()
    summary = account(work / "source", work / "read")
    took_s = time.monotonic() - began_s
    for reason, count in summary.most_common():
        print(f"{count:>6} {reason}")
    unread = {"accepted", *Reason} >= set(summary)
    print(f"{written} files, {summary.total()} accounted for, in {took_s:.0f} s")
    return 0 if summary.total() == written == arguments.files and unread else 1


def write(folder: Path, files: int, seed: int) -> int:
    """Write `files` mutants below `folder`; the number of files that are there."""
    dice = random.Random(seed)  # noqa: S311
    seeds = _seeds()
    for number in range(files):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            dice.choice(_DAMAGES)(dice, data)
        path = folder / f"{number % 100:02}" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        # The number makes each content another one, so that they are told apart by their SHA-256.
        path.write_bytes(bytes(data) + struct.pack("<I", number))
    return sum(1 for path in folder.rglob("*") if path.is_file())


def account(source: Path, out: Path) -> Counter[str]:
    """Read the source, every kind of object and frame taken; how many ended accepted or with which reason."""
    rules = Rules(b"a key for mutated files", _classes(), Frames.SPLIT)
    read_shard(source, out, rules)
    outcomes: Counter[str] = Counter()
    hashes = set()
    for record in read_journal(out)[1]:
        hashes.add(record["sha256"])
        outcomes[record["refusal"][0] if record["refusal"] else "accepted"] += 1
        if not record["refusal"] and not all(
            (out / "images" / image["file"]).is_file() for image in record["images"]
        ):
            raise AssertionError("an accepted image is not there")
    if len(hashes) != outcomes.total():
        raise AssertionError("two records are of one file")
    return outcomes


def _seeds() -> list[bytes]:
    from tests.fuzz.corpus import dicom_seeds

    bundled = [path for path in sorted(BUNDLED.rglob("*.dcm")) if path.stat().st_size <= MAX_SEED_BYTES]
    return [path.read_bytes() for path in bundled] + 5 * list(dicom_seeds())


def _classes() -> frozenset[str]:
    found = set()
    for data in _seeds():
        try:
            found.add(str(parse(load(data)).SOPClassUID))
        except Refused:
            continue
    return frozenset(found)


def _place(dice: random.Random, data: bytearray) -> tuple[int, int]:
    """A piece, near the beginning in half of the cases: there is the header."""
    end = len(data) if dice.random() < 0.5 else min(len(data), 2000)
    start = dice.randrange(max(end, 1))
    return start, start + dice.choice((1, 2, 4, 16, 200, 5000))


def _turn_bits(dice: random.Random, data: bytearray) -> None:
    start, end = _place(dice, data)
    for at in range(start, min(end, start + 16, len(data))):
        data[at] ^= 1 << dice.randrange(8)


def _lose(dice: random.Random, data: bytearray) -> None:
    start, end = _place(dice, data)
    del data[start:end]


def _double(dice: random.Random, data: bytearray) -> None:
    start, end = _place(dice, data)
    data[start:start] = data[start:end]


def _zero(dice: random.Random, data: bytearray) -> None:
    start, end = _place(dice, data)
    data[start:end] = bytes(len(data[start:end]))


def _foreign(dice: random.Random, data: bytearray) -> None:
    start, end = _place(dice, data)
    data[start:end] = dice.randbytes(len(data[start:end]))


def _cut(dice: random.Random, data: bytearray) -> None:
    del data[dice.randrange(len(data) + 1) :]


def _lie(dice: random.Random, data: bytearray) -> None:
    start, _ = _place(dice, data)
    data[start : start + 4] = dice.choice(
        (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xfe\xff\xff\xff", bytes(4))
    )


_DAMAGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _turn_bits,
    _lose,
    _double,
    _zero,
    _foreign,
    _cut,
    _lie,
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

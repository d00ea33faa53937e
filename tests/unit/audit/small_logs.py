"""Small chained logs: a folder of several segments, written as the predictor writes it."""

from pathlib import Path

import orjson

from hounsfield.audit.segments import Writer

HOUR_S = 3600.0


class Clock:
    """A clock that a test sets; 2026-11-21T00:00:00Z at first."""

    def __init__(self) -> None:
        self.now_s = 1_795_219_200.0

    def __call__(self) -> float:
        return self.now_s


def record(number: int) -> bytes:
    return orjson.dumps(
        {
            "kind": "prediction",
            "time": f"2026-11-21T00:{number // 60 % 60:02d}:{number % 60:02d}.000000Z",
            "request_id": f"r-{number}",
            "instance": 0,
            "probability": number / 1000,
        }
    )


def write(folder: Path, numbers: range, **options) -> None:
    """Write one record a commit, on the day that the records name: an old segment is not gone on with."""
    writer = Writer(folder, sync=False, **{"clock": Clock(), **options})
    for number in numbers:
        writer.commit([record(number)])
    writer.close()

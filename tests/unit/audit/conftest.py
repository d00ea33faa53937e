"""Fixtures: a log of six segments, and a clock that a test sets."""

import pytest

from tests.unit.audit.small_logs import Clock, write


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def folder(tmp_path):
    """48 records in 6 segments of 8."""
    place = tmp_path / "log"
    # A line is 285 to 289 bytes here: seven are 2023 at most, and the eighth fills the segment.
    write(place, range(48), segment_bytes=2200)
    assert [path.stem for path in sorted(place.glob("*.jsonl"))] == [f"{n:020d}" for n in range(0, 48, 8)]
    return place

import os

import pytest

from hounsfield.serving.cores import cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("nonsense", 8)],
)
def test_the_limit_of_cgroup_v2_rounds_down_to_whole_cores(tmp_path, text, expected):
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("350000", 3), ("1000", 1)])
@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_the_limit_of_cgroup_v1_is_read_too(tmp_path, folder, quota, expected):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == expected


def test_without_a_limit_it_is_what_the_system_grants(tmp_path):
    assert cores(tmp_path) == 8

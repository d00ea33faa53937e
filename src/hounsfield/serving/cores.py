"""How many cores this process may use: what the system grants, and below that the container's limit."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores(cgroup: Path = CGROUP) -> int:
    """Whole cores, at least 1: a thread more than the limit allows would be stopped in turn by the kernel.

    Reads the bandwidth limit of cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_quota_us`), as the container sees it.
    """
    granted = len(os.sched_getaffinity(0))
    limit = _limit_v2(cgroup) or _limit_v1(cgroup) or math.inf
    return max(1, min(granted, math.floor(limit)) if limit < math.inf else granted)


def _limit_v2(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _limit_v1(cgroup: Path) -> float | None:
    for folder in ("cpu", "cpu,cpuacct"):
        try:
            quota = int((cgroup / folder / "cpu.cfs_quota_us").read_text())
            return quota / int((cgroup / folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None

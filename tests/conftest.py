"""How `make test` shares the tests among its processes (pytest-xdist)."""

import pytest

TOGETHER = ("components", "integration/gateway", "manifests", "unit/cluster", "unit/package", "unit/training")
"""Folders whose tests share fixtures that take long to make; elsewhere a file's tests stay together."""


def together(nodeid: str) -> str:
    """Tests of the same value are run by one process, one after the other."""
    file = nodeid.split("::", 1)[0]
    return next((folder for folder in TOGETHER if file.startswith(f"tests/{folder}/")), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class TogetherScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return together(nodeid)

    return TogetherScheduling(config, log)

"""Of every test: how they are shared among processes (pytest-xdist), and what they hand on to theirs."""

import signal

import pytest

TOGETHER = ("components", "integration/gateway", "manifests", "unit/cluster", "unit/package", "unit/training")
"""Folders whose tests share fixtures that take long to make; elsewhere a file's tests stay together."""


def together(nodeid: str) -> str:
    """Tests of the same value are run by one process, one after the other."""
    file = nodeid.split("::", 1)[0]
    return next((folder for folder in TOGETHER if file.startswith(f"tests/{folder}/")), file)


def pytest_configure():
    # A shell's background job ignores SIGINT, and so would what a test starts and then interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class TogetherScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return together(nodeid)

    return TogetherScheduling(config, log)

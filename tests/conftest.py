"""How `make test` shares the tests among its processes (pytest-xdist)."""

from pathlib import Path

import pytest

TOGETHER = ("components", "integration/gateway", "unit/package", "unit/cluster", "unit/training", "manifests")
"""Folders whose tests share fixtures that take long to make; elsewhere a file's tests stay together."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        file = item.path.relative_to(here).as_posix()
        group = next((folder for folder in TOGETHER if file.startswith(folder + "/")), file)
        item.add_marker(pytest.mark.xdist_group(group))

import pytest

from hounsfield.cluster.settings import JobSettings
from tests.unit.cluster.api_server import running_cluster


@pytest.fixture
def cluster():
    with running_cluster() as found:
        yield found


@pytest.fixture
def settings():
    return JobSettings(storage="s3://bucket/training")

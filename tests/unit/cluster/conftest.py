import pytest

from hounsfield.cluster.settings import JobSettings
from hounsfield.manifests.schemas import Schemas
from tests.manifests.conftest import CRDS
from tests.unit.cluster.api_server import running_cluster


@pytest.fixture
def cluster():
    with running_cluster() as found:
        yield found


@pytest.fixture
def settings():
    return JobSettings(storage="s3://bucket/training")


@pytest.fixture(scope="session")
def violations(tmp_path_factory):
    """A function of one object: its violations of the CRDs, [] when it is valid."""
    if not CRDS.is_dir():
        pytest.skip(f"there are no CRDs in {CRDS}; name their folder in HOUNSFIELD_CRDS")
    ours = tmp_path_factory.mktemp("crds")
    for name in ("kubeflow.org_pytorchjobs", "kubeflow.org_experiments", "trainer.kubeflow.org_trainjobs"):
        (ours / f"{name}.yaml").symlink_to(CRDS / f"{name}.yaml")
    return Schemas(ours).violations

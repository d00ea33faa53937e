import pytest

from hounsfield.data.sample import make_sample


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """A simulated set of 120 small images, made once; tests only read it."""
    folder = tmp_path_factory.mktemp("sample") / "set"
    make_sample(folder, images=120, size_px=64)
    return folder

"""Every overlay rendered once, and the schemas that its objects are held against."""

import os
import shutil
from pathlib import Path

import pytest

from hounsfield.errors import PlatformError
from hounsfield.laptop.programs import find_program
from hounsfield.laptop.render import OVERLAY, render, set_secure
from hounsfield.manifests.schemas import Schemas

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
CRDS = Path(os.environ.get("HOUNSFIELD_CRDS") or ROOT.parent / "shared" / "crds")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """The objects of each overlay by its name; `secure laptop`: after `hounsfield up --secure`."""
    try:
        find_program("kubectl")
    except PlatformError as error:
        pytest.skip(str(error))
    tree = Path(shutil.copytree(MANIFESTS, tmp_path_factory.mktemp("secure") / "tree"))
    set_secure(tree)
    plain = {folder.name: render(folder) for folder in sorted((MANIFESTS / "overlays").iterdir())}
    return plain | {"secure laptop": render(tree / OVERLAY)}


@pytest.fixture(scope="session")
def violations():
    """A function of one object: its violations as sentences `path: what`, [] when it is valid."""
    if not CRDS.is_dir():
        pytest.skip(f"there are no CRDs in {CRDS}; name their folder in HOUNSFIELD_CRDS")
    return Schemas(CRDS).violations

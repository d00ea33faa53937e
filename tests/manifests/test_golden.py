"""What each overlay comes to is under version control, so that review sees what a change does."""

import subprocess
from pathlib import Path

import pytest

from hounsfield.laptop.programs import find_program

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/manifests/golden"


@pytest.mark.parametrize("overlay", sorted(path.name for path in (ROOT / "manifests/overlays").iterdir()))
def test_an_overlay_renders_to_its_golden_file(overlay, rendered):
    command = [find_program("kubectl"), "kustomize", ROOT / "manifests/overlays" / overlay]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    file = GOLDEN / f"{overlay}.yaml"
    assert file.is_file(), f"no {file.name}: run `make golden`"
    assert text == file.read_text(), "run `make golden`, and look at the diff before you commit it"


def test_there_is_no_golden_file_without_an_overlay():
    overlays = {path.name for path in (ROOT / "manifests/overlays").iterdir()}
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == overlays

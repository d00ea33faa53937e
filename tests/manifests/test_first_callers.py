"""Who goes first, as a rollout writes it into rollout.yaml, reaches every route and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from hounsfield.errors import PlatformError
from hounsfield.laptop.programs import find_program
from hounsfield.laptop.render import render
from hounsfield.rollout import manifest
from hounsfield.rollout.policy import First

try:
    find_program("kubectl")
except PlatformError as error:
    pytest.skip(str(error), allow_module_level=True)

WHO = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
MANIFESTS = Path(__file__).parents[2] / "manifests"


def routes(tree, overlay):
    objects = render(tree / "overlays" / overlay)
    (service,) = [item for item in objects if item["kind"] == "VirtualService"]
    return {route["name"]: route for route in service["spec"]["http"]}


@pytest.mark.parametrize("overlay", ["laptop", "staging", "production"])
def test_those_who_go_first_reach_every_door_and_are_forgotten_again(tmp_path, overlay, violations):
    tree = Path(shutil.copytree(MANIFESTS, tmp_path / "tree"))
    for arguments in (("init", "-q"), (*WHO, "commit", "-q", "--allow-empty", "-m", "begin")):
        subprocess.run(["git", "-C", tree, *arguments], check=True)
    file = Path("overlays") / overlay / "rollout.yaml"
    before, text = routes(tree, overlay), (tree / file).read_text()
    manifest.set_weights(tree, 95, 5, first=First("x-hounsfield-caller", ("ada", "b.c")), file=file)
    after = routes(tree, overlay)
    for door in ("rest", "grpc", "explain"):
        found = after[f"{door}-first"]
        (match,) = found["match"]
        assert match["headers"] == {"x-hounsfield-caller": {"regex": "ada|b[.]c"}}
        assert match["uri"] == before[f"{door}-first"]["match"][0]["uri"]
        assert [share["weight"] for share in found["route"]] == [0, 100]
        assert [share["weight"] for share in after[f"{door}-by-weight"]["route"]] == [95, 5]
    assert (
        after["rest-first"]["mirrorPercentage"] == after["grpc-first"]["mirrorPercentage"] == {"value": 100}
    )
    assert after["rest-by-weight"]["mirrorPercentage"] == {"value": 0}
    manifest.set_weights(tree, 100, 0, file=file)
    assert routes(tree, overlay) == before
    assert (tree / file).read_text() == text

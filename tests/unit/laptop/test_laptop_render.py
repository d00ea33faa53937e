"""The tree renders, its port is edited with its comments kept, and a broken edit is named."""

import shutil
from pathlib import Path

import pytest

from hounsfield.errors import RolloutError
from hounsfield.laptop.render import OVERLAY, PORT_FILE, render, set_gateway_port

MANIFESTS = Path(__file__).parents[3] / "manifests"


@pytest.fixture
def tree(tmp_path):
    return Path(shutil.copytree(MANIFESTS, tmp_path / "tree"))


def test_the_port_is_written_and_the_comment_stays(tree):
    assert set_gateway_port(tree, 9090) is True
    assert set_gateway_port(tree, 9090) is False
    assert (tree / PORT_FILE).read_text() == (MANIFESTS / PORT_FILE).read_text().replace("8080", "9090")
    (gateway,) = [item for item in render(tree / OVERLAY) if item["kind"] == "Gateway"]
    assert gateway["spec"]["servers"][0]["port"]["number"] == 9090


def test_an_edit_that_is_no_yaml_is_named(tree):
    file = tree / OVERLAY / "rollout.yaml"
    file.write_text(file.read_text().replace("stable: 100", "stable: [100"))
    with pytest.raises(RolloutError, match=r"overlays/laptop does not render: .*rollout\.yaml"):
        render(tree / OVERLAY)

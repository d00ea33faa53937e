"""Overlay folder -> Kubernetes objects, by kubectl's own kustomize: laptop and cluster read the same."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from hounsfield.errors import RolloutError
from hounsfield.laptop.programs import find_program

KubeObject = Mapping[str, Any]

PORT_FILE = Path("overlays/laptop/port.yaml")
OVERLAY = Path("overlays/laptop")

SECURE = ("../../base/access", "../../base/api-keys")
"""The components that turn on TLS and the checks of who asks."""


def render(overlay: Path) -> list[KubeObject]:
    """The objects that `kubectl apply -k OVERLAY` would send; RolloutError when it does not render."""
    done = subprocess.run(
        [find_program("kubectl"), "kustomize", str(overlay)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("error: ")
        raise RolloutError(
            f"{overlay} does not render: {reason}; fix the file, or take it back with `git checkout`"
        )
    return [document for document in YAML(typ="safe", pure=True).load_all(done.stdout) if document]


def set_gateway_port(tree: Path, port: int) -> bool:
    """Write `port` into the tree's port.yaml, keeping its comments; False when it was there already."""
    yaml, path = YAML(), tree / PORT_FILE
    yaml.preserve_quotes = True
    document = yaml.load(path)
    if document["port"] == port:
        return False
    document["port"] = port
    with path.open("w") as stream:
        yaml.dump(document, stream)
    return True


def set_secure(tree: Path) -> bool:
    """Add the components `SECURE` to the tree's laptop overlay; False when it has them already."""
    yaml, path = YAML(), tree / OVERLAY / "kustomization.yaml"
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(path)
    missing = [component for component in SECURE if component not in document["components"]]
    if not missing:
        return False
    for component in missing:
        if not (path.parent / component).is_dir():
            raise RolloutError(
                f"{tree} has no {component.removeprefix('../../')}: an older version made it; move it away"
            )
    document["components"].extend(missing)
    with path.open("w") as stream:
        yaml.dump(document, stream)
    return True

"""`hounsfield manifests ...`: what the manifests say, checked without a cluster."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import yaml

from hounsfield.errors import ConfigError


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands to `commands`; `command` is what the main parser makes each of them with."""
    validate = command(
        commands,
        "validate",
        _validate,
        "check each object strictly against its schema, each pod against Pod Security and NSA/CISA",
        "hounsfield manifests validate manifests/overlays/production --crds crds",
    )
    validate.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="a folder that kustomize renders, or a YAML file"
    )
    validate.add_argument(
        "--crds",
        type=Path,
        default=os.environ.get("HOUNSFIELD_CRDS") or "../shared/crds",
        help="folder of the cluster's CRDs: `kubectl get crd -o yaml` a file (default: $HOUNSFIELD_CRDS or "
        "../shared/crds)",
    )
    validate.add_argument(
        "--pods", type=Path, metavar="FOLDER", help="write the pods found there, for checkers that read Pods"
    )


def _validate(arguments: argparse.Namespace) -> int:
    from hounsfield.manifests.hardening import findings
    from hounsfield.manifests.schemas import Schemas

    schemas, wrong = Schemas(Path(arguments.crds)), 0
    for path in arguments.paths:
        objects = _objects(path)
        found = [
            f"{item['kind']} {item['metadata']['name']}: {sentence}"
            for item in objects
            for sentence in schemas.violations(item)
        ]
        found += findings(objects)
        print(f"{path}: {len(objects)} objects, {len(found) or 'no'} findings")
        for sentence in found:
            print(f"  {sentence}")
        wrong += len(found)
        if arguments.pods:
            _write_pods(objects, arguments.pods, path.stem)
    return 1 if wrong else 0


def _objects(path: Path) -> list:
    from hounsfield.laptop.render import render

    if path.is_dir():
        return render(path)
    try:
        return [item for item in yaml.safe_load_all(path.read_text()) if item]
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from None


def _write_pods(objects: list, folder: Path, prefix: str) -> None:
    """The pods, and beside them the core objects that such checkers read as they are."""
    from hounsfield.manifests.pods import pods

    folder.mkdir(parents=True, exist_ok=True)
    found: list = [pod.as_object(f"pod-{number}") for number, pod in enumerate(pods(objects))]
    core = ("rbac.authorization.k8s.io/v1", "networking.k8s.io/v1", "policy/v1", "v1")
    found += [item for item in objects if item["apiVersion"] in core]
    (folder / f"{prefix}.yaml").write_text(yaml.safe_dump_all(found, sort_keys=False))

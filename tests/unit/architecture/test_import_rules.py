"""Who may import whom (DESIGN, layout): read from the source, so that a wrong import fails before it runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
SOURCE = REPO / "src" / "hounsfield"

LEAVES = {"errors", "config", "progress"}
ALLOWED = {
    "dicom": LEAVES,
    "data": LEAVES | {"dicom"},
    "imaging": LEAVES | {"dicom", "data"},
    "training": LEAVES | {"dicom", "data", "imaging"},
    "evaluation": LEAVES | {"dicom", "data", "imaging", "training"},
    "explain": LEAVES | {"dicom", "data", "imaging", "training", "evaluation"},
    "package": LEAVES | {"dicom", "data", "imaging", "training", "evaluation", "explain"},
    "registry": LEAVES | {"package"},
    "serving": LEAVES | {"dicom", "imaging", "explain", "package", "audit"},
    "drift": {"errors", "config", "progress", "audit"},
    "rollout": {"errors", "config", "progress", "audit"},
    "audit": {"errors", "config"},
    "cluster": LEAVES | {"training"},
    "report": LEAVES,
    "laptop": LEAVES | {"rollout", "registry", "audit", "package"},
    "manifests": LEAVES | {"laptop"},
    "backup": LEAVES | {"audit"},
    "cli": None,  # a thin edge: it may call everything
}
THIRD_PARTY_BANNED = {
    "serving": {"kserve", "torch", "monai", "mlflow"},
    "rollout": {"kserve", "torch", "monai", "mlflow", "kubernetes"},
    "drift": {"kserve", "mlflow", "kubernetes"},
    "dicom": {"torch", "monai", "mlflow", "kserve"},
}


def imported_modules(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def violations(package: str, source: str) -> list[str]:
    """The imports of `source`, a module of `hounsfield.<package>`, that the rules forbid."""
    found = []
    allowed = ALLOWED[package]
    for name in sorted(imported_modules(source)):
        parts = name.split(".")
        if parts[0] == "hounsfield" and len(parts) > 1:
            if allowed is not None and parts[1] not in allowed | {package}:
                found.append(name)
        elif parts[0] in {"components", "pipelines", "serving", "tests"} or parts[
            0
        ] in THIRD_PARTY_BANNED.get(package, set()):
            found.append(name)
    return found


@pytest.mark.parametrize(
    "package", sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists())
)
def test_package_imports_only_what_it_may(package):
    assert package in ALLOWED, f"hounsfield.{package} has no rule: add it to ALLOWED"
    for module in (SOURCE / package).rglob("*.py"):
        assert violations(package, module.read_text()) == [], module.relative_to(REPO)


def test_planted_violations_are_found():
    assert violations("rollout", "from hounsfield.serving.engine import Engine") == [
        "hounsfield.serving.engine"
    ]
    assert violations("serving", "import kserve") == ["kserve"]
    assert violations("data", "from pipelines.training import training") == ["pipelines.training"]


def test_only_cluster_imports_kubernetes():
    for module in SOURCE.rglob("*.py"):
        if "cluster" not in module.parts:
            roots = {name.split(".")[0] for name in imported_modules(module.read_text())}
            assert not roots & {"kubernetes", "kubeflow"}, module.relative_to(REPO)


def test_components_and_pipelines_keep_their_places():
    for module in (REPO / "components").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported_modules(module.read_text())}
        assert not roots & {"pipelines", "serving"}, module.relative_to(REPO)
    for module in (REPO / "serving").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported_modules(module.read_text())}
        assert not roots & {"pipelines", "components"}, module.relative_to(REPO)

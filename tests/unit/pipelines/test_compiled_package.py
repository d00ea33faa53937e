"""`make compile`: the package that the Kubeflow dashboard takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[3]
STEPS = {
    "for-loop-1",
    "ingest",
    "preprocess",
    "tune",
    "train",
    "evaluate",
    "explain",
    "export",
    "fit-drift",
    "package",
    "register",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("build")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "--out", str(out)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    names = ("hounsfield-training.yaml", "hounsfield-retraining.yaml")
    assert done.stdout.split() == [str(out / name) for name in names]
    return out / "hounsfield-training.yaml"


@pytest.fixture(scope="module")
def spec(package) -> dict:
    return next(yaml.safe_load_all(package.read_text()))


def test_kfp_loads_the_package_as_a_pipeline(package):
    from kfp import components

    assert components.load_component_from_file(str(package)).name == "hounsfield-training"


def test_every_step_of_the_flow_is_there(spec):
    assert set(spec["root"]["dag"]["tasks"]) == STEPS


def test_steps_install_nothing_when_they_run(spec):
    for name, executor in spec["deploymentSpec"]["executors"].items():
        command = " ".join(executor["container"]["command"])
        assert "pip install" not in command, name
        assert executor["container"]["image"].startswith("hounsfield/"), name


def test_fit_drift_runs_in_the_guard_image(spec):
    images = {
        name: executor["container"]["image"] for name, executor in spec["deploymentSpec"]["executors"].items()
    }
    assert {name for name, image in images.items() if "guard" in image} == {"exec-fit-drift"}


def test_storage_of_jobs_is_mounted_where_it_is_named(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "--out", str(tmp_path)],
        cwd=REPO,
        env={**os.environ, "HOUNSFIELD_STORAGE_CLAIM": "shared"},
        check=True,
        capture_output=True,
    )
    _, platform = yaml.safe_load_all((tmp_path / "hounsfield-training.yaml").read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {"exec-train", "exec-tune"}
    for executor in executors.values():
        (mount,) = executor["pvcMount"]
        assert mount["mountPath"] == "/storage"
        assert "shared" in str(mount)


def test_dashboard_gets_pictures(spec):
    outputs = spec["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    kinds = {name: value["artifactType"]["schemaTitle"] for name, value in outputs.items()}
    assert kinds["roc"] == "system.ClassificationMetrics"
    assert kinds["metrics"] == "system.Metrics"
    assert kinds["page"] == "system.HTML"


def test_package_names_no_path_of_the_machine_that_compiled_it(package):
    assert str(REPO) not in package.read_text()
    assert str(Path.home()) not in package.read_text()

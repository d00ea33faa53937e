"""One run of the training pipeline on a small sample by kfp.local, shared by the tests of its steps."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from hounsfield.config import Home

REPO = Path(__file__).resolve().parents[2]
PARAMETERS = {"epochs": 1, "batch_size": 16}


@dataclass(frozen=True)
class PipelineRun:
    home: Home
    artifacts: dict[str, Path]
    folder: Path
    """The run's folder below the pipeline root: one folder a step."""
    screen: str


def _run(home: Home, source: Path, labels: Path) -> tuple[dict[str, Path], str]:
    """Output artifacts by name, and what a person saw; the environment is as it was afterwards."""
    from pipelines.run import run_pipeline

    screen, kept = io.StringIO(), dict(os.environ)
    os.environ.setdefault("HOUNSFIELD_GUARD_PYTHON", str(REPO / ".venv-guard" / "bin" / "python"))
    try:
        artifacts = _run_with(run_pipeline, home, source, labels, screen)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    return artifacts, screen.getvalue()


def _run_with(run_pipeline, home, source, labels, screen):
    return run_pipeline(
        home,
        Console(file=screen, width=160),
        {
            "source": str(source),
            "labels": str(labels),
            "git_commit": "0" * 40,
            "seed": 7,
            "size_px": 64,
            "parameters": PARAMETERS,
            "processes": 2,
            "workers": 2,
            "tune_trials": 0,
        },
    )


@pytest.fixture(scope="session")
def run_small_pipeline():
    return _run


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory) -> Path:
    """240 simulated images: about 48 in the test split, 17 of them positive."""
    from hounsfield.data.sample import make_sample

    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, images=240, workers=2)
    return folder


@pytest.fixture(scope="session")
def pipeline_run(small_sample, tmp_path_factory) -> PipelineRun:
    home = Home.at(tmp_path_factory.mktemp("home"))
    artifacts, screen = _run(home, small_sample / "dicom", small_sample / "labels.csv")
    return PipelineRun(home, artifacts, artifacts["registration"].parents[1], screen)

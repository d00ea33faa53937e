"""The notebook, executed by nbclient against a server that speaks the KFP API over HTTP."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.unit.cluster.kfp_server import running_pipelines

FOLDER = Path(__file__).resolve().parents[3] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_tells_and_defines_nothing(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code:
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, defined)]
        assert cell.outputs == []
        assert cell.execution_count is None
    assert len([cell for cell in cells if cell.cell_type == "markdown"]) >= len(code) / 2


def test_notebook_runs_the_pipeline_and_schedules_the_next(monkeypatch, tmp_path):
    notebook = nbformat.read(FOLDER / "train-and-submit.ipynb", as_version=4)
    with running_pipelines() as (pipelines, host, _):
        pipelines.states = [
            ("RUNNING", [("ingest", "SKIPPED", {}), ("train", "RUNNING", {})]),
            ("SUCCEEDED", [("ingest", "SKIPPED", {}), ("train", "SUCCEEDED", {})]),
        ]
        monkeypatch.setenv("KFP_HOST", host)
        monkeypatch.setenv("LOOK_EVERY_S", "0.01")
        monkeypatch.setenv("HOME", str(tmp_path))  # the SDK keeps a context there
        for name in ("KFP_TOKEN", "KFP_COOKIE", "KFP_NAMESPACE", "HOUNSFIELD_STORE"):
            monkeypatch.delenv(name, raising=False)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
        (run,) = pipelines.runs.values()
        (nightly,) = pipelines.recurring.values()
    assert run["runtime_config"]["parameters"]["cluster"]["workers"] == 2
    assert nightly["pipeline_spec"]["pipelineInfo"]["name"] == "hounsfield-retraining"
    said = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "state='SUCCEEDED'" in said
    assert "recurringrun/details/recurring-0" in said
    assert f"{host}/#/runs/details/run-0" in said

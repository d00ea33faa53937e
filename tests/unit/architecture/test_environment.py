"""The pins hold: what is installed beside each other imports together."""

import importlib
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "module", ["kubeflow.katib", "kubeflow.training", "kfp", "kserve", "mlflow", "monai"]
)
def test_module_imports_beside_the_others(module):
    importlib.import_module(module)


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-guard.txt"])
def test_constraints_leave_the_torch_build_to_the_machine(name):
    lines = (REPO / name).read_text().splitlines()
    assert [line for line in lines if re.match(r"(torch|triton|nvidia-)[=\w-]*==", line)] == []
    assert all(line.startswith("#") or "==" in line for line in lines)

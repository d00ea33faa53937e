"""The pins hold: what is installed beside each other imports together."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]


def test_pinned_libraries_import_beside_each_other():
    # A process of its own: kserve reads the command line of whoever imports it.
    modules = "kubeflow.katib, kubeflow.training, kfp, kserve, mlflow, monai"
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-guard.txt"])
def test_constraints_leave_the_torch_build_to_the_machine(name):
    lines = (REPO / name).read_text().splitlines()
    assert [line for line in lines if re.match(r"(torch|triton|nvidia-)[=\w-]*==", line)] == []
    assert all(line.startswith("#") or "==" in line for line in lines)

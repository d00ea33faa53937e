"""The retraining pipeline: the package, and its one step of its own through kfp.local."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.compile import compile_package
from pipelines.retraining import retraining

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    package = compile_package(retraining, tmp_path_factory.mktemp("build"))
    return next(yaml.safe_load_all(package.read_text()))


def test_training_hangs_on_the_drift(spec):
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"check-drift", "condition-1"}
    condition = tasks["condition-1"]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--check-drift-retrain'] == true"
    inner = spec["components"][tasks["condition-1"]["componentRef"]["name"]]["dag"]["tasks"]
    (training,) = inner.values()
    steps = spec["components"][training["componentRef"]["name"]]["dag"]["tasks"]
    assert {"ingest", "train", "package", "register"} <= set(steps)


def test_the_moment_of_asking_is_the_fingerprint_so_that_new_data_are_read(spec):
    tasks = spec["root"]["dag"]["tasks"]
    assert "enableCache" not in tasks["check-drift"]["cachingOptions"]
    inner = spec["components"][tasks["condition-1"]["componentRef"]["name"]]["dag"]["tasks"]
    (training,) = inner.values()
    given = training["inputs"]["parameters"]["source_fingerprint"]["componentInputParameter"]
    assert given == "pipelinechannel--check-drift-moment"


def test_check_drift_runs_through_kfp_local(tmp_path):
    import subprocess

    code = (
        "import json, sys\n"
        "from kfp import local\n"
        "from components.check_drift.component import check_drift\n"
        f"local.init(local.SubprocessRunner(use_venv=False), pipeline_root={str(tmp_path)!r})\n"
        "task = check_drift(prometheus_url='http://127.0.0.1:9', model_name='opacity', always=True)\n"
        "print('OUTPUTS ' + json.dumps(task.outputs))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("OUTPUTS ")]
    outputs = json.loads(line.removeprefix("OUTPUTS "))
    assert outputs["retrain"] is True
    assert outputs["moment"].endswith("+00:00")

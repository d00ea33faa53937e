import json

import pandas as pd
import pytest

from hounsfield.errors import DataError
from hounsfield.evaluation.evaluate import evaluate
from hounsfield.explain.shap_overlays import choose_cases, explain
from hounsfield.training.baseline import fit_baseline


@pytest.fixture(scope="module")
def model(tensors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    fit_baseline(tensors, folder / "model")
    evaluate(folder / "model", None, tensors, folder / "evaluation")
    return folder


def test_cases_are_taken_from_the_kinds_in_turn():
    predictions = pd.DataFrame(
        {
            "label": [1, 1, 1, 0, 0, 1],
            "called": [1, 1, 0, 0, 1, 1],
            "probability": [0.7, 0.9, 0.1, 0.2, 0.6, 0.8],
        }
    )
    chosen = choose_cases(predictions, 5)
    assert list(chosen["kind"]) == [
        "true-positive",
        "false-negative",
        "false-positive",
        "true-negative",
        "true-positive",
    ]
    assert list(chosen["position"]) == [1, 2, 4, 3, 5]


def test_attributions_add_up_and_pictures_are_named_without_identity(tensors, model, tmp_path):
    summary = explain(model / "model", model / "evaluation", tensors, tmp_path, cases=3)
    assert json.loads((tmp_path / "explain.json").read_text()) == summary
    assert len(summary["cases"]) == 3
    for number, case in enumerate(summary["cases"], start=1):
        assert case["file"] == f"case-{number:02d}-{case['kind']}.png"
        assert (tmp_path / case["file"]).read_bytes().startswith(b"\x89PNG")
        # The baseline is nearly linear, so that sampled gradients must come close.
        assert case["completeness_error"] < 0.25 * max(1.0, abs(case["logit_difference"]))


def test_same_seed_gives_the_same_attribution(tensors, model, tmp_path):
    first = explain(model / "model", model / "evaluation", tensors, tmp_path / "a", cases=1)
    again = explain(model / "model", model / "evaluation", tensors, tmp_path / "b", cases=1)
    assert first == again
    file = first["cases"][0]["file"]
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_evaluation_of_other_tensors_is_refused(tensors, model, tmp_path):
    other = tmp_path / "evaluation"
    other.mkdir()
    predictions = pd.read_parquet(model / "evaluation" / "predictions.parquet")
    predictions[predictions["split"] == "validation"].to_parquet(other / "predictions.parquet")
    (other / "metrics.json").write_text((model / "evaluation" / "metrics.json").read_text())
    with pytest.raises(DataError, match="16 of 16 test images have no prediction"):
        explain(model / "model", other, tensors, tmp_path / "out")

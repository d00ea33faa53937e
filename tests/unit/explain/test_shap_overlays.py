"""The explain step: which cases are shown, what they add up to, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from hounsfield.errors import DataError
from hounsfield.evaluation.evaluate import evaluate
from hounsfield.explain.background import typical_negative
from hounsfield.explain.shap_overlays import choose_cases, explain
from hounsfield.training.baseline import fit_baseline
from hounsfield.training.network import load_network


@pytest.fixture(scope="module")
def steps(tensors, tmp_path_factory):
    """`model`, `evaluation`, and the arguments of `explain` that do not change."""
    folder = tmp_path_factory.mktemp("explained")
    fit_baseline(tensors, folder / "model")
    evaluate(folder / "model", None, tensors, folder / "evaluation")
    network = load_network(folder / "model")

    def run(images):
        with torch.inference_mode():
            return network(torch.from_numpy(images))[0].numpy()

    return run, typical_negative(tensors), folder / "evaluation", tensors


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


def test_attributions_add_up_and_pictures_are_named_without_identity(steps, tmp_path):
    summary = explain(*steps, tmp_path / "out", cases=3, known={"phantoms": 16})
    assert json.loads((tmp_path / "out" / "explain.json").read_text()) == summary
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"global.png"} | {case["file"] for case in summary["cases"]}
    for number, case in enumerate(summary["cases"], start=1):
        assert case["file"] == f"case-{number:02d}-{case['kind']}.png"
        assert (tmp_path / "out" / case["file"]).read_bytes().startswith(b"\x89PNG")
        assert case["completeness_error"] < 1e-4
    assert len(summary["cases"]) == 3
    assert summary["package"] == {"phantoms": 16}
    assert summary["completeness"]["passed"] is True
    # The finding of these tensors is a square at rows and columns 8 to 20 of 32: regions 4 to 10 of 16.
    overall = np.array(summary["global"]["mean_absolute"])
    inside = overall[4:10, 4:10].sum() / overall.sum()
    assert inside > 3 * 36 / 256


def test_the_same_question_gives_the_same_picture(steps, tmp_path):
    first = explain(*steps, tmp_path / "a", cases=1)
    again = explain(*steps, tmp_path / "b", cases=1)
    assert first == again
    for file in (first["cases"][0]["file"], "global.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_engine_that_changes_its_mind_is_not_explained(steps, tmp_path):
    run, *others = steps
    asked = []

    def moody(images):
        asked.append(len(images))
        return run(images) + np.float32(0.01 * (len(asked) % 7 == 1))

    with pytest.raises(DataError, match=r"attributions of an image miss the change of its logit by 0\.0"):
        explain(moody, *others, tmp_path / "out", cases=2, threads=1)
    assert not list(tmp_path.iterdir())


def test_evaluation_of_other_tensors_is_refused(steps, tmp_path):
    run, background, evaluation, tensors = steps
    other = tmp_path / "evaluation"
    other.mkdir()
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    predictions[predictions["split"] == "validation"].to_parquet(other / "predictions.parquet")
    (other / "metrics.json").write_text((evaluation / "metrics.json").read_text())
    with pytest.raises(DataError, match="16 of 16 test images have no prediction"):
        explain(run, background, other, tensors, tmp_path / "out")

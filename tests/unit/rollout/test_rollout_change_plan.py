"""A candidate outside the change plan is refused with the line that it breaks, and so is a plan that errs."""

import copy
import dataclasses
from pathlib import Path

import pytest

from hounsfield.config import INTENDED_USE
from hounsfield.errors import ConfigError, RolloutError
from hounsfield.rollout.candidate import Candidate
from hounsfield.rollout.change_plan import ChangePlan, load_change_plan
from hounsfield.training.params import TrainingParams

SHIPPED = Path(__file__).parents[3] / "manifests/base/rollout/change-plan.yaml"
PLAN = load_change_plan(SHIPPED)
WITHIN = Candidate(
    digest="a" * 64,
    model={
        "name": "opacity",
        "architecture": "efficientnet-b0",
        "lineage": {
            "intended_use": INTENDED_USE,
            "hyperparameters": dataclasses.asdict(TrainingParams()),
        },
    },
    profile={
        "images": 1100,
        "patients": 400,
        "fields": {
            "modality": {"kind": "category", "missing": 0, "counts": {"CR": 263, "DX": 837}},
            "age_years": {"kind": "number", "missing": 0, "min": 19.0, "max": 90.0},
        },
    },
    contract={"size_px": 96},
)


def but(*path, value):
    """WITHIN with one value changed, by its keys."""
    parts = copy.deepcopy(dataclasses.asdict(WITHIN))
    inner = parts
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return Candidate(**parts)


def line(text):
    return next(
        n for n, said in enumerate(SHIPPED.read_text().splitlines(), 1) if said.strip().startswith(text)
    )


def test_the_shipped_plan_allows_what_the_shipped_training_does():
    assert PLAN.breaches(WITHIN) == ()


@pytest.mark.parametrize(
    ("path", "value", "text", "sentence"),
    [
        (("model", "lineage", "intended_use"), "diagnosis without a radiologist", "intended_use:",
         "the package is for 'diagnosis without a radiologist', which is another intended use"),
        (("model", "lineage", "intended_use"), None, "intended_use:", "is for not told"),
        (("model", "name"), "fracture", "model:", "the package is of the model 'fracture'"),
        (("model", "architecture"), "vit", "architectures:", "the architecture 'vit' is not listed"),
        (("contract", "size_px"), 2048, "input_size_px:", "is 2048, and the plan allows from 64 to 1024"),
        (("model", "lineage", "hyperparameters", "learning_rate"), 0.5, "learning_rate:",
         "learning_rate is 0.5, and the plan allows from 1e-05 to 0.05"),
        (("model", "lineage", "hyperparameters", "epochs"), float("nan"), "epochs:", "epochs is nan"),
        (("model", "lineage", "hyperparameters", "warmup"), 3, "hyperparameters:",
         "the hyperparameter warmup is not declared, so it may not be set"),
        (("model", "lineage", "hyperparameters"), None, "hyperparameters:", "does not tell its hyperp"),
        (("profile", "patients"), 7, "patients:", "the number of patients is 7, and the plan allows from 30"),
        (("profile", "fields", "modality", "counts"), {"MG": 9}, "modality:",
         "the data have modality 'MG', which is not listed"),
        (("profile", "fields", "modality", "missing"), 4, "modality:", "4 images of the data have no mod"),
        (("profile", "fields", "modality"), {}, "modality:", "does not tell the modality of its data"),
        (("profile", "fields", "age_years", "max"), 130.0, "age_years:", "the max of age_years is 130.0"),
        (("profile", "fields"), {}, "age_years:", "the min of age_years is not told"),
    ],
)  # fmt: skip
def test_each_breach_names_the_line_of_the_plan(path, value, text, sentence):
    said = "\n".join(PLAN.breaches(but(*path, value=value)))
    assert f"change-plan.yaml line {line(text)}: " in said
    assert sentence in said


def test_the_gate_reads_the_plan_that_it_is_sent_with_its_lines_and_its_digest():
    sent = ChangePlan.from_dict(PLAN.as_dict())
    breaking = but("model", "architecture", value="vit")
    assert sent.breaches(breaking) == PLAN.breaches(breaking)
    assert sent.digest == PLAN.digest
    with pytest.raises(ConfigError, match="needs values, source and lines"):
        ChangePlan.from_dict({"values": {}})
    told = PLAN.as_dict()
    told["values"] = {**told["values"], "architectures": []}
    with pytest.raises(
        ConfigError, match=rf"line {line('architectures:')}: architectures is \[\]; it must be"
    ):
        ChangePlan.from_dict(told)


@pytest.mark.parametrize(
    ("old", "new", "at", "sentence"),
    [
        (
            "architectures: [efficientnet-b0, densenet121]",
            "architectures: []",
            "architectures:",
            "must be a list of",
        ),
        ("epochs: {min: 1, max: 200}", "epochs: {min: 9, max: 2}", "epochs:", "has min 9 above max 2"),
        ("epochs: {min: 1, max: 200}", "epochs: {least: 9}", "epochs:", "must be any, a list of values, or"),
        ("model: opacity", "model: 7", "model:", "model is 7; it must be the name of the model"),
        ("model: opacity", "modle: opacity", "modle:", "unknown key 'modle'"),
        ("dropout: {min: 0, max: 0.6}", "dropout: .nan", "dropout:", "is nan; it must be a finite number"),
    ],
)
def test_a_plan_that_errs_is_refused_by_its_line(tmp_path, old, new, at, sentence):
    text = SHIPPED.read_text()
    assert text.count(old) == 1 or old.startswith("architectures")
    (tmp_path / "plan.yaml").write_text(text.replace(old, new, 1))
    where = next(
        n for n, said in enumerate((tmp_path / "plan.yaml").read_text().splitlines(), 1) if at in said
    )
    with pytest.raises(ConfigError, match=rf"^plan\.yaml line {where}: ") as caught:
        load_change_plan(tmp_path / "plan.yaml")
    assert sentence in str(caught.value)


def test_a_plan_that_is_missing_or_no_yaml_is_named(tmp_path):
    with pytest.raises(RolloutError, match=r"the change plan .* does not exist"):
        load_change_plan(tmp_path / "none.yaml")
    (tmp_path / "plan.yaml").write_text("model: [")
    with pytest.raises(RolloutError, match=r"plan\.yaml line 1: this is not YAML"):
        load_change_plan(tmp_path / "plan.yaml")

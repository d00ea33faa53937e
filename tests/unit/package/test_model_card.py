"""The card: what it says, in Markdown and HTML, and without what it is not written."""

import copy
import dataclasses
import html.parser
import json

import pytest

from hounsfield.errors import PackageError
from hounsfield.package.card import MANDATORY, card_page, render_card
from hounsfield.package.choice import EngineChoice
from hounsfield.package.statements import DEFAULT, Statements
from tests.unit.package.steps import DATASET, METRICS

GIVEN = {
    "model": {
        "name": "opacity",
        "class_names": ["negative", "positive"],
        "architecture": "small",
        "threshold": 0.5,
        "review_band": [0.4, 0.6],
        "lineage": {
            "git_commit": "abc",
            "data_fingerprint": "def",
            "intended_use": "mark opacities",
            "hyperparameters": {"epochs": 12},
        },
        "engine": dataclasses.asdict(EngineChoice()),
    },
    "metrics": METRICS,
    "dataset": DATASET,
    "contract": {"size_px": 32, "version": "1"},
    "onnx": {"images": 40, "largest_difference": 2.3e-6, "tolerance": 1e-4},
}
PROFILE = {
    "fields": {
        "manufacturer": {"counts": {"Ada | <b>Co</b>": 7}, "missing": 2},
        "age_years": {"min": 19, "max": 90, "median": 61, "missing": 0},
    }
}
OPTIONAL = {"profile": PROFILE, "explanation": None, "drift": None, "engine": None}
INT8 = {"engine": "ONNX Runtime int8", "ms": 2.0, "speedup": 2.0, "auroc": 0.8, "auroc_change": -0.0123,
        "probability_change": 0.2, "refused": "AUROC moves by -0.0123"}  # fmt: skip
ENGINE = {
    "chosen": "ONNX Runtime fp32",
    "speedup": 4.6,
    "auroc_change": 0.0,
    "images": 220,
    "max_auroc_change": 0.005,
    "max_change": 0.25,
    "pytorch_eager_ms": 12.0,
    "candidates": [INT8],
    "machine": {"cpu": "a CPU", "features": "avx2"},
    "versions": {"torch": "2.13.0"},
}


def card(**changes):
    return render_card(**{**GIVEN, **OPTIONAL, "said": Statements.load(), **changes})


def test_the_card_says_use_data_numbers_subgroups_and_limits():
    text = card()
    for heading in (
        "Intended use", "Data", "Performance on the test split", "Subgroups", "The engine", "Watching it",
        "Risks", "Limits",
    ):  # fmt: skip
        assert f"\n## {heading}\n" in text
    assert "To mark opacities." in text
    assert "| AUROC | 0.912 (0.880 to 0.940) |" in text
    assert "| Positive predictive value | not estimable |" in text
    assert "| AUROC less that of the baseline | 0.212 (0.150 to 0.280): beaten" in text
    assert "| hyperparameters | epochs 12 |" in text
    assert "| manufacturer | Ada \\| <b>Co</b> (7), not recorded 2 |" in text
    assert "differs from PyTorch by at most 2.3e-06 over 40 validation images" in text


def test_int8_that_was_refused_is_in_the_card_with_its_number():
    text = card(engine=ENGINE)
    assert "No INT8 file is shipped: ONNX Runtime int8: AUROC moves by -0.0123." in text
    assert "| ONNX Runtime int8 | 2.0 | 2.0 | 0.8000 | -0.0123 | 0.2000 | AUROC moves by -0.0123 |" in text


def test_a_baseline_that_was_not_beaten_is_said_so():
    metrics = {**METRICS, "baseline": {**METRICS["baseline"], "beaten": False}}
    assert "NOT beaten" in card(metrics=metrics)


@pytest.mark.parametrize("passed", [True, False, None])
def test_the_pointing_game_is_told_as_it_ended(passed):
    game = {"cases": 14, "hits": 2, "random_rate": 0.07, "p_value": 0.3, "passed": passed}
    checked = {"worst": 2e-7, "bound": 1e-3}
    explanation = {"method": "Owen", "phantoms": 16, "completeness": checked, "pointing_game": game}
    word = {True: "passed", False: "NOT passed", None: "too few to judge"}[passed]
    assert f"does in 7.0 % (p = 3.0e-01): {word}." in card(explanation=explanation)


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in MANDATORY.items() for field in fields]
)
@pytest.mark.parametrize("empty", [None, "absent"])
def test_a_card_that_would_lack_a_field_is_not_written(name, field, empty):
    values = copy.deepcopy(GIVEN[name])
    *path, last = field.split(".")
    parent = values
    for key in path:
        parent = parent[key]
    if empty is None:
        parent[last] = None
    else:
        del parent[last]
    with pytest.raises(PackageError, match=rf"model card: {name}\.{field} is missing or empty"):
        card(**{name: values})


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Statements)])
def test_what_people_must_say_may_not_be_empty(field, tmp_path):
    said = json.loads(DEFAULT.read_text())
    for empty in ("", "  ", [], ["", "x"]):
        (tmp_path / "said.json").write_text(json.dumps({**said, field: empty}))
        with pytest.raises(PackageError, match=rf"model card: {field} is (empty|no )"):
            Statements.load(tmp_path / "said.json")
    del said[field]
    (tmp_path / "said.json").write_text(json.dumps(said))
    with pytest.raises(PackageError, match=rf"said\.json: key '{field}' is missing"):
        Statements.load(tmp_path / "said.json")


@pytest.mark.parametrize("content", [None, "{", "3"])
def test_statements_that_are_none_are_named(content, tmp_path):
    if content is not None:
        (tmp_path / "said.json").write_text(content)
    with pytest.raises(PackageError, match=r"said\.json is missing, or is no JSON object"):
        Statements.load(tmp_path / "said.json")


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_says_the_same_needs_no_file_and_runs_nothing():
    said = dataclasses.replace(Statements.load(), owner="<script>alert(1)</script> [x](javascript:alert(1))")
    page = Cells()
    page.feed(card_page(card(said=said)))
    text = "".join(page.text)
    assert "0.912 (0.880 to 0.940)" in text
    assert "Ada | <b>Co</b> (7)" in text
    assert "<script>alert(1)</script>" in text
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.links == []
    assert page.tags.count("table") >= 5
    assert page.tags.count("h1") == 1

"""Charts, figures and the closing table: what a person reads of a run."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console

from hounsfield.report import charts
from hounsfield.report.page import interval, number, percent, render
from hounsfield.report.table import summary

STEP = {
    "weight": 5,
    "decision": "PROMOTE",
    "reasons": ["within"],
    "requests": 87,
    "commit": "689acecb4912",
}
POINTS = [
    {"at_s": 0.0, "kind": "move", "weight": 0, "shadow": True, "first": False},
    {"at_s": 2.0, "kind": "look", "weight": 0, "decision": "PROMOTE", "proof": 1.0, "harm": 0.0},
    {"at_s": 2.1, "kind": "move", "weight": 0, "shadow": False, "first": True},
    {"at_s": 4.0, "kind": "look", "weight": 0, "decision": "HOLD", "proof": None, "harm": 0.1},
    {"at_s": 6.0, "kind": "look", "weight": 0, "decision": "ROLLBACK", "proof": 0.4, "harm": 1.0},
    {"at_s": 6.1, "kind": "move", "weight": 0, "shadow": False, "first": False},
    {"at_s": 90.0, "kind": "late_look", "decision": "HOLD", "proof": 0.4, "harm": 0.2},
]
CURVE = {"mean_predicted": [0.1, 0.9], "fraction_positive": [0.2, 0.8], "count": [30, 70]}
AUROC = {"value": 0.8834, "low": 0.8042, "high": 0.9409}


@pytest.fixture
def record(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"counts": {"accepted": 1100, "quarantined": 11}}))
    (tmp_path / "metrics.json").write_text(
        json.dumps({"auroc": AUROC, "baseline": {"auroc": {"value": 0.816}}})
    )
    return {
        "artifacts": {"dataset": str(tmp_path), "evaluation": str(tmp_path)},
        "gate": {"passed": True, "reasons": ["every check is met"]},
        "rollout": {"outcome": "promoted", "reason": "every step was passed", "steps": [STEP]},
        "no_rollout": None,
        "endpoints": {"endpoint": "http://127.0.0.1:8080"},
    }


def printed(record) -> str:
    screen = io.StringIO()
    Console(file=screen, width=160).print(summary(record))
    return screen.getvalue()


def test_figures_are_rounded_and_a_missing_one_is_said_so():
    assert interval(AUROC) == "0.883 (0.804 to 0.941)"
    assert interval({"value": None, "low": None, "high": None}) == "not defined"
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert number(None) == "not defined"
    assert percent(0.1234) == "12.3 %"


def test_table_tells_data_auroc_gate_and_each_step(record):
    text = printed(record)
    assert "1100 images accepted, 11 files quarantined" in text
    assert "0.883 (0.804 to 0.941), baseline 0.816" in text
    assert "pass: every check is met" in text
    assert "PROMOTE after 87 requests: within (commit 689acecb49)" in text
    assert "http://127.0.0.1:8080" in text


def test_table_says_why_there_was_no_canary(record):
    refused = record | {
        "gate": {"passed": False, "reasons": ["AUROC 0.5 is below the floor"]},
        "rollout": None,
        "no_rollout": "the gate refused it",
    }
    text = printed(refused)
    assert "fail: AUROC 0.5 is below the floor" in text
    assert "the gate refused it" in text


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.roc([0, 0.2, 1], [0, 0.8, 1], "AUROC 0.8", (0.2, 0.8)),
        lambda: charts.precision_recall([1, 0.5, 0], [0.5, 0.9, 1], "AUPRC 0.8", 0.5),
        lambda: charts.reliability(CURVE, CURVE),
        lambda: charts.decision({"threshold": [0.1, 0.9], "model": [0.3, 0.1], "all": [0.3, -2.0]}, 0.2),
        lambda: charts.forest(
            [
                {"attribute": "patient_sex", "value": "F", "n": 9, "auroc": AUROC},
                {"attribute": "age_band", "value": "80+", "n": 1, "auroc": None},
            ],
            AUROC,
            "AUROC",
        ),
        lambda: charts.learning([{"epoch": 0, "validation_auroc": 0.6, "train_loss": 0.7}]),
        lambda: charts.canary(POINTS),
        lambda: charts.canary([]),
    ],
)
def test_chart_is_one_svg_element_and_the_same_every_time(draw):
    text = draw()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  our own text
    assert draw() == text


def test_a_name_that_a_template_misses_is_an_error():
    import jinja2

    with pytest.raises(jinja2.UndefinedError):
        render("ingest.html.j2", title="Ingest")

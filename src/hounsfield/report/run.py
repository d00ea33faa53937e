"""The report of a run: one HTML file that needs nothing else, from the data to the canary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hounsfield.report import charts
from hounsfield.report.page import read_json, render
from hounsfield.report.step import data_section, evaluation_section, explanation_section
from hounsfield.report.tuning import tuning_section


def write_report(record: dict[str, Any], target: Path) -> Path:
    """Write the report of the run that `record` tells of, atomically.

    `record` holds `artifacts` (the paths of the training pipeline's outputs), `registration`, `gate`,
    `rollout` (None when the run ended before it), `endpoints`, `started_at`, `finished_at` and `git_commit`.
    """
    artifacts = {name: Path(path) for name, path in record["artifacts"].items()}
    training = read_json(artifacts["model"] / "training.json")
    rollout = record["rollout"]
    html = render(
        "run.html.j2",
        title="Hounsfield: report of a run",
        record=record,
        data=data_section(artifacts["dataset"]),
        tuning=tuning_section(artifacts["tuning"]),
        training=training,
        learning=charts.learning(training["history"]),
        evaluation=evaluation_section(artifacts["evaluation"]),
        explanation=explanation_section(artifacts["explanation"]),
        drift=read_json(artifacts["detectors"] / "drift.json"),
        timeline=charts.canary(rollout.get("timeline", ())) if rollout else None,
    )
    scratch = target.with_suffix(".tmp")
    scratch.write_text(html, encoding="utf-8")
    return scratch.replace(target)

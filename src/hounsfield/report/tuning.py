"""What a search for parameters shows: every trial, the best one, a picture of parallel coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hounsfield.report import charts
from hounsfield.report.page import read_json, render


def tuning_section(file: Path) -> dict[str, Any] | None:
    """The record that the step tune left in `file`, with its picture (None without a trial); None untuned."""
    record = read_json(file)
    if not record:
        return None
    judged = [trial for trial in record["trials"] if trial["objective"] is not None]
    return {
        **record,
        "names": [parameter["name"] for parameter in record["parameters"]],
        "picture": _picture(record, judged) if judged else None,
    }


def tuning_page(file: Path) -> str:
    return render("tuning.html.j2", title="Tuning", tuning=tuning_section(file))


def _picture(record: dict[str, Any], judged: list[dict[str, Any]]) -> str:
    axes, labels = [], {}
    for parameter in record["parameters"]:
        name = parameter["name"]
        values = [trial["parameters"][name] for trial in judged]
        if parameter["kind"] == "categorical":
            labels[name] = sorted(set(map(str, values)))
            values = [labels[name].index(str(value)) for value in values]
        axes.append((name, values, parameter["log"]))
    objective = [trial["objective"] for trial in judged]
    best = next(n for n, trial in enumerate(judged) if trial["number"] == record["best"]["number"])
    return charts.parallel_coordinates(
        [*axes, (record["objective"], objective, False)], labels, objective, best
    )

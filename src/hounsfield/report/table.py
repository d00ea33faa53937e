"""The table that a run ends with on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from hounsfield.report.page import interval, number, read_json


def summary(record: dict[str, Any]) -> Table:
    """What happened, a row a thing; `record` as in `hounsfield.report.run`."""
    artifacts = {name: Path(path) for name, path in record["artifacts"].items()}
    counts = read_json(artifacts["dataset"] / "dataset.json")["counts"]
    metrics = read_json(artifacts["evaluation"] / "metrics.json")
    auroc, gate, rollout = metrics["auroc"], record["gate"], record["rollout"]
    table = Table(title="What happened", show_header=False, title_justify="left", pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("data", f"{counts['accepted']} images accepted, {counts['quarantined']} files quarantined")
    table.add_row(
        "AUROC",
        f"{interval(auroc)}, baseline {number(metrics['baseline']['auroc']['value'])}",
    )
    table.add_row(
        "gate",
        "not run"
        if gate is None
        else ("pass" if gate["passed"] else "fail") + f": {'; '.join(gate['reasons'])}",
    )
    if rollout is None:
        table.add_row("canary", record["no_rollout"])
    else:
        for step in rollout["steps"]:
            table.add_row(
                "shadow"
                if step.get("shadow")
                else "first callers"
                if step.get("first")
                else f"canary {step['weight']} %",
                f"{step['decision']} after {step['requests']} requests: {'; '.join(step['reasons'])} "
                f"[dim](commit {step['commit'][:10]})[/]",
            )
        table.add_row("outcome", f"{rollout['outcome'].replace('_', ' ')}: {rollout['reason']}")
    if rollout is not None and record["no_rollout"] is not None:
        table.add_row("this run", record["no_rollout"])
    for name, value in record["endpoints"].items():
        table.add_row(name, value)
    table.add_row("stop it", "make down")
    return table

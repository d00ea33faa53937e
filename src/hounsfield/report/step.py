"""What each pipeline step shows in the dashboard: a small page of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from hounsfield.report import charts
from hounsfield.report.page import image_uri, read_json, render


def data_section(dataset_dir: Path) -> dict[str, Any]:
    """Counts of the data set at `dataset_dir`, by split and by reason of quarantine."""
    index = pd.read_parquet(dataset_dir / "index.parquet")
    quarantine = pd.read_parquet(dataset_dir / "quarantine.parquet")
    splits = [
        {
            "split": split,
            "images": len(rows),
            "patients": int(rows["patient_id"].nunique()),
            "positive": int(rows["label"].sum()),
        }
        for split, rows in index.groupby("split", sort=False)
    ]
    order = {"train": 0, "validation": 1, "test": 2}
    reasons = quarantine["reason"].value_counts().sort_index()
    return {
        "dataset": read_json(dataset_dir / "dataset.json"),
        "accepted": len(index),
        "quarantined": len(quarantine),
        "splits": sorted(splits, key=lambda row: order.get(row["split"], 9)),
        "reasons": [{"reason": str(reason), "files": int(files)} for reason, files in reasons.items()],
        "manufacturers": index["manufacturer"].value_counts().sort_index().to_dict(),
    }


def evaluation_section(evaluation_dir: Path) -> dict[str, Any]:
    """Metrics of `evaluation_dir` with their charts."""
    metrics = read_json(evaluation_dir / "metrics.json")
    specificity, sensitivity = metrics["specificity"]["value"], metrics["sensitivity"]["value"]
    point = None if None in (specificity, sensitivity) else (1 - specificity, sensitivity)
    curve, counts = metrics["roc"], metrics["counts"]
    return {
        "metrics": metrics,
        "roc": charts.roc(curve["fpr"], curve["tpr"], f"AUROC {metrics['auroc']['value']:.3f}", point),
        "pr": charts.precision_recall(
            metrics["pr"]["recall"],
            metrics["pr"]["precision"],
            f"AUPRC {metrics['auprc']['value']:.3f}",
            counts["test_positive"] / counts["test"],
        ),
        "reliability": charts.reliability(metrics["reliability"], metrics["reliability_uncalibrated"]),
        "decision": charts.decision(metrics["decision_curve"], metrics["operating_point"]["threshold"]),
        "forest": charts.forest(
            metrics["subgroups"], metrics["auroc"], "AUROC, the band is that of all images"
        ),
    }


def explanation_section(explanation_dir: Path) -> dict[str, Any]:
    """explain.json with its pictures, each case's and the global one, as `image`."""
    explained = read_json(explanation_dir / "explain.json")

    def pictured(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "image": image_uri(explanation_dir / row["file"])}

    return {
        **explained,
        "cases": [pictured(case) for case in explained["cases"]],
        "global": pictured(explained["global"]),
    }


def ingest_page(dataset_dir: Path) -> str:
    return render("ingest.html.j2", title="Ingest", data=data_section(dataset_dir))


def evaluation_page(evaluation_dir: Path) -> str:
    return render("evaluation.html.j2", title="Evaluation", evaluation=evaluation_section(evaluation_dir))


def explanation_page(explanation_dir: Path) -> str:
    return render(
        "explanation.html.j2", title="Explanation", explanation=explanation_section(explanation_dir)
    )

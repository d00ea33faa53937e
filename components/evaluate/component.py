"""Step evaluate: what the model is worth on patients it has never seen."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def evaluate(
    seed: int,
    tensors: Input[Dataset],
    model: Input[Model],
    baseline: Input[Model],
    evaluation: Output[Artifact],
    baseline_evaluation: Output[Artifact],
    metrics: Output[Metrics],
    roc: Output[ClassificationMetrics],
    page: Output[HTML],
):
    """Evaluate model and baseline on the test split; validation has set threshold and temperature."""
    import json
    from pathlib import Path

    from hounsfield.config import CLASS_NAMES
    from hounsfield.evaluation.evaluate import evaluate as run
    from hounsfield.report.step import evaluation_page

    run(Path(baseline.path), None, Path(tensors.path), Path(baseline_evaluation.path), seed=seed)
    result = run(Path(model.path), Path(baseline.path), Path(tensors.path), Path(evaluation.path), seed=seed)
    for name in ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "ece", "brier"):
        if result[name]["value"] is not None:
            metrics.log_metric(name, result[name]["value"])
    metrics.log_metric("temperature", result["temperature"])
    metrics.log_metric("auroc_above_baseline", result["baseline"]["difference"]["value"])
    curve = result["roc"]
    roc.log_roc_curve(curve["fpr"], curve["tpr"], curve["threshold"])
    roc.log_confusion_matrix(list(CLASS_NAMES), result["confusion_matrix"])
    # KFP keeps metrics in metadata alone, and kfp.local takes an artifact without a file for a cache miss.
    for artifact in (metrics, roc):
        Path(artifact.path).write_text(json.dumps(artifact.metadata), encoding="utf-8")
    Path(page.path).write_text(evaluation_page(Path(evaluation.path)), encoding="utf-8")

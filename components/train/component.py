"""Step train: Lightning and MONAI under torchrun, and the baseline that the model has to beat."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train(
    parameters: dict,
    seed: int,
    processes: int,
    checkpoints: str,
    tracking_uri: str,
    tensors: Input[Dataset],
    model: Output[Model],
    baseline: Output[Model],
    metrics: Output[Metrics],
):
    """Train on `processes` processes, resuming from `checkpoints`, and fit the pixel-statistics baseline."""
    import json
    from pathlib import Path

    from hounsfield.training.baseline import fit_baseline
    from hounsfield.training.launcher import launch

    fit_baseline(Path(tensors.path), Path(baseline.path))
    launch(
        Path(tensors.path),
        Path(model.path),
        {**parameters, "seed": seed},
        processes=processes,
        checkpoints=Path(checkpoints),
        tracking_uri=tracking_uri,
    )
    training = json.loads((Path(model.path) / "training.json").read_text())
    model.metadata["mlflow_run_id"] = training["mlflow_run_id"]
    metrics.log_metric("best_epoch", training["best_epoch"])
    metrics.log_metric("validation_auroc", max(row["validation_auroc"] for row in training["history"]))
    # KFP keeps metrics in metadata alone, and kfp.local takes an artifact without a file for a cache miss.
    Path(metrics.path).write_text(json.dumps(metrics.metadata), encoding="utf-8")

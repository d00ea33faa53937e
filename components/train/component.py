"""Step train: Lightning Fabric and MONAI under torchrun, and the baseline that the model has to beat."""

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
    source: str,
    labels: str,
    frames: str,
    deidentification: str,
    launcher: str,
    cluster: dict,
    image: str,
    tensors: Input[Dataset],
    model: Output[Model],
    baseline: Output[Model],
    metrics: Output[Metrics],
):
    """Train on `processes` processes, resuming from `checkpoints`, and fit the pixel-statistics baseline.

    `parameters` are those of TrainingParams, and `preset`. `source`, `labels`, `frames` and
    `deidentification` are where the data came from and how it was read: they go into the MLflow record, from
    which `hounsfield reproduce` does the run again.
    `launcher` is torchrun (here), pytorchjob or trainjob (a job of the cluster, that runs `image` as the
    fields of `hounsfield.cluster.settings.JobSettings` in `cluster` say).
    """
    import json
    from pathlib import Path

    from hounsfield.training.baseline import fit_baseline

    fit_baseline(Path(tensors.path), Path(baseline.path))
    wanted = {**parameters, "seed": seed}
    origin = {"source": source, "labels": labels, "frames": frames, "deidentification": deidentification}
    data, out = Path(tensors.path), Path(model.path)
    if launcher == "torchrun":
        from hounsfield.training.launcher import launch

        launch(data, out, wanted, processes, Path(checkpoints), tracking_uri, origin)
    else:
        from hounsfield.cluster.steps import train_on_cluster

        train_on_cluster(
            launcher, cluster, image, data, tensors.uri, out, wanted, checkpoints, tracking_uri, origin
        )
    training = json.loads((Path(model.path) / "training.json").read_text())
    model.metadata["mlflow_run_id"] = training["mlflow_run_id"]
    metrics.log_metric("best_epoch", training["best_epoch"])
    metrics.log_metric("validation_auroc", max(row["validation_auroc"] for row in training["history"]))
    # KFP keeps metrics in metadata alone, and kfp.local takes an artifact without a file for a cache miss.
    Path(metrics.path).write_text(json.dumps(metrics.metadata), encoding="utf-8")

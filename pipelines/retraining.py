"""The retraining pipeline, for a recurring run: where there is drift, the steps of training.py."""

from kfp import dsl

from components.check_drift.component import check_drift
from pipelines.training import training


@dsl.pipeline(
    name="hounsfield-retraining",
    description="check-drift -> where there is drift, the training pipeline: a new candidate",
)
def retraining(
    source: str,
    labels: str,
    git_commit: str,
    models_uri: str,
    tracking_uri: str,
    checkpoints: str,
    prometheus_url: str,
    always: bool = False,
    model_name: str = "opacity",
    parameters: dict = {},  # noqa: B006  KFP reads the default from the signature and never shares it
    tune_trials: int = 0,
    launcher: str = "torchrun",
    cluster: dict = {},  # noqa: B006
    ingest_store: str = "",
):
    """Train a new candidate if the data that are served now have drifted.

    Args:
        source: see the training pipeline, as for all that is not named here.
        labels: see there.
        git_commit: see there.
        models_uri: see there.
        tracking_uri: see there.
        checkpoints: see there.
        prometheus_url: Prometheus that scrapes the drift worker, for example http://prometheus:9090.
        always: train without a look at the drift.
        model_name: the registered model, and the name under which it is served and watched.
        parameters: see there.
        tune_trials: see there.
        launcher: see there.
        cluster: see there.
        ingest_store: see there.
    """
    checked = check_drift(prometheus_url=prometheus_url, model_name=model_name, always=always)
    checked.set_caching_options(False)  # asked anew each time
    with dsl.If(checked.outputs["retrain"] == True, name="drifted"):  # noqa: E712  KFP's condition, not Python's
        training(
            source=source,
            labels=labels,
            source_fingerprint=checked.outputs["moment"],
            git_commit=git_commit,
            models_uri=models_uri,
            tracking_uri=tracking_uri,
            checkpoints=checkpoints,
            model_name=model_name,
            parameters=parameters,
            tune_trials=tune_trials,
            launcher=launcher,
            cluster=cluster,
            ingest_store=ingest_store,
        )

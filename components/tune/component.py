"""Step tune: the Katib Experiment, submitted on a cluster and run by Optuna on the laptop."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def tune(
    experiment: str,
    trials: int,
    parameters: dict,
    processes: int,
    launcher: str,
    cluster: dict,
    image: str,
    tensors: Input[Dataset],
    record: Output[Artifact],
    page: Output[HTML],
) -> dict:
    """Return `parameters` with the best ones found in them; with 0 trials, `parameters` as they are.

    With `launcher` torchrun the trials run here, else Katib runs them in the cluster as `cluster` says.
    """
    from pathlib import Path

    if trials == 0:
        said = "Tuning is off (tune_trials is 0): the given parameters are used."
        print(said)
        Path(record.path).write_text("{}", encoding="utf-8")
        Path(page.path).write_text(f"<!doctype html><title>Tuning</title><p>{said}</p>", encoding="utf-8")
        return parameters

    import tempfile

    from hounsfield.report.tuning import tuning_page

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        data = Path(tensors.path)
        if launcher == "torchrun":
            from hounsfield.training.tuning import tune as run

            best = run(Path(experiment), data, out, trials, processes, fixed=parameters)
        else:
            from hounsfield.cluster.steps import tune_on_cluster

            best = tune_on_cluster(
                cluster, image, Path(experiment), data, tensors.uri, out, trials, fixed=parameters
            )
        Path(record.path).write_bytes((out / "tuning.json").read_bytes())
    Path(page.path).write_text(tuning_page(Path(record.path)), encoding="utf-8")
    return {**parameters, **best}

"""Step register: the package into the store and the MLflow registry, alias `candidate`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def register(
    model_name: str,
    models_uri: str,
    tracking_uri: str,
    git_commit: str,
    pipeline_run: str,
    dataset: Input[Dataset],
    candidate_package: Input[Model],
    baseline_package: Input[Model],
    registration: Output[Artifact],
):
    """Publish and register; where no champion exists yet, the baseline becomes the first one."""
    import json
    from pathlib import Path

    from hounsfield.registry.register import register_candidate

    result = register_candidate(
        tracking_uri,
        model_name,
        models_uri,
        candidate=Path(candidate_package.path) / candidate_package.metadata["digest"],
        baseline=Path(baseline_package.path) / baseline_package.metadata["digest"],
        tags={
            "data_fingerprint": dataset.metadata["fingerprint"],
            "git_commit": git_commit,
            "pipeline_run": pipeline_run,
        },
    )
    Path(registration.path).write_text(json.dumps(result, indent=2, sort_keys=True), encoding="utf-8")
    registration.metadata.update(result["candidate"])

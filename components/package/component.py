"""Step package: the exported network and everything the server needs with it, under one digest."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def package(
    git_commit: str,
    dataset: Input[Dataset],
    tensors: Input[Dataset],
    model: Input[Model],
    network: Input[Model],
    evaluation: Input[Artifact],
    baseline: Input[Model],
    baseline_network: Input[Model],
    baseline_evaluation: Input[Artifact],
    detectors: Input[Artifact],
    candidate_package: Output[Model],
    baseline_package: Output[Model],
):
    """Write the candidate's package and the baseline's, each a signed folder named by its digest.

    The private key comes from the file that HOUNSFIELD_SIGNING_KEY_FILE names.
    """
    import os
    from pathlib import Path

    from hounsfield.package.sign import signing_key
    from hounsfield.package.write import write_package

    common = {
        "dataset_dir": Path(dataset.path),
        "tensors_dir": Path(tensors.path),
        "signing_key": signing_key(os.environ.get("HOUNSFIELD_SIGNING_KEY_FILE")),
    }
    lineage = {"git_commit": git_commit, "data_fingerprint": dataset.metadata["fingerprint"]}
    candidate = write_package(
        Path(candidate_package.path),
        model_dir=Path(model.path),
        network_dir=Path(network.path),
        evaluation_dir=Path(evaluation.path),
        drift_dir=Path(detectors.path),
        lineage={**lineage, "mlflow_run_id": model.metadata["mlflow_run_id"]},
        **common,
    )
    first = write_package(
        Path(baseline_package.path),
        model_dir=Path(baseline.path),
        network_dir=Path(baseline_network.path),
        evaluation_dir=Path(baseline_evaluation.path),
        drift_dir=None,
        lineage=lineage,
        **common,
    )
    candidate_package.metadata["digest"] = candidate.digest
    baseline_package.metadata["digest"] = first.digest

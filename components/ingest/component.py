"""Step ingest: what the shards of the source hold, and the labels, to an index and a quarantine."""

from typing import List  # noqa: UP035  KFP runs the function in a module that has this name and no other

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def ingest(
    labels: str,
    seed: int,
    reference_profile: str,
    shards: Input[List[Dataset]],  # noqa: UP006
    dataset: Output[Dataset],
    validation_set: Output[Dataset],
    metrics: Output[Metrics],
    summary: Output[HTML],
):
    """Join `shards` and labels to a data set, split by patient, freeze the validation set.

    The de-identification key is the one that `read` had.
    """
    import json
    import os
    from pathlib import Path

    from hounsfield.data.collect import collect
    from hounsfield.data.examine import Rules
    from hounsfield.data.profile import header_groups
    from hounsfield.dicom.deidentify import key_from
    from hounsfield.report.step import ingest_page
    from hounsfield.rollout.validation_set import freeze

    rules = Rules(key_from(os.environ))
    folders = [Path(shard.path) for shard in shards]
    reference = Path(reference_profile) if reference_profile else None
    result = collect(folders, Path(labels), Path(dataset.path), rules, seed=seed, reference=reference)
    # The test split: neither the weights nor the operating point have seen it.
    frozen = freeze(
        Path(dataset.path), Path(validation_set.path), header_groups(Path(dataset.path)), split="test"
    )
    dataset.metadata["fingerprint"] = result.fingerprint
    metrics.log_metric("accepted", result.accepted)
    metrics.log_metric("quarantined", result.quarantined)
    metrics.log_metric("positive", result.positives)
    metrics.log_metric("validation_set", frozen)
    # KFP keeps metrics in metadata alone, and kfp.local takes an artifact without a file for a cache miss.
    Path(metrics.path).write_text(json.dumps(metrics.metadata), encoding="utf-8")
    Path(summary.path).write_text(ingest_page(Path(dataset.path)), encoding="utf-8")

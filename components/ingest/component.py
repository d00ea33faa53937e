"""Step ingest: DICOM and labels in, a de-identified index and a quarantine out."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Metrics, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def ingest(
    source: str,
    labels: str,
    source_fingerprint: str,
    seed: int,
    workers: int,
    dataset: Output[Dataset],
    validation_set: Output[Dataset],
    metrics: Output[Metrics],
    summary: Output[HTML],
):
    """Accept or quarantine every file of `source`, de-identify, split by patient, freeze the validation set.

    `source_fingerprint` is not read: it is here so that changed files are a cache miss. The de-identification
    key comes from the file that HOUNSFIELD_DEID_KEY_FILE names.
    """
    import json
    import os
    from pathlib import Path

    from hounsfield.data.ingest import ingest as run
    from hounsfield.dicom.deidentify import load_key
    from hounsfield.report.step import ingest_page
    from hounsfield.rollout.validation_set import freeze

    named = os.environ.get("HOUNSFIELD_DEID_KEY_FILE")
    key = load_key(Path(named) if named else None)
    result = run(Path(source), Path(labels), Path(dataset.path), key, seed=seed, workers=workers)
    # The test split: neither the weights nor the operating point have seen it.
    frozen = freeze(Path(dataset.path), Path(validation_set.path), split="test")
    dataset.metadata["fingerprint"] = result.fingerprint
    metrics.log_metric("accepted", result.accepted)
    metrics.log_metric("quarantined", result.quarantined)
    metrics.log_metric("positive", result.positives)
    metrics.log_metric("validation_set", frozen)
    # KFP keeps metrics in metadata alone, and kfp.local takes an artifact without a file for a cache miss.
    Path(metrics.path).write_text(json.dumps(metrics.metadata), encoding="utf-8")
    Path(summary.path).write_text(ingest_page(Path(dataset.path)), encoding="utf-8")

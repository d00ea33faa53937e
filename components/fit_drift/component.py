"""Step fit-drift: alibi-detect detectors on embeddings, DICOM fields and scores (guard environment)."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output

from components.images import GUARD


@dsl.component(base_image=GUARD, install_kfp_package=False)
def fit_drift(
    p_value: float,
    seed: int,
    evaluation: Input[Artifact],
    network: Input[Model],
    detectors: Output[Artifact],
    metrics: Output[Metrics],
):
    """Fit on what the served engine answers on the validation split, which the model was not trained on."""
    import json
    import os
    import sys
    from pathlib import Path

    from hounsfield.drift.command import fit

    guard_python = os.environ.get("HOUNSFIELD_GUARD_PYTHON", sys.executable)
    reference = Path(network.path) / "reference.npy"
    table = Path(network.path) / "reference.csv"
    judged = json.loads((Path(evaluation.path) / "metrics.json").read_text(encoding="utf-8"))
    result = fit(
        reference,
        table,
        Path(detectors.path),
        guard_python,
        p_value=p_value,
        seed=seed,
        operating_point=judged["operating_point"]["threshold"],
    )
    metrics.log_metric("p_value", p_value)
    metrics.log_metric("reference", result["n_reference"])
    metrics.log_metric("false_alarm_rate", result["false_alarms"]["rate"])
    # KFP keeps metrics in metadata alone, and kfp.local takes an artifact without a file for a cache miss.
    Path(metrics.path).write_text(json.dumps(metrics.metadata), encoding="utf-8")

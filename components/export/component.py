"""Step export: the networks as they will be served, ONNX and engine."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def export(
    tensors: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    baseline: Input[Model],
    baseline_evaluation: Input[Artifact],
    network: Output[Model],
    baseline_network: Output[Model],
):
    """Export the candidate and the baseline, choose their engines, and answer the validation split."""
    import json
    from pathlib import Path

    from hounsfield.package.network import write_network

    for trained, judged, out in (
        (model, evaluation, network),
        (baseline, baseline_evaluation, baseline_network),
    ):
        metrics = json.loads((Path(judged.path) / "metrics.json").read_text(encoding="utf-8"))
        served = write_network(
            Path(out.path),
            model_dir=Path(trained.path),
            tensors_dir=Path(tensors.path),
            temperature=metrics["temperature"],
        )
        out.metadata["engine"] = served.engine.title

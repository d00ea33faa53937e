"""Step explain: SHAP on the packaged model."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def explain(
    cases: int,
    seed: int,
    tensors: Input[Dataset],
    evaluation: Input[Artifact],
    candidate_package: Input[Model],
    explanation: Output[Artifact],
    page: Output[HTML],
):
    """Attribute the packaged engine's logit to regions: for a few cases of each kind, and at large."""
    from pathlib import Path

    from hounsfield.package.explained import explain_package
    from hounsfield.report.step import explanation_page

    explain_package(
        Path(candidate_package.path) / candidate_package.metadata["digest"],
        Path(evaluation.path),
        Path(tensors.path),
        Path(explanation.path),
        cases=cases,
        seed=seed,
    )
    Path(page.path).write_text(explanation_page(Path(explanation.path)), encoding="utf-8")

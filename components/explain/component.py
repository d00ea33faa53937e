"""Step explain: SHAP overlays of true and false calls."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def explain(
    cases: int,
    seed: int,
    tensors: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    explanation: Output[Artifact],
    page: Output[HTML],
):
    """Attribute the logit to pixels for a few cases of each kind."""
    from pathlib import Path

    from hounsfield.explain.shap_overlays import explain as run
    from hounsfield.report.step import explanation_page

    run(
        Path(model.path),
        Path(evaluation.path),
        Path(tensors.path),
        Path(explanation.path),
        cases=cases,
        seed=seed,
    )
    Path(page.path).write_text(explanation_page(Path(explanation.path)), encoding="utf-8")

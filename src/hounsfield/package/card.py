"""The model card: what a person must know before the model is used, from the measured numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hounsfield.errors import PackageError
from hounsfield.package.statements import Statements

TEMPLATE = Path(__file__).with_name("model_card.md.j2")

MEASURES = (
    ("auroc", "AUROC"), ("auprc", "AUPRC"), ("sensitivity", "Sensitivity"), ("specificity", "Specificity"),
    ("ppv", "Positive predictive value"), ("npv", "Negative predictive value"),
    ("net_benefit", "Net benefit"), ("ece", "Calibration error (ECE)"), ("brier", "Brier score"),
)  # fmt: skip
MANDATORY = {
    "model": ("name", "architecture", "class_names", "lineage.intended_use", "lineage.git_commit",
              "lineage.data_fingerprint"),
    "dataset": ("counts.accepted", "counts.patients", "counts.positives", "labelled_by"),
    "contract": ("size_px", "version"),
    "metrics": (
        *(name for name, _ in MEASURES), "ece_uncalibrated", "brier_uncalibrated",
        "counts.train", "counts.validation", "counts.test", "counts.test_positive",
        "operating_point.rule", "confidence", "bootstrap.unit", "bootstrap.resamples", "subgroups",
    ),
    "onnx": ("images", "largest_difference", "tolerance"),
}  # fmt: skip
"""What each mapping must say. A metric without a value (`{"value": None}`) says that it has none."""


def render_card(
    *,
    model: Mapping[str, Any],
    metrics: Mapping[str, Any],
    dataset: Mapping[str, Any],
    profile: Mapping[str, Any],
    contract: Mapping[str, Any],
    onnx: Mapping[str, Any],
    explanation: Mapping[str, Any] | None,
    drift: Mapping[str, Any] | None,
    engine: Mapping[str, Any] | None,
    said: Statements,
) -> str:
    """MODEL_CARD.md as text. Each mapping is the JSON file of that step.

    Raises PackageError that names the field when one of MANDATORY is missing or empty.
    """
    import jinja2

    given = {"model": model, "dataset": dataset, "contract": contract, "metrics": metrics, "onnx": onnx}
    for name, fields in MANDATORY.items():
        for field in fields:
            _require(given[name], name, field)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Markdown, and every value is a number or a word, kept to its cell below.
        autoescape=False,  # noqa: S701
        finalize=_one_cell,
    )
    environment.filters["interval"] = _interval
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        **given,
        profile=profile,
        explanation=explanation,
        drift=drift,
        engine=engine,
        said=said,
        measures=MEASURES,
    )


def card_page(markdown: str) -> str:
    """MODEL_CARD.html: the same text as a page that needs no other file. HTML in it is shown, not run."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    title = markdown.partition("\n")[0].lstrip("# ")
    return _PAGE.replace("{title}", title).replace("{body}", body)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; color: #1d2733;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 26px } h2 { font-size: 18px; margin: 30px 0 10px; border-bottom: 1px solid #e3e8ee }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto; margin: 12px 0 }
th, td { text-align: left; vertical-align: top; padding: 4px 14px 4px 0; border-bottom: 1px solid #e3e8ee }
th { color: #667487; font-weight: 550 }
blockquote { margin: 0 0 18px; padding: 10px 14px; border-left: 4px solid #b7651b; background: #fdf6ec }
blockquote p { margin: 0 }
</style>
</head>
<body>
{body}</body>
</html>
"""


def _require(values: Mapping[str, Any], name: str, field: str) -> None:
    value: Any = values
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None or (isinstance(value, (str, tuple, list, dict)) and not value):
        raise PackageError(
            f"model card: {name}.{field} is missing or empty, and a card without it is not written; "
            "run the step that measures it again"
        )


def _one_cell(value: Any) -> Any:
    """A manufacturer's name from a DICOM header may hold what would end a table's cell."""
    return value.replace("|", "\\|").replace("\n", " ") if isinstance(value, str) else value


def _interval(value: Any, digits: int = 3) -> str:
    """0.912 (0.880 to 0.940) for {"value", "low", "high"}; the bare number when it has no interval."""
    if value is None:
        return "not estimable"
    if not isinstance(value, Mapping):
        return f"{value:.{digits}f}"
    if value.get("value") is None:
        return "not estimable"
    text = f"{value['value']:.{digits}f}"
    if value.get("low") is None or value.get("high") is None:
        return text
    return f"{text} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"

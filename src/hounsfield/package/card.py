"""The model card: what a person must know before the model is used, from the measured numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def render_card(
    *,
    model: Mapping[str, Any],
    metrics: Mapping[str, Any],
    dataset: Mapping[str, Any],
    contract: Mapping[str, Any],
    explanation: Mapping[str, Any] | None,
    drift: Mapping[str, Any] | None,
    engine: Mapping[str, Any] | None,
) -> str:
    """MODEL_CARD.md as text. Each mapping is the JSON file of that step."""
    import jinja2

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
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(
        model=model,
        metrics=metrics,
        dataset=dataset,
        contract=contract,
        explanation=explanation,
        drift=drift,
        engine=engine,
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

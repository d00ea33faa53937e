"""One look for every page: the templates of this folder, filled by jinja2; each page needs no other file."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment():
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html", "j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["interval"] = interval
    environment.filters["percent"] = percent
    environment.filters["short"] = short
    return environment


def render(template: str, **values: Any) -> str:
    """The page `template` filled with `values`; a name that the template misses is an error."""
    return _environment().get_template(template).render(**values)


def number(value: float | None, digits: int = 3) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def short(value: float | str) -> str:
    """A parameter in a table: three significant digits, or the word that it is."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else value


def percent(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f} %"


def interval(estimate: dict[str, float | None] | None, digits: int = 3) -> str:
    """`0.912 (0.874 to 0.944)`: an estimate with its confidence interval."""
    if estimate is None or estimate["value"] is None:
        return "not defined"
    if estimate.get("low") is None or estimate.get("high") is None:
        return number(estimate["value"], digits)
    return f"{estimate['value']:.{digits}f} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"


def image_uri(path: Path) -> str:
    """A PNG as a data URI, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

"""Ask Prometheus what the drift worker has found: for who acts on it, as the retraining pipeline."""

from __future__ import annotations

import re
from dataclasses import dataclass

import requests

from hounsfield.errors import ConfigError, PlatformError

_NAME = re.compile(r"^[\w.-]+$")


@dataclass(frozen=True)
class Drift:
    """Windows tested since the worker started, and the detectors that found drift in the last one."""

    windows: int
    detectors: tuple[str, ...]


def ask_drift(url: str, model_name: str, timeout_s: float = 10.0) -> Drift:
    """What the Prometheus server at `url` knows of the drift of `model_name`, all versions together.

    Raises PlatformError when it does not answer, or knows of no tested window: no news are not good news.
    """
    if not _NAME.match(model_name):
        raise ConfigError(f"model_name {model_name!r} is not a name of letters, digits, '_', '-' and '.'")
    labels = f'{{model_name="{model_name}"}}'
    windows = sum(value for _, value in _query(url, f"hounsfield_drift_windows_total{labels}", timeout_s))
    if not windows:
        raise PlatformError(
            f"Prometheus at {url} knows of no window of model {model_name!r} that was tested for drift: "
            "look whether the drift worker runs and is scraped"
        )
    found = _query(url, f"hounsfield_drift_detected{labels} == 1", timeout_s)
    return Drift(int(windows), tuple(sorted({metric.get("detector", "") for metric, _ in found})))


def _query(url: str, query: str, timeout_s: float) -> list[tuple[dict[str, str], float]]:
    try:
        answer = requests.get(f"{url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=timeout_s)
        answer.raise_for_status()
        return [(row["metric"], float(row["value"][1])) for row in answer.json()["data"]["result"]]
    except (requests.RequestException, ValueError, KeyError, TypeError, IndexError) as error:
        raise PlatformError(
            f"Prometheus at {url} does not answer a query ({type(error).__name__}): is the address right?"
        ) from None

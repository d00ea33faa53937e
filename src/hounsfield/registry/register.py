"""Publish a candidate and register it; give a registry without a champion its first one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hounsfield.package.package import Package, load_package
from hounsfield.package.store import attribution_stability, publish
from hounsfield.registry.registry import CANDIDATE, CHAMPION, Registry


def register_candidate(
    tracking_uri: str,
    model_name: str,
    models_uri: str,
    *,
    candidate: Path,
    baseline: Path,
    tags: Mapping[str, object],
) -> dict[str, Any]:
    """Register the package `candidate` with the alias `candidate`; return it and the champion.

    Where no champion exists, the package `baseline` is registered first and becomes it: the first canary
    then has something to beat. Each is {"version": int, "digest": str, "source": URI}; beside them stands
    `attribution_stability`, how far the two agree on what matters in the same pictures (None: not known),
    whose `value` is a tag of the candidate too.
    """
    registry = Registry(tracking_uri, model_name)
    if registry.by_alias(CHAMPION) is None:
        first = load_package(baseline)
        registry.set_alias(CHAMPION, _register(registry, first, models_uri, {**tags, "role": "baseline"}))
    package = load_package(candidate)
    champion = registry.by_alias(CHAMPION)
    agreed = attribution_stability(package, champion.source)
    tags = {
        **tags,
        "role": "model",
        "attribution_stability": "unknown" if agreed is None else agreed["value"],
    }
    version = _register(registry, package, models_uri, tags)
    registry.set_alias(CANDIDATE, version)
    return {
        "candidate": _plain(registry.get(version)),
        "champion": _plain(champion),
        "attribution_stability": agreed,
    }


def _register(registry: Registry, package: Package, models_uri: str, tags: Mapping[str, object]) -> int:
    source = publish(package, models_uri)
    return registry.register(package, source, package.model.lineage.get("mlflow_run_id"), tags)


def _plain(found: Any) -> dict[str, Any]:
    return {"version": found.version, "digest": found.digest, "source": found.source}

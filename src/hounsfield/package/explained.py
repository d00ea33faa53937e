"""What the packaged engine is asked before it may be shipped: why it answers as it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.errors import PackageError
from hounsfield.explain.background import load_background
from hounsfield.explain.checks import completeness, pointing_game
from hounsfield.explain.packaged import METHOD, without_haste
from hounsfield.explain.phantoms import phantoms
from hounsfield.explain.shap_overlays import explain
from hounsfield.imaging.contract import ImageContract
from hounsfield.package.engine import Engine, calibrate
from hounsfield.package.package import ModelRecord, load_package

EVALUATIONS = 192
THREADS = 2


def explain_engine(
    run: Callable[[np.ndarray], np.ndarray],
    background: np.ndarray,
    contract: ImageContract,
    record: ModelRecord,
    sample: bool,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Attributions of the phantoms by `run`, float32 (N, G, G) in logits, and the record explanation.json.

    `sample` says that the model was trained on the sample set: then the pointing game is played on the
    phantoms that it calls positive. Raises PackageError when attributions do not sum to what they explain.
    """
    shown = phantoms(contract)
    found = list(
        without_haste(run, background, EVALUATIONS).attribute_all([each.image for each in shown], THREADS)
    )
    checked = completeness(found)
    if not checked["passed"]:
        raise PackageError(
            f"the attributions of a picture miss the change of its logit by {checked['worst']:.2g}, more "
            f"than {checked['bound']:g}: the engine does not give the same answer twice, and is not shipped"
        )
    regions = np.stack([each.regions for each in found])
    probability = calibrate(np.array([each.logit for each in found]), record.temperature)
    called = np.flatnonzero(probability >= record.threshold)
    pointed = None
    if sample:
        covered = [shown[place].covers(regions.shape[-1]) for place in called]
        pointed = pointing_game(regions[called], covered)
    return regions, {
        "method": METHOD,
        "evaluations": EVALUATIONS,
        "phantoms": len(shown),
        "completeness": checked,
        "pointing_game": pointed,
    }


def explain_package(
    package_dir: Path, evaluation_dir: Path, tensors_dir: Path, out: Path, cases: int = 6, seed: int = 7
) -> dict[str, Any]:
    """The explain step on the package in `package_dir`, by the engine that it chose; see `explain`.

    Raises PackageError for a package that is altered, or that has no background.
    """
    package = load_package(package_dir)
    background = load_background(package.path, package.contract.shape)
    engine = Engine.open(package, THREADS)
    return explain(
        lambda images: engine.run(images)[0],
        background,
        evaluation_dir,
        tensors_dir,
        out,
        cases=cases,
        seed=seed,
        threads=THREADS,
        known=package.explanation,
    )

"""Replay the frozen validation set through a served model over the Open Inference Protocol (v2, JSON)."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests

from hounsfield.config import CLASS_NAMES, MODEL_NAME
from hounsfield.errors import ServingError
from hounsfield.rollout import validation_set
from hounsfield.rollout.gate import Measurements


def replay(
    url: str,
    folder: Path,
    model_name: str = MODEL_NAME,
    timeout_s: float = 10.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measurements:
    """Send every case, one file a request, and measure the answers.

    `url` is the server's address without a path. Raises ServingError when the model is not ready there; a
    single request that fails is counted as an error, an element that the server refuses as a refusal.
    """
    cases = validation_set.read(folder)
    address = f"{url.rstrip('/')}/v2/models/{model_name}"
    truths, probabilities, called_positive, latencies_s, versions = [], [], [], [], set()
    errors = refusals = 0
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the hospital's network has no part in this
        _check_ready(session, address, timeout_s)
        for done, case in enumerate(cases, start=1):
            started_s = time.perf_counter()
            answer = _infer(session, address, case.path.read_bytes(), timeout_s)
            latencies_s.append(time.perf_counter() - started_s)
            on_progress(done, len(cases))
            if answer is None:
                errors += 1
                continue
            versions.add(str(answer.get("model_version") or ""))
            outputs = {output["name"]: output["data"][0] for output in answer["outputs"]}
            if outputs.get("refusal"):
                refusals += 1
                continue
            truths.append(case.label)
            probabilities.append(float(outputs["probability"]))
            called_positive.append(outputs["label"] == CLASS_NAMES[1])
    return Measurements(
        cases=len(cases),
        scored=len(truths),
        positives=sum(truths),
        errors=errors,
        refusals=refusals,
        auroc=area_under_roc(truths, probabilities),
        sensitivity=_share(called_positive, truths, 1, True),
        specificity=_share(called_positive, truths, 0, False),
        latency_p95_s=float(np.quantile(latencies_s, 0.95)),
        model_versions=tuple(sorted(versions)),
    )


def area_under_roc(truths: Sequence[int], scores: Sequence[float]) -> float | None:
    """The chance that a positive case scores above a negative one, ties counting half; None without both
    classes.

    The rank formula of Mann and Whitney (1947), so that the guard environment needs no scikit-learn for it.
    """
    truth, score = np.asarray(truths, dtype=bool), np.asarray(scores, dtype=np.float64)
    positives, negatives = score[truth], np.sort(score[~truth])
    if not len(positives) or not len(negatives):
        return None
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


def _check_ready(session: requests.Session, address: str, timeout_s: float) -> None:
    try:
        response = session.get(f"{address}/ready", timeout=timeout_s)
    except requests.RequestException:
        raise ServingError(f"no model answers at {address}; is its server running?") from None
    if response.status_code != 200:
        raise ServingError(f"the model at {address} is not ready (HTTP {response.status_code})")


def _infer(
    session: requests.Session, address: str, content: bytes, timeout_s: float
) -> dict[str, Any] | None:
    """The answer to one file, or None when it is an error or does not have the outputs of our predictor."""
    data = [base64.b64encode(content).decode("ascii")]
    body = {"inputs": [{"name": "dicom", "datatype": "BYTES", "shape": [1], "data": data}]}
    try:
        response = session.post(f"{address}/infer", json=body, timeout=timeout_s)
        if response.status_code != 200:
            return None
        answer = response.json()
        outputs = {output["name"]: output["data"][0] for output in answer["outputs"]}
        if outputs.get("refusal"):
            return answer
        return answer if math.isfinite(float(outputs["probability"])) and "label" in outputs else None
    except (requests.RequestException, ValueError, KeyError, TypeError, IndexError):
        return None


def _share(called_positive: list[bool], truths: list[int], truth: int, wanted: bool) -> float | None:
    calls = [call for call, label in zip(called_positive, truths, strict=True) if label == truth]
    return sum(call is wanted for call in calls) / len(calls) if calls else None

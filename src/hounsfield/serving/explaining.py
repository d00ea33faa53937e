"""An explanation's request and answer, KServe's v1 `:explain`, and what is computed between them.

    {"instances": [{"dicom": {"b64": "..."}}, {"image": [[0.1, ...], ...]}]}
    {"explanations": [{...}, {...}], "model_version": "3", "package_digest": "..."}

`dicom` is one whole file; `image` has S rows of S values in [0, 1], as the package's contract prepares it.
Each explanation has the row's `probability`, `label` and `refusal` as the predictor answers them; a refused
instance does not fail the others, and has null for the rest:
    attribution         float32 (G, G) little-endian in base64, logits a region, row by row
    overlay_png         the prepared image, and beside it the attribution over it, in base64
    logit, background_logit, completeness_error (logits), evaluations, method
"""

from __future__ import annotations

import base64
import binascii
import io
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pybase64
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from hounsfield.config import CLASS_NAMES
from hounsfield.explain.overlay import write_overlay
from hounsfield.explain.packaged import METHOD, Attribution, ExplanationTimeoutError, PackagedExplainer
from hounsfield.package.engine import calibrate
from hounsfield.package.package import Package
from hounsfield.serving.decoding import Decoded
from hounsfield.serving.wire import Overloaded, RequestError

MAX_INSTANCES = 4
_LATENCY_BUCKETS_S = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)

Instance = bytes | np.ndarray
"""A DICOM file, or a prepared image float32 (1, size, size)."""


def read_instances(body: bytes, size_px: int) -> list[Instance]:
    """The instances of a request. Raises RequestError, which never quotes data."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError("the request is not JSON") from None
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise RequestError(f"'instances' is not a list of 1 to {MAX_INSTANCES} objects")
    return [_read_instance(instance, f"instances[{n}]", size_px) for n, instance in enumerate(instances)]


def _read_instance(instance: Any, where: str, size_px: int) -> Instance:
    if isinstance(instance, dict) and instance.keys() == {"dicom"}:
        text = instance["dicom"].get("b64") if isinstance(instance["dicom"], dict) else None
        try:
            return pybase64.b64decode(text, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise RequestError(f"{where}: 'dicom' is not {{\"b64\": a base64 string}}") from None
    if isinstance(instance, dict) and instance.keys() == {"image"}:
        try:
            image = np.asarray(instance["image"], dtype=np.float32)
        except (ValueError, TypeError, OverflowError):
            raise RequestError(f"{where}: 'image' is not an array of numbers") from None
        if image.shape not in ((size_px, size_px), (1, size_px, size_px)):
            raise RequestError(f"{where}: 'image' is not of {size_px} rows of {size_px} numbers")
        if not ((image >= 0.0) & (image <= 1.0)).all():  # written so that a NaN fails too
            raise RequestError(f"{where}: 'image' has values outside 0 to 1")
        return image.reshape(1, size_px, size_px)
    raise RequestError(f"{where} has not exactly one of the keys 'dicom' and 'image'")


class Explaining:
    """Explains requests, on the threads of a `Scheduler`: `compute` is its function."""

    def __init__(
        self,
        package: Package,
        version: str,
        explainer: PackagedExplainer,
        decode: Callable[[bytes], Decoded],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._package, self._explainer, self._decode = package, explainer, decode
        self._head = {"model_version": version, "package_digest": package.digest}
        self._drawing = threading.Lock()  # matplotlib's fonts are shared and not made for threads
        self._explanations = Counter(
            "hounsfield_explanations", "Instances to explain, by outcome", ("outcome",), registry=registry
        )
        self._seconds = Histogram(
            "hounsfield_explanation_seconds",
            "From a thread's taking an instance to its explanation",
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )

    def compute(self, requests: Sequence[list[Instance]]) -> list[bytes | Exception]:
        """The answer to each request as JSON, or the exception that it failed by."""
        return [self._answer(instances) for instances in requests]

    def _answer(self, instances: list[Instance]) -> bytes | Exception:
        try:
            explanations = [self._explain(instance) for instance in instances]
        except ExplanationTimeoutError as error:
            self._explanations.labels("timeout").inc()
            return Overloaded(str(error), 10.0)
        except Exception as error:
            self._explanations.labels("error").inc()
            return error
        return orjson.dumps({"explanations": explanations, **self._head})

    def _explain(self, instance: Instance) -> dict[str, Any]:
        began_s = time.monotonic()
        decoded = Decoded(instance) if isinstance(instance, np.ndarray) else self._decode(instance)
        if decoded.image is None:
            self._explanations.labels("refused").inc()
            return {**_NOTHING, "label": "", "refusal": decoded.refusal}
        found = self._explainer.attribute(decoded.image)
        model = self._package.model
        probability = calibrate(np.array([found.logit], dtype=np.float32), model.temperature)[0]
        label = CLASS_NAMES[int(probability >= model.threshold)]
        answer = {
            **_NOTHING,
            "probability": float(probability),
            "label": label,
            "refusal": "",
            "overlay_png": {
                "b64": self._draw(decoded.image, found, f"probability {probability:.2f}, {label}")
            },
            "attribution": {
                "shape": list(found.regions.shape),
                "datatype": "FP32",
                "b64": _b64(found.regions.astype("<f4").tobytes()),
            },
            "logit": found.logit,
            "background_logit": found.background_logit,
            "completeness_error": found.completeness_error,
            "evaluations": found.evaluations,
            "method": METHOD,
        }
        self._explanations.labels("ok").inc()
        self._seconds.observe(time.monotonic() - began_s)
        return answer

    def _draw(self, image: np.ndarray, found: Attribution, title: str) -> str:
        picture = io.BytesIO()
        with self._drawing:
            write_overlay(picture, image[0], found.pixels(image.shape[-1]), title)
        return _b64(picture.getvalue())


_NOTHING: dict[str, Any] = dict.fromkeys(
    (
        "probability", "label", "refusal", "overlay_png", "attribution", "logit", "background_logit",
        "completeness_error", "evaluations", "method",
    )
)  # fmt: skip


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()

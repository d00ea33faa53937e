"""A served package: instances in, answers out, counted. One object for every door and every thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hounsfield.config import CLASS_NAMES
from hounsfield.dicom.quarantine import Refused
from hounsfield.package.engine import Engine, calibrate
from hounsfield.package.package import Package
from hounsfield.serving.contract import Answer, Instances
from hounsfield.serving.metrics import Metrics


class Service:
    """`decode` turns the bytes of one DICOM file into float32 (1, size, size), or raises Refused."""

    def __init__(
        self, package: Package, engine: Engine, decode: Callable[[bytes], np.ndarray], metrics: Metrics
    ) -> None:
        self.package, self._engine, self._decode, self._metrics = package, engine, decode, metrics

    def answer(self, instances: Instances, arrived_s: float) -> Answer:
        """Answer every instance; a refused one does not fail the others.

        `arrived_s` is `time.monotonic()` when the request came: waiting for a thread is latency too.
        Raises EngineError when the model gives no finite number; then every instance counts as an error.
        """
        try:
            answer = self._answer(instances)
        except Exception:
            self._metrics.count("error", len(instances))
            raise
        finally:
            self._metrics.observe_latency_s(time.monotonic() - arrived_s)
        answered = np.array([not reason for reason in answer.refusal])
        self._metrics.count_answers(answer.probability[answered], answer.review_required[answered])
        for reason in filter(None, answer.refusal):
            self._metrics.count_refusal(reason)
        return answer

    def _answer(self, instances: Instances) -> Answer:
        images, refusal = self._images(instances)
        model = self.package.model
        probability = np.full(len(instances), np.nan, dtype=np.float32)
        answered = np.array([not reason for reason in refusal])
        if answered.any():
            logit, _ = self._engine.run(images)
            probability[answered] = calibrate(logit, model.temperature)
        low, high = model.review_band
        return Answer(
            probability=probability,
            label=tuple(
                "" if reason else CLASS_NAMES[int(value >= model.threshold)]
                for value, reason in zip(probability.tolist(), refusal, strict=True)
            ),
            # NaN compares false: a refused instance is sent to a person by the first term.
            review_required=~answered | ((probability >= low) & (probability <= high)),
            refusal=refusal,
        )

    def _images(self, instances: Instances) -> tuple[np.ndarray, tuple[str, ...]]:
        """The images that could be prepared, (n, 1, size, size), and a reason or '' for every instance."""
        if instances.files is None:
            return instances.images, ("",) * len(instances)
        images, refusal = [], []
        for source in instances.files:
            try:
                images.append(self._decode(source))
                refusal.append("")
            except Refused as error:
                refusal.append(str(error.reason))
        return (np.stack(images) if images else np.empty(0, np.float32)), tuple(refusal)

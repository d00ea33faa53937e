import math
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.package.engine import EngineError, calibrate
from hounsfield.serving.contract import Instances
from hounsfield.serving.metrics import Metrics
from hounsfield.serving.service import Service

LABELS = {"model_name": "opacity", "model_version": "3"}


class MeanEngine:
    """The logit is ten times the mean of the image, minus five."""

    def run(self, images):
        return (10 * images.mean(axis=(1, 2, 3)) - 5).astype(np.float32), np.zeros(
            (len(images), 2), np.float32
        )


class BrokenEngine:
    def run(self, images):
        raise EngineError("the model's output is not one finite number an image")


def service(engine, registry):
    def decode(source):
        if source == b"bad":
            raise Refused(Reason.NO_PIXEL_DATA, "nothing to see")
        return np.full((1, 2, 2), float(source), dtype=np.float32)

    model = SimpleNamespace(temperature=2.0, threshold=0.6, review_band=(0.5, 0.7))
    return Service(SimpleNamespace(model=model), engine, decode, Metrics("opacity", "3", registry))


def test_calibration_is_the_sigmoid_over_the_temperature():
    probability = calibrate(np.array([0.0, 2.0, -800.0, 800.0], dtype=np.float32), 2.0)
    np.testing.assert_allclose(probability, [0.5, 1 / (1 + math.exp(-1)), 0.0, 1.0], atol=1e-7)
    assert probability.dtype == np.float32


def test_a_refused_instance_does_not_fail_the_others():
    answer = service(MeanEngine(), CollectorRegistry()).answer(Instances(files=(b"1.0", b"bad", b"0.6")), 0.0)
    # logits 5 and 1 over temperature 2
    assert answer.probability[0] == pytest.approx(1 / (1 + math.exp(-2.5)))
    assert math.isnan(answer.probability[1])
    assert answer.probability[2] == pytest.approx(1 / (1 + math.exp(-0.5)))  # 0.622
    assert answer.label == ("positive", "", "positive")
    assert answer.refusal == ("", "no_pixel_data", "")
    assert answer.review_required.tolist() == [False, True, True]


def test_all_refused_is_an_answer_too():
    answer = service(MeanEngine(), CollectorRegistry()).answer(Instances(files=(b"bad",)), 0.0)
    assert answer.refusal == ("no_pixel_data",)
    assert np.isnan(answer.probability).all()


def test_outcomes_are_counted_an_instance_and_latency_a_request():
    registry = CollectorRegistry()
    served = service(MeanEngine(), registry)
    assert registry.get_sample_value("hounsfield_requests_total", {**LABELS, "outcome": "error"}) == 0
    served.answer(Instances(files=(b"1.0", b"bad", b"0.6")), 0.0)

    def value(name, **labels):
        return registry.get_sample_value(name, {**LABELS, **labels})

    assert value("hounsfield_requests_total", outcome="ok") == 2
    assert value("hounsfield_requests_total", outcome="refused") == 1
    assert value("hounsfield_refusals_total", reason="no_pixel_data") == 1
    assert value("hounsfield_request_latency_seconds_count") == 1
    assert value("hounsfield_score_bucket", le="0.7") == 1
    assert value("hounsfield_score_bucket", le="1.0") == 2
    assert value("hounsfield_review_total") == 1


def test_a_broken_model_counts_every_instance_as_an_error():
    registry = CollectorRegistry()
    with pytest.raises(EngineError):
        service(BrokenEngine(), registry).answer(Instances(images=np.zeros((3, 1, 2, 2), np.float32)), 0.0)
    assert registry.get_sample_value("hounsfield_requests_total", {**LABELS, "outcome": "error"}) == 3
    assert registry.get_sample_value("hounsfield_request_latency_seconds_count", LABELS) == 1

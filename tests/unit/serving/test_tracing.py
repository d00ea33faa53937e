import subprocess
import sys
import time

import pytest

from hounsfield.serving.computing import Task
from hounsfield.serving.contract import Caller, Question
from hounsfield.serving.tracing import OtlpTracing
from tests.otlp import Collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector():
    with Collector() as receiver:
        yield receiver


def finished_task(traceparent="", ran=True):
    """Arrived 100 ms ago: 10 waiting, 20 decoding, 30 running, 40 until it was on the disk."""
    arrived_s = time.monotonic() - 0.1
    task = Task(Question((), Caller("r1", door="grpc", traceparent=traceparent)), arrived_s)
    task.started_s, task.decoded_s = arrived_s + 0.01, arrived_s + 0.03
    if ran:
        task.ran_s, task.logged_s = arrived_s + 0.06, arrived_s + 0.1
    return task


def report(collector, *reports):
    with OtlpTracing(collector.url, {"model.name": "opacity", "model.version": "3"}) as tracing:
        for given in reports:
            tracing.report(*given)
    return collector.spans


def test_a_request_is_a_span_with_its_stages_in_it(collector):
    spans = report(collector, (finished_task(),))
    assert [span.name for span in spans] == ["wait", "decode", "run", "log", "request"]
    *stages, request = spans
    length_ms = {
        span.name: round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e6) for span in stages
    }
    assert length_ms == {"wait": 10, "decode": 20, "run": 30, "log": 40}
    assert {span.parent_span_id for span in stages} == {request.span_id}
    assert stages[0].start_time_unix_nano == request.start_time_unix_nano
    assert abs(request.end_time_unix_nano - time.time_ns()) < 60e9
    assert {each.key: each.value.string_value for each in request.attributes}["hounsfield.request_id"] == "r1"
    resource = {each.key: each.value.string_value for each in collector.resources[0].attributes}
    assert (resource["service.name"], resource["model.version"]) == ("hounsfield-predictor", "3")


def test_the_span_belongs_to_the_callers_trace(collector):
    spans = report(collector, (finished_task(f"00-{TRACE}-{PARENT}-01"),))
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert spans[-1].parent_span_id.hex() == PARENT


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_without_a_good_traceparent_it_is_a_trace_of_its_own(collector, traceparent):
    spans = report(collector, (finished_task(traceparent),))
    assert spans[-1].parent_span_id == b""
    assert spans[-1].trace_id.hex() != TRACE


def test_a_caller_who_does_not_sample_is_heard(collector):
    assert report(collector, (finished_task(f"00-{TRACE}-{PARENT}-00"),)) == []


def test_a_failed_request_ends_where_it_failed(collector):
    *stages, request = report(collector, (finished_task(ran=False), "EngineError"))
    assert [span.name for span in stages] == ["wait", "decode"]
    assert (request.status.code, request.status.message) == (2, "EngineError")


def test_a_collector_that_is_down_raises_nothing():
    with OtlpTracing("http://127.0.0.1:9", {}) as tracing:
        tracing.report(finished_task())


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off():
    code = (
        "import sys, hounsfield.serving.service, hounsfield.serving.tracing;"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"

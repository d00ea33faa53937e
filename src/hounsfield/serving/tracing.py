"""OpenTelemetry spans of a request: request, and in it wait, decode, run, log. Off without an endpoint.

A request's moments are noted in any case (five clock readings); its spans are made of them after the answer
is ready, and sent by a thread of OpenTelemetry's. Nothing is imported and nothing made while tracing is off.
Sources: W3C Trace Context (https://www.w3.org/TR/trace-context/), OTLP over HTTP
(https://opentelemetry.io/docs/specs/otlp/).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from hounsfield.serving.computing import Task

SERVICE_NAME = "hounsfield-predictor"


class Tracing(Protocol):
    """Where the service reports a request that has come to its end."""

    def report(self, task: Task, error: str = "") -> None: ...


class OtlpTracing:
    """Sends spans to the collector at `endpoint` (its base address, or that of `/v1/traces`).

    `attributes` are the model's name and version; nothing of a patient is in a span. A collector that is
    down or slow costs spans, never a request: what does not fit the exporter's queue is dropped.
    """

    def __init__(self, endpoint: str, attributes: Mapping[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        base = endpoint.rstrip("/").removesuffix("/v1/traces")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": SERVICE_NAME, **attributes}), shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("hounsfield.serving")
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    def report(self, task: Task, error: str = "") -> None:
        """Make the spans of `task`, which ends now; `error` is the kind of what went wrong."""
        now_s, now_ns = time.monotonic(), time.time_ns()

        def at(moment_s: float) -> int:
            return now_ns - round((now_s - moment_s) * 1e9)

        caller = task.question.caller
        # An empty or malformed traceparent gives an empty context, and so a trace of its own.
        parent = self._propagator.extract({"traceparent": caller.traceparent})
        request = self._tracer.start_span(
            "request",
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            start_time=at(task.arrived_s),
            attributes={
                "hounsfield.request_id": caller.request_id,
                "hounsfield.door": caller.door,
                "hounsfield.shadow": caller.shadow,
            },
        )
        if error:
            request.set_status(self._trace.Status(self._trace.StatusCode.ERROR, error))
        inside = self._trace.set_span_in_context(request)
        began_s = task.arrived_s
        for name, ended_s in (
            ("wait", task.started_s),
            ("decode", task.decoded_s),
            ("run", task.ran_s),
            ("log", task.logged_s),
        ):
            if ended_s:
                self._tracer.start_span(name, context=inside, start_time=at(began_s)).end(at(ended_s))
                began_s = ended_s
        request.end(now_ns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._provider.shutdown()

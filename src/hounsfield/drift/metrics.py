"""The worker's Prometheus series, and the small server that shows them.

prometheus_client is that of the guard environment, 0.8: its own server answers any path with the metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from hounsfield.drift.stream import OUTCOMES
from hounsfield.errors import PlatformError

_MODEL = ("model_name", "model_version")


class Metrics:
    """Series of every model that the log has. Counters start from what the state says, not from 0."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, labels: tuple[str, ...]) -> Gauge:
            return Gauge(f"hounsfield_drift_{name}", text, labels, registry=self.registry)

        self._score = gauge("score", "Test statistic of the last window", (*_MODEL, "detector"))
        self._p_value = gauge("p_value", "p-value of the last window", (*_MODEL, "detector"))
        self._threshold = gauge("threshold", "p-value below which it is drift", (*_MODEL, "detector"))
        self._detected = gauge("detected", "1 when the last window drifted", (*_MODEL, "detector"))
        self._field_p_value = gauge("field_p_value", "p-value of a DICOM field alone", (*_MODEL, "field"))
        self._filling = gauge("window_images", "Images in the window that is filling", _MODEL)
        self._lag = gauge("lag_records", "Records in the logs that the worker has not read yet", ())
        self._log_failed = gauge("log_failed", "Logs that cannot be read, or were tampered with", ())
        self._windows = Counter("hounsfield_drift_windows", "Windows tested", _MODEL, registry=self.registry)
        self._predictions = Counter(
            "hounsfield_drift_predictions",
            "Predictions read, by what became of them",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in OUTCOMES:
            self._predictions.labels(outcome)

    def count(self, outcome: str, predictions: int = 1) -> None:
        self._predictions.labels(outcome).inc(predictions)

    def count_windows(self, name: str, version: str, windows: int = 1) -> None:
        self._windows.labels(name, version).inc(windows)

    def set_filling(self, name: str, version: str, images: int) -> None:
        self._filling.labels(name, version).set(images)

    def set_logs(self, lag_records: int, failed: int) -> None:
        self._lag.set(lag_records)
        self._log_failed.set(failed)

    def set_result(self, name: str, version: str, detectors: Mapping[str, Mapping[str, Any]]) -> None:
        """`detectors`: a `Result` by detector, as a dictionary."""
        for detector, result in detectors.items():
            self._score.labels(name, version, detector).set(result["score"])
            self._p_value.labels(name, version, detector).set(result["p_value"])
            self._threshold.labels(name, version, detector).set(result["threshold"])
            self._detected.labels(name, version, detector).set(int(result["is_drift"]))
            for field, p_value in result["by_field"].items():
                self._field_p_value.labels(name, version, field).set(p_value)


def serve(metrics: Metrics, host: str, port: int) -> ThreadingHTTPServer:
    """Answer /metrics and /ready from a thread of its own; port 0 takes a free one. Raises PlatformError.

    Ready at once: the state was read before, and nobody waits for this worker's answer.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                self._answer(200, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
            elif path == "/ready":
                self._answer(200, b"ready\n")
            else:
                self._answer(404, b"there are /metrics and /ready\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A probe every few seconds is nothing to write down."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise PlatformError(
            f"cannot listen on {host}:{port}: {error.strerror}; free it or choose another port"
        ) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server

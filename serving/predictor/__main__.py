"""`python -m serving.predictor --model_name=opacity --model_dir=PACKAGE --model_version=3`"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hounsfield.errors import ConfigError, HounsfieldError
from hounsfield.serving.logs import configure
from serving.predictor.flags import parse

if TYPE_CHECKING:
    from hounsfield.package.engine import Engine
    from hounsfield.package.package import Package
    from hounsfield.serving.inference_log import InferenceLog
    from hounsfield.serving.metrics import Metrics
    from hounsfield.serving.tracing import OtlpTracing


def main(argv: list[str]) -> int:
    arguments, others = parse(argv, os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    configure(arguments.log_format, arguments.log_level)
    try:
        _serve(arguments, others)
    except HounsfieldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(arguments: argparse.Namespace, others: list[str]) -> None:
    from hounsfield.dicom.groups import manufacturers
    from hounsfield.dicom.sandbox import Sandbox
    from hounsfield.package.package import load_package
    from hounsfield.serving.computing import Computer
    from hounsfield.serving.decoding import decode, decoder
    from hounsfield.serving.detectors import publish_detectors
    from hounsfield.serving.feedback import Feedback
    from hounsfield.serving.metrics import Metrics
    from hounsfield.serving.scheduler import Scheduler
    from hounsfield.serving.service import Service

    package = load_package(arguments.model_dir, arguments.verify_key)
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(arguments.threads))
        with ThreadPoolExecutor(arguments.threads + 1) as starters:
            opening = starters.submit(_open_engine, package, arguments.threads)
            # Each worker imports its decoders while this process imports KServe; no patient waits for it.
            for _ in range(arguments.threads):
                starters.submit(sandbox.call, functools.partial(decode, contract=package.contract), b"")
            from serving.predictor.model import PackagedModel
            from serving.predictor.server import PredictorServer

            _refuse_unknown(others)
            engine = opening.result()
        metrics = Metrics(arguments.model_name, arguments.model_version)
        log = _open_log(arguments, metrics, stack)
        tracing = _open_tracing(arguments, stack)
        computer = Computer(
            package,
            engine,
            decoder(package.contract, sandbox.call),
            metrics,
            model={
                "model_name": arguments.model_name,
                "model_version": arguments.model_version,
                "package_digest": package.digest,
                "contract_digest": package.contract.digest,
            },
            manufacturers=manufacturers(package.profile),
            sites=arguments.sites,
            log=log,
            cache_entries=arguments.cache_entries,
        )
        scheduler = stack.enter_context(
            Scheduler(
                computer.compute,
                arguments.threads,
                arguments.max_waiting,
                arguments.max_batch or engine.max_batch,
            )
        )
        metrics.watch("queue_waiting", lambda: scheduler.waiting)
        feedback = Feedback(metrics, log)
        if log is not None:
            publish_detectors(package, arguments.log_dir)
            feedback.refill(arguments.log_dir)
        service = Service(scheduler, metrics, feedback, tracing)
        metrics.watch("inflight_requests", lambda: service.inflight)
        model = PackagedModel(
            arguments.model_name, arguments.model_version, package, engine.embedding_size, service
        )
        PredictorServer(
            arguments.host,
            arguments.http_port,
            arguments.grpc_port,
            arguments.model_version,
            max_inflight_bytes=arguments.max_inflight_bytes,
            head_timeout_s=arguments.head_timeout_s,
            read_timeout_s=arguments.read_timeout_s,
            grace_s=arguments.shutdown_grace_s,
            on_shed=metrics.count_shed,
        ).start([model])


def _open_engine(package: Package, threads: int) -> Engine:
    import numpy as np

    from hounsfield.package.engine import Engine

    engine = Engine.open(package, threads)
    # The first run allocates; and a model that cannot run at all must not become ready.
    engine.run(np.zeros((1, *package.contract.shape), dtype=np.float32))
    return engine


def _open_log(
    arguments: argparse.Namespace, metrics: Metrics, stack: contextlib.ExitStack
) -> InferenceLog | None:
    """The inference log, and behind it the sink; both are closed with `stack`."""
    if arguments.log_dir is None:
        return None
    from hounsfield.audit.sink import Sink
    from hounsfield.serving.inference_log import InferenceLog

    after_log = stack.enter_context(contextlib.ExitStack())  # the sink sends what the log wrote last
    log = stack.enter_context(
        InferenceLog(
            arguments.log_dir, sync=arguments.log_sync == "fsync", retention_days=arguments.retention_days
        )
    )
    metrics.watch("log_backlog", log.depth)
    if arguments.sink_url:
        source = f"/models/{arguments.model_name}/versions/{arguments.model_version}"
        sink = Sink(arguments.log_dir, arguments.sink_url, source=source)
        after_log.callback(sink.close)
        metrics.watch("sink_backlog", sink.backlog)
        metrics.watch_sink_errors(lambda: sink.errors)
    return log


def _open_tracing(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> OtlpTracing | None:
    if not arguments.otlp_endpoint:
        return None
    from hounsfield.serving.tracing import OtlpTracing

    names = {"model.name": arguments.model_name, "model.version": arguments.model_version}
    return stack.enter_context(OtlpTracing(arguments.otlp_endpoint, names))


def _refuse_unknown(others: list[str]) -> None:
    """KServe's controller may add arguments of its ModelServer; any other is a mistake that must not pass."""
    from kserve.model_server import parser

    _, unknown = parser.parse_known_args(others)
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is not an argument of the predictor; see --help")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m serving.predictor --model_name=opacity --model_dir=PACKAGE --model_version=3`"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hounsfield.config import MODEL_NAME
from hounsfield.errors import HounsfieldError


def main(argv: list[str]) -> int:
    arguments = _parse(argv)
    try:
        _serve(arguments)
    except HounsfieldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.predictor", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model_name", default=MODEL_NAME)
    parser.add_argument("--model_dir", type=Path, required=True, help="folder of the model package")
    parser.add_argument(
        "--model_version", default="", help="version in the registry, for answers and metrics"
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on; 127.0.0.1 on a laptop")  # noqa: S104
    parser.add_argument("--http_port", type=int, default=8080)
    parser.add_argument("--grpc_port", type=int, default=8081)
    parser.add_argument(
        "--threads", type=int, default=_cores(), help="requests computed at once, one core each"
    )
    # KServe's controller may add arguments of its ModelServer; they are not ours to refuse.
    arguments, _ = parser.parse_known_args(argv)
    return arguments


def _cores() -> int:
    """Cores that this process may use: its affinity, and below that the container's CPU limit."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def _serve(arguments: argparse.Namespace) -> None:
    import numpy as np

    from hounsfield.dicom.sandbox import Sandbox
    from hounsfield.package.engine import Engine
    from hounsfield.package.package import load_package
    from hounsfield.serving.decoding import decode, decoder
    from hounsfield.serving.metrics import Metrics
    from hounsfield.serving.service import Service

    package = load_package(arguments.model_dir)
    with Sandbox(arguments.threads) as sandbox, ThreadPoolExecutor(arguments.threads) as starters:
        # Each worker imports its decoders while this process imports KServe; no patient waits for it.
        for _ in range(arguments.threads):
            starters.submit(sandbox.call, functools.partial(decode, contract=package.contract), b"")
        from serving.predictor.model import PackagedModel
        from serving.predictor.server import PredictorServer

        engine = Engine(package.onnx)
        # The first run allocates; and a model that cannot run at all must not become ready.
        engine.run(np.zeros((1, *package.contract.shape), dtype=np.float32))
        metrics = Metrics(arguments.model_name, arguments.model_version)
        starters.shutdown()
        service = Service(package, engine, decoder(package.contract, sandbox.call), metrics)
        model = PackagedModel(arguments.model_name, arguments.model_version, service, arguments.threads)
        server = PredictorServer(
            arguments.host, arguments.http_port, arguments.grpc_port, arguments.model_version
        )
        for chatty in ("uvicorn.access", "kserve.trace"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        server.start([model])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

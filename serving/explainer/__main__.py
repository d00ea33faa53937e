"""`python -m serving.explainer --model_name=opacity --model_dir=PACKAGE --model_version=3`"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hounsfield.config import MODEL_NAME
from hounsfield.errors import HounsfieldError
from hounsfield.serving.logs import FORMATS, LEVELS, configure
from serving.predictor.flags import count, port, seconds


def main(argv: list[str]) -> int:
    arguments = _parse(argv)
    configure(arguments.log_format, arguments.log_level)
    # On a machine shared with a predictor the predictor's work comes first: a clinician waits for that.
    os.nice(10)
    try:
        _serve(arguments)
    except HounsfieldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.explainer",
        description="Explain a model package's answers over KServe's v1 protocol (:explain).",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_name", default=MODEL_NAME)
    add("--model_dir", type=Path, required=True, help="folder of the model package")
    add("--model_version", default="", help="version in the registry, for answers")
    add("--verify_key", type=Path, help="public key: a package that it did not sign is refused")
    add("--host", default="0.0.0.0", help="address to listen on; 127.0.0.1 on a laptop")  # noqa: S104
    add("--http_port", type=port, default=8080)
    add("--threads", type=count, default=1, help="requests explained at once, one core each")
    add("--max_waiting", type=count, default=8, help="instances that may wait; beyond it 429")
    add("--target_s", type=seconds, default=8.0, help="an instance gets the evaluations that fit into it")
    add("--limit_s", type=seconds, default=20.0, help="after this an instance is given up")
    add("--shutdown_grace_s", type=seconds, default=30.0, help="for requests in flight at SIGTERM")
    add("--log_format", choices=FORMATS, default="json", help="of the process's own log")
    add("--log_level", choices=LEVELS, default="info")
    add("--predictor_host", help=argparse.SUPPRESS)  # KServe adds it; the package is asked, not the predictor
    return parser.parse_args(argv)


def _serve(arguments: argparse.Namespace) -> None:
    from hounsfield.dicom.sandbox import Sandbox
    from hounsfield.explain.background import load_background
    from hounsfield.explain.packaged import PackagedExplainer
    from hounsfield.package.engine import Engine
    from hounsfield.package.package import load_package
    from hounsfield.serving.decoding import decoder
    from hounsfield.serving.explaining import Explaining
    from hounsfield.serving.scheduler import Scheduler
    from serving.explainer.server import ExplainedModel, ExplainerServer

    package = load_package(arguments.model_dir, arguments.verify_key)
    background = load_background(package.path, package.contract.shape)
    engine = Engine.open(package, arguments.threads)
    explainer = PackagedExplainer(
        lambda images: engine.run(images)[0],
        background,
        target_s=arguments.target_s,
        limit_s=arguments.limit_s,
    )
    with Sandbox(arguments.threads) as sandbox:
        explaining = Explaining(
            package, arguments.model_version, explainer, decoder(package.contract, sandbox.call)
        )
        with Scheduler(explaining.compute, arguments.threads, arguments.max_waiting) as scheduler:
            server = ExplainerServer(
                arguments.host,
                arguments.http_port,
                None,
                arguments.model_version,
                grace_s=arguments.shutdown_grace_s,
            )
            server.start([ExplainedModel(arguments.model_name, package.contract.size_px, scheduler)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

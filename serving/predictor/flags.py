"""The predictor's command line: every setting is a flag, checked before anything is loaded."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from urllib.parse import urlsplit

from hounsfield.config import MODEL_NAME
from hounsfield.serving.admission import MAX_INFLIGHT_BYTES
from hounsfield.serving.cores import cores
from hounsfield.serving.logs import FORMATS, LEVELS

WAITING_A_THREAD = 16


def parse(argv: list[str], otlp_endpoint: str | None) -> tuple[argparse.Namespace, list[str]]:
    """The settings, and the arguments that are none of ours.

    `otlp_endpoint` is the default of that flag, as OpenTelemetry's environment variable gives it. A wrong
    value ends the process with code 2 and a sentence.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving.predictor",
        description="Serve a model package by the Open Inference Protocol, over REST and gRPC.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_name", default=MODEL_NAME)
    add("--model_dir", type=Path, required=True, help="folder of the model package")
    add("--model_version", default="", help="version in the registry, for answers and metrics")
    add("--verify_key", type=Path, help="public key: a package that it did not sign is refused")
    add("--sites", type=_names, default=(), help="sites to count apart, by x-hounsfield-site: north,south")
    add("--host", default="0.0.0.0", help="address to listen on; 127.0.0.1 on a laptop")  # noqa: S104
    add("--http_port", type=port, default=8080)
    add("--grpc_port", type=port, default=8081)
    add("--threads", type=count, default=cores(), help="requests computed at once, one core each")
    add("--max_waiting", type=count, help="instances that may wait; beyond it 429 (16 a thread)")
    add("--max_batch", type=count, help="instances computed in one run (1 on a CPU, 16 on a GPU)")
    add("--max_inflight_bytes", type=count, default=MAX_INFLIGHT_BYTES, help="of request bodies together")
    add("--head_timeout_s", type=seconds, default=10.0, help="for a client to send its headers")
    add("--read_timeout_s", type=seconds, default=30.0, help="for a client to send its body")
    add("--cache_entries", type=_whole, default=0, help="answers kept for repeated inputs; 0 keeps none")
    add("--log_dir", type=Path, help="folder of the inference log; without it there is none")
    add("--log_sync", choices=("fsync", "none"), default="fsync", help="wait for the disk before answering")
    add("--retention_days", type=_days, help="days for which no record may be purged")
    add("--sink_url", type=_url, help="CloudEvents sink that the inference log is delivered to")
    add("--otlp_endpoint", type=_url, default=otlp_endpoint, help="OpenTelemetry collector, OTLP over HTTP")
    add("--log_format", choices=FORMATS, default="json", help="of the process's own log")
    add("--log_level", choices=LEVELS, default="info")
    add("--shutdown_grace_s", type=seconds, default=30.0, help="for requests in flight at SIGTERM")
    arguments, others = parser.parse_known_args(argv)
    if arguments.http_port == arguments.grpc_port:
        parser.error(f"--http_port and --grpc_port are both {arguments.http_port}; give each its own")
    if arguments.sink_url and not arguments.log_dir:
        parser.error("--sink_url delivers the inference log: give its folder with --log_dir")
    if arguments.max_waiting is None:
        arguments.max_waiting = WAITING_A_THREAD * arguments.threads
    return arguments, others


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name) for name in names) or len(names) > 50:
        raise argparse.ArgumentTypeError(f"{text!r} is not at most 50 names such as north,south")
    return names


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _positive(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit} above 0")
    return value


def _days(text: str) -> float:
    return _positive(text, "days")


def seconds(text: str) -> float:
    return _positive(text, "seconds")


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as http://collector:4318")
    return text

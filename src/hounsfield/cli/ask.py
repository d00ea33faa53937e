"""`hounsfield predict` and `hounsfield stream`: questions to a served model."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

from hounsfield.config import MODEL_NAME
from hounsfield.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8080"


def add_commands(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add both to `commands`; `command` is what the main parser makes each of them with."""
    predict = command(
        commands, "predict", _predict, "ask the endpoint about DICOM files", "hounsfield predict scan.dcm"
    )
    predict.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a DICOM file")
    _add_connection(predict)
    predict.add_argument("--timeout-s", type=float, default=30.0, help="seconds to wait (default: 30)")
    predict.add_argument("--json", action="store_true", help="print the whole answer, a JSON line a file")
    predict.add_argument(
        "--explain", type=Path, metavar="OUT.png", help="write a picture of what the answer rests on"
    )

    stream = command(
        commands,
        "stream",
        _stream,
        "replay a folder of DICOM files and count which version answered",
        "hounsfield stream --folder .hounsfield/sample/dicom --seconds 10",
    )
    stream.add_argument("--folder", type=Path, required=True, help="folder of .dcm files")
    _add_connection(stream)
    stream.add_argument("--clients", type=int, default=4, help="parallel senders (default: 4)")
    stream.add_argument("--seconds", type=float, default=10.0, help="how long (default: 10)")


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", default=DEFAULT_URL, help=f"the endpoint (default: {DEFAULT_URL})")
    command.add_argument("--model", default=MODEL_NAME, help=f"the model's name (default: {MODEL_NAME})")
    command.add_argument(
        "--token-file",
        type=Path,
        default=os.environ.get("HOUNSFIELD_TOKEN_FILE"),
        help="file with a token or an API key, where one is asked for (default: $HOUNSFIELD_TOKEN_FILE)",
    )
    command.add_argument(
        "--ca-file",
        type=Path,
        default=os.environ.get("HOUNSFIELD_CA_FILE"),
        help="certificate that the gateway is trusted by (default: $HOUNSFIELD_CA_FILE, else the system's)",
    )


def _connector(arguments: argparse.Namespace, timeout_s: float) -> Callable:
    from hounsfield.serving.client import Client, read_credential

    credential = read_credential(Path(arguments.token_file)) if arguments.token_file else ""
    if arguments.ca_file and not Path(arguments.ca_file).is_file():
        raise ConfigError(f"--ca-file {arguments.ca_file} is not a file")
    return lambda: Client(
        arguments.url,
        arguments.model,
        credential=credential,
        ca_file=arguments.ca_file,
        timeout_s=timeout_s,
    )


def _predict(arguments: argparse.Namespace) -> int:
    from hounsfield.serving.client import read_file

    if arguments.explain and len(arguments.files) > 1:
        raise ConfigError(
            f"--explain writes one picture, and there are {len(arguments.files)} files: name one"
        )
    refused = 0
    with _connector(arguments, arguments.timeout_s)() as client:
        for number, path in enumerate(arguments.files, start=1):
            source = read_file(path)
            answer = client.predict(source)
            refused += bool(answer["refusal"])
            if arguments.json:
                print(json.dumps(answer, sort_keys=True))
            elif answer["refusal"]:
                print(f"file {number}: refused, {answer['refusal']}")
            else:
                review = ", a person decides" if answer["review_required"] else ""
                print(
                    f"file {number}: {answer['label']}, probability {answer['probability']:.3f}{review} "
                    f"({answer['model_name']} version {answer['model_version']})"
                )
            if arguments.explain and not answer["refusal"]:
                arguments.explain.write_bytes(client.explain(source)["overlay_png"])
                print(arguments.explain)
    return 1 if refused else 0


def _stream(arguments: argparse.Namespace) -> int:
    from hounsfield.serving.stream import run

    return run(_connector(arguments, 30.0), arguments.folder, arguments.clients, arguments.seconds)

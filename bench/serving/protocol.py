"""Asks a server one thing of the Open Inference Protocol at a time, and judges the answer.

A bad request must be answered by 4xx with the protocol's `error` field and must quote no part of what was
sent; a good one by 200 in the protocol's form; and after each the next good request must succeed. The table
is `protocol_cases.CASES`. Nothing here knows Hounsfield: a `Target` says which model to ask, and what one
good tensor of it is.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import requests

MARKER = "DOE^JANE"
"""Stands for a patient: no answer may hold it."""

LENGTH_HEADER = "Inference-Header-Content-Length"


@dataclasses.dataclass(frozen=True)
class Target:
    """A served model. The tensor is FP32 of `shape`, its first dimension the batch, with `values` flat.

    `byte_input` names an input of BYTES, None if there is none; `outputs` are two of the model's outputs.
    """

    url: str
    model: str
    version: str
    input: str
    shape: tuple[int, ...]
    values: tuple[float, ...]
    outputs: tuple[str, str]
    byte_input: str | None = None


@dataclasses.dataclass(frozen=True)
class Sent:
    """A request; `raw` is the whole of it as bytes for a socket, for what no HTTP library would send."""

    method: str = "POST"
    path: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    raw: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Received:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True)
class Case:
    """`status` is the fitting answer; another 4xx is as good to `judge` unless it is told to be strict.

    `check` looks at a 200's body and returns what is wrong with it, or ''.
    """

    name: str
    send: Callable[[Target], Sent]
    status: int = 400
    check: Callable[[Target, Received], str] | None = None
    needs_bytes: bool = False


def exchange(target: Target, sent: Sent, timeout_s: float = 30.0) -> Received:
    """Send it on a connection of its own and read the answer. Raises OSError when there is none."""
    if sent.raw is None:
        response = requests.request(
            sent.method, target.url + sent.path, data=sent.body, headers=dict(sent.headers), timeout=timeout_s
        )
        return Received(response.status_code, response.headers, response.content)
    address = urlsplit(target.url)
    with socket.create_connection((address.hostname, address.port), timeout_s) as connection:
        connection.sendall(sent.raw)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return Received(response.status, dict(response.getheaders()), response.read())
        except http.client.HTTPException:
            raise OSError("the answer is not HTTP") from None


def judge(case: Case, target: Target, received: Received, *, strict: bool = False) -> str:
    """What is wrong with the answer, or ''."""
    if MARKER.encode() in received.body:
        return "the answer quotes the request"
    if case.status == 200:
        if received.status != 200:
            return f"status {received.status} instead of 200"
        try:
            return case.check(target, received) if case.check else ""
        except (ValueError, KeyError, TypeError, AttributeError):  # whatever another server may answer
            return "the answer is not in the protocol's form"
    if not 400 <= received.status < 500 or (strict and received.status != case.status):
        return f"status {received.status} instead of {case.status}"
    try:
        answer = json.loads(received.body)
    except ValueError:
        return "the answer is not JSON"
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), str) or not answer["error"]:
        return "the answer has no field 'error' with a sentence"
    return ""


def run(target: Target, cases: Sequence[Case], good: Case, *, strict: bool = False) -> dict[str, str]:
    """What went wrong with each case by its name, '' where nothing did. The case `good` follows each."""
    found = {}
    for case in cases:
        if case.needs_bytes and target.byte_input is None:
            continue
        try:
            found[case.name] = judge(case, target, exchange(target, case.send(target)), strict=strict)
        except (OSError, requests.RequestException) as error:
            found[case.name] = f"no answer ({type(error).__name__})"
        try:
            after = judge(good, target, exchange(target, good.send(target)))
        except (OSError, requests.RequestException) as error:
            after = f"no answer ({type(error).__name__})"
        found[case.name] = found[case.name] or (after and f"the next request failed: {after}")
    return found

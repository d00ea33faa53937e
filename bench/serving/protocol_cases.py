"""Black-box cases of the Open Inference Protocol's REST API, for any server: the table is `CASES`.

    run(Target(url, model, version, ...), CASES, GOOD) -> what went wrong, by case

Source: kserve/open-inference-protocol, `inference_rest.md` and its binary tensor data extension.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.serving.protocol import LENGTH_HEADER, MARKER, Case, Received, Sent, Target

# Requests, from parts.


def tensor(target: Target, **changes: Any) -> dict[str, Any]:
    """The good tensor with `changes`; a value of `...` removes the key."""
    whole = {
        "name": target.input,
        "datatype": "FP32",
        "shape": list(target.shape),
        "data": list(target.values),
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def good_body(target: Target) -> bytes:
    return json.dumps({"inputs": [tensor(target)]}).encode()


def infer(target: Target, body: Any, path: str = "", **headers: str) -> Sent:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return Sent("POST", path or f"/v2/models/{target.model}/infer", content, names)


def binary(
    target: Target, head: Any, tail: bytes, length: str | None = None, header: bool = True, path: str = ""
) -> Sent:
    """`head` as JSON with `tail` behind it; `length` instead of the true length of the JSON."""
    content = json.dumps(head).encode()
    names = {"Content-Type": "application/octet-stream"}
    if header:
        names[LENGTH_HEADER] = str(len(content)) if length is None else length
    return Sent("POST", path or f"/v2/models/{target.model}/infer", content + tail, names)


def packed(target: Target) -> bytes:
    """The good tensor's values as raw bytes."""
    return struct.pack(f"<{len(target.values)}f", *target.values)


def bad_tensor(**changes: Any) -> Callable[[Target], Sent]:
    return lambda target: infer(target, {"inputs": [tensor(target, **changes)]})


def bad_batch(first: Any, **changes: Any) -> Callable[[Target], Sent]:
    """The good tensor with `first` for its first dimension."""
    return lambda target: bad_tensor(shape=[first, *target.shape[1:]], **changes)(target)


def bad_request(**changes: Any) -> Callable[[Target], Sent]:
    return lambda target: infer(target, {"inputs": [tensor(target)], **changes})


def bad_body(body: bytes) -> Callable[[Target], Sent]:
    return lambda target: infer(target, body)


def bad_value(text: bytes) -> Callable[[Target], Sent]:
    """The good request with its first value replaced by `text`, as it stands."""

    def send(target: Target) -> Sent:
        content = json.dumps({"inputs": [tensor(target, data=["HERE", *target.values[1:]])]}).encode()
        return infer(target, content.replace(b'"HERE"', text))

    return send


def bad_binary(size: int | None = None, tail: bytes | None = None, **rest: Any) -> Callable[[Target], Sent]:
    """A binary tensor that claims `size` bytes before `tail`; by default both are the good ones."""

    def send(target: Target) -> Sent:
        content = packed(target) if tail is None else tail
        claimed = len(packed(target)) if size is None else size
        head = {"inputs": [tensor(target, data=..., parameters={"binary_data_size": claimed})]}
        return binary(target, head, content, **rest)

    return send


def bytes_tensor(data: Any = ..., tail: bytes | None = None) -> Callable[[Target], Sent]:
    def send(target: Target) -> Sent:
        item = {"name": target.byte_input, "datatype": "BYTES", "shape": [1]}
        if tail is None:
            return infer(target, {"inputs": [{**item, "data": data}]})
        return binary(target, {"inputs": [{**item, "parameters": {"binary_data_size": len(tail)}}]}, tail)

    return send


def get(path: str, method: str = "GET") -> Callable[[Target], Sent]:
    return lambda t: Sent(method, path.format(model=t.model, version=t.version))


def post(path: str) -> Callable[[Target], Sent]:
    return lambda t: infer(t, {"inputs": [tensor(t)], "instances": [[0.0]]}, path.format(model=t.model))


def on_the_wire(headers: bytes, body: bytes = b"") -> Callable[[Target], Sent]:
    """Headers and a body that no HTTP library would send."""
    return lambda t: Sent(
        raw=b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        % t.model.encode()
        + headers
        + b"\r\n\r\n"
        + body
    )


# What a good answer must be.


def has(keys: Mapping[str, Any]) -> Callable[[Target, Received], str]:
    """The body is an object with these keys, each of a type, or equal to a value that `format` fills in."""

    def check(target: Target, received: Received) -> str:
        answer = json.loads(received.body)
        for key, wanted in keys.items():
            if isinstance(wanted, str):
                wanted = wanted.format(model=target.model)
            good = (
                isinstance(answer.get(key), wanted) if isinstance(wanted, type) else answer.get(key) == wanted
            )
            if not good:
                return f"'{key}' is missing or wrong"
        return ""

    return check


def describes_tensors(_: Target, received: Received) -> str:
    answer = json.loads(received.body)
    for side in ("inputs", "outputs"):
        if not answer.get(side) or any({"name", "datatype", "shape"} - item.keys() for item in answer[side]):
            return f"'{side}' lists no tensor, or one without name, datatype and shape"
    return ""


def answers(*names: str, binary: bool = False, call_id: str = "") -> Callable[[Target, Received], str]:
    """An inference response whose outputs have as many values as their shape says.

    `names` are the outputs expected ("first", "second" of the target's); `binary` that all are binary.
    """

    def check(target: Target, received: Received) -> str:
        length = next((v for k, v in received.headers.items() if k.lower() == LENGTH_HEADER.lower()), None)
        if binary and length is None:
            return f"no header {LENGTH_HEADER}"
        answer = json.loads(received.body[: int(length)] if length else received.body)
        tail = received.body[int(length) :] if length else b""
        if answer.get("model_name") != target.model:
            return "'model_name' is missing or wrong"
        if call_id and answer.get("id") != call_id:
            return "'id' is not the request's"
        outputs = answer.get("outputs") or []
        wanted = [dict(zip(("first", "second"), target.outputs, strict=True))[name] for name in names]
        if wanted and [output["name"] for output in outputs] != wanted:
            return "other outputs than those asked for"
        if not outputs or any({"name", "datatype", "shape"} - item.keys() for item in outputs):
            return "an output without name, datatype and shape"
        used = 0
        for output in outputs:
            size = (output.get("parameters") or {}).get("binary_data_size")
            if binary and size is None:
                return "an output is not binary"
            if size is None and len(_flat(output.get("data"))) != math.prod(output["shape"]):
                return "an output's data does not fit its shape"
            used += size or 0
        return "" if used == len(tail) else "the binary data is longer or shorter than the outputs say"

    return check


def _flat(data: Any) -> list:
    return [leaf for item in data for leaf in _flat(item)] if isinstance(data, list) else [data]


def nested(target: Target) -> Any:
    """The good values as lists in lists."""

    def fold(values: Sequence[float], shape: Sequence[int]) -> Any:
        if len(shape) == 1:
            return list(values)
        step = len(values) // shape[0]
        return [fold(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]

    return fold(target.values, target.shape)


INFER, MODEL, AT_VERSION = "/v2/models/{model}/infer", "/v2/models/{model}", "/v2/models/{model}/versions/"
GOOD = Case("a good request", lambda t: infer(t, {"inputs": [tensor(t)]}), 200, answers())

CASES: tuple[Case, ...] = (
    # metadata and health
    Case("server metadata", get("/v2"), 200, has({"name": str, "version": str, "extensions": list})),
    Case("server live", get("/v2/health/live"), 200, has({"live": True})),
    Case("server ready", get("/v2/health/ready"), 200, has({"ready": True})),
    Case("model ready", get(f"{MODEL}/ready"), 200, has({"name": "{model}", "ready": True})),
    Case("model metadata", get(MODEL), 200, has({"name": "{model}", "platform": str})),
    Case("model metadata lists tensors", get(MODEL), 200, describes_tensors),
    Case("metadata of a version", get(AT_VERSION + "{version}"), 200, has({"name": "{model}"})),
    Case("ready of a version", get(AT_VERSION + "{version}/ready"), 200, has({"ready": True})),
    # good requests
    GOOD,
    Case("the request's id comes back", bad_request(id="x-42"), 200, answers(call_id="x-42")),
    Case(
        "a version in the path",
        lambda t: infer(t, {"inputs": [tensor(t)]}, f"/v2/models/{t.model}/versions/{t.version}/infer"),
        200,
        answers(),
    ),
    Case("nested data", lambda t: infer(t, {"inputs": [tensor(t, data=nested(t))]}), 200, answers()),
    Case("an input in binary", bad_binary(), 200, answers()),
    Case(
        "all outputs in binary",
        bad_request(parameters={"binary_data_output": True}),
        200,
        answers(binary=True),
    ),
    Case(
        "one output asked for",
        lambda t: infer(t, {"inputs": [tensor(t)], "outputs": [{"name": t.outputs[1]}]}),
        200,
        answers("second"),
    ),
    Case(
        "one output asked for in binary",
        lambda t: infer(
            t,
            {
                "inputs": [tensor(t)],
                "outputs": [{"name": t.outputs[0], "parameters": {"binary_data": True}}],
            },
        ),
        200,
        answers("first", binary=True),
    ),
    # the tensor
    Case("wrong datatype", bad_tensor(datatype="INT64")),
    Case("unknown datatype", bad_tensor(datatype="BLOB")),
    Case("datatype is no string", bad_tensor(datatype=32)),
    Case("datatype is missing", bad_tensor(datatype=...)),
    Case("wrong input name", bad_tensor(name=MARKER)),
    Case("input name is missing", bad_tensor(name=...)),
    Case("input name is no string", bad_tensor(name=[MARKER])),
    Case("wrong rank", bad_tensor(shape=[1])),
    Case("wrong dimension", lambda t: bad_tensor(shape=[*t.shape[:-1], t.shape[-1] + 1])(t)),
    Case("negative dimension", bad_batch(-1)),
    Case("fractional dimension", bad_batch(1.5)),
    Case("dimension in words", bad_batch(MARKER)),
    Case("shape is missing", bad_tensor(shape=...)),
    Case("shape is no list", bad_tensor(shape=1)),
    Case("huge dimensions", lambda t: bad_tensor(shape=[2**62] * len(t.shape))(t)),
    Case("a dimension past 64 bits", bad_batch(2**70)),
    Case("an empty batch", bad_batch(0, data=[])),
    Case("data is null", bad_tensor(data=None)),
    Case("data is missing", bad_tensor(data=...)),
    Case("data is no list", bad_tensor(data=MARKER)),
    Case("data is an object", bad_tensor(data={"0": MARKER})),
    Case("too few values", lambda t: bad_tensor(data=list(t.values[1:]))(t)),
    Case("too many values", lambda t: bad_tensor(data=[*t.values, 0.0])(t)),
    Case("ragged lists", lambda t: bad_tensor(data=[[0.0], [0.0, 0.0]])(t)),
    Case("a null value", bad_value(b"null")),
    Case("a string value", bad_value(b'"' + MARKER.encode() + b'"')),
    Case(
        "a number in a string", lambda t: infer(t, {"inputs": [tensor(t, data=[str(v) for v in t.values])]})
    ),
    Case("an object for a value", bad_value(b"{}")),
    Case("the value NaN", bad_value(b"NaN")),
    Case("the value Infinity", bad_value(b"-Infinity")),
    Case("a value past doubles", bad_value(b"1e999")),
    # the request around it
    Case("empty body", bad_body(b"")),
    Case("broken JSON", bad_body(b'{"inputs": [' + MARKER.encode())),
    Case("JSON cut off", lambda t: infer(t, good_body(t)[:-9])),
    Case("JSON with more behind it", lambda t: infer(t, good_body(t) + b"}}")),
    Case(
        "a DICOM file for JSON",
        bad_body(b"\0" * 128 + b"DICM" + MARKER.encode() + b"\xff" * 99),
    ),
    Case("invalid UTF-8", bad_body(b'{"inputs": "\xff\xfe' + MARKER.encode() + b'"}')),
    Case("100,000 nested brackets", bad_body(b"[" * 100_000 + b"]" * 100_000)),
    Case("data nested 500 deep", bad_value(b"[" * 500 + b"0" + b"]" * 500)),
    Case("a list for the request", bad_body(b"[]")),
    Case("an empty object", bad_body(b"{}")),
    Case("inputs are null", bad_request(inputs=None)),
    Case("no inputs", bad_request(inputs=[])),
    Case("inputs are an object", bad_request(inputs={"name": MARKER})),
    Case("an input is no object", bad_request(inputs=[MARKER])),
    Case("the same input twice", lambda t: infer(t, {"inputs": [tensor(t)] * 2})),
    Case("an input too many", lambda t: infer(t, {"inputs": [tensor(t), tensor(t, name=MARKER)]})),
    Case("the id is a number", bad_request(id=7)),
    Case("the id is an object", bad_request(id={MARKER: 1})),
    Case("parameters are a list", bad_request(parameters=[MARKER])),
    Case("outputs are no list", bad_request(outputs=MARKER)),
    Case("an unknown output", bad_request(outputs=[{"name": MARKER}])),
    Case("an output without name", bad_request(outputs=[{}])),
    Case("an output is a string", lambda t: infer(t, {"inputs": [tensor(t)], "outputs": [t.outputs[0]]})),
    # the binary extension
    Case("binary_data_output is no boolean", bad_request(parameters={"binary_data_output": "yes"})),
    Case(
        "binary_data is no boolean",
        lambda t: infer(
            t,
            {
                "inputs": [tensor(t)],
                "outputs": [{"name": t.outputs[0], "parameters": {"binary_data": MARKER}}],
            },
        ),
    ),
    Case(
        "data and binary_data_size at once",
        lambda t: binary(
            t,
            {"inputs": [tensor(t, parameters={"binary_data_size": len(packed(t))})]},
            packed(t),
        ),
    ),
    Case("binary_data_size without the header", bad_binary(header=False)),
    Case("the header is longer than the body", bad_binary(length="99999999")),
    Case("the header is negative", bad_binary(length="-1")),
    Case("the header is no number", bad_binary(length="many")),
    Case("the header is zero", bad_binary(length="0")),
    Case("binary data cut short", lambda t: bad_binary(tail=packed(t)[:-3])(t)),
    Case("binary data left over", lambda t: bad_binary(tail=packed(t) + b"\0\0\0\0")(t)),
    Case("negative binary_data_size", bad_binary(size=-4)),
    Case("binary_data_size is no number", lambda t: bad_binary(size="4")(t)),
    Case(
        "binary data of another count", lambda t: bad_binary(size=len(packed(t)) - 4, tail=packed(t)[4:])(t)
    ),
    Case("raw bytes without a tensor", bad_binary(tail=MARKER.encode() * 99, size=10**9)),
    Case(
        "a BYTES length past the end",
        bytes_tensor(tail=b"\xff\xff\xff\x7f" + MARKER.encode()),
        needs_bytes=True,
    ),
    Case("a BYTES length cut off", bytes_tensor(tail=b"\x08\0"), needs_bytes=True),
    Case("BYTES that are numbers", bytes_tensor([7]), needs_bytes=True),
    Case("BYTES that are null", bytes_tensor(None), needs_bytes=True),
    Case("two elements for a shape of one", bytes_tensor(["", ""]), needs_bytes=True),
    # what is not there
    Case("unknown model", lambda t: infer(t, {"inputs": [tensor(t)]}, "/v2/models/nothing/infer"), 404),
    Case("metadata of an unknown model", get("/v2/models/nothing"), 404),
    Case("ready of an unknown model", get("/v2/models/nothing/ready"), 404),
    Case("unknown version", post(AT_VERSION + "99999/infer"), 404),
    Case("metadata of an unknown version", get(AT_VERSION + "99999"), 404),
    Case("ready of an unknown version", get(AT_VERSION + "99999/ready"), 404),
    Case("unknown path", get("/v2/nothing"), 404),
    Case("GET instead of POST", get(INFER), 405),
    Case("DELETE a model", get(MODEL, "DELETE"), 405),
    # HTTP
    Case("declared larger than any bound", on_the_wire(b"Content-Length: 17179869184"), 413),
    Case("Content-Length is no number", on_the_wire(b"Content-Length: many", b"{}")),
    Case("Content-Length is negative", on_the_wire(b"Content-Length: -5", b"{}")),
    Case("two lengths", on_the_wire(b"Content-Length: 2\r\nContent-Length: 3", b"{}")),
    Case(
        "a length and chunks", on_the_wire(b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")
    ),
    Case("a chunk that is no chunk", on_the_wire(b"Transfer-Encoding: chunked", b"zz\r\n{}\r\n0\r\n\r\n")),
    Case("chunked broken JSON", on_the_wire(b"Transfer-Encoding: chunked", b"1\r\n{\r\n0\r\n\r\n")),
    Case("a body shorter than JSON needs", on_the_wire(b"Content-Length: 1", b"{")),
)

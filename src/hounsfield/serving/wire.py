"""The Open Inference Protocol's REST body, as bytes on the wire, read into tensors.

KServe's own reader calls Python for every value, answers 500 to a DICOM file in a binary tensor and quotes
its bytes in the error. This one does neither: no message here ever holds a part of a tensor.
Source: kserve/open-inference-protocol, `inference_rest.md` and its binary tensor data extension.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from hounsfield.config import CLASS_NAMES
from hounsfield.errors import HounsfieldError

MAX_BODY_BYTES = 64 * 2**20
"""Bound of one request, REST or gRPC: a 4096 x 4096 image of 16 bits, raw, or in base64."""


class RequestError(HounsfieldError):
    """The request breaks the protocol or the model's contract: `status` is the HTTP answer to it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Overloaded(RequestError):
    """More is waiting than the server takes: HTTP 429, gRPC RESOURCE_EXHAUSTED, both with Retry-After."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, 429)
        self.retry_after_s = retry_after_s


class Draining(RequestError):
    """The server is on its way out, or cannot keep its log: HTTP 503, gRPC UNAVAILABLE, with Retry-After."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, 503)
        self.retry_after_s = retry_after_s


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One input tensor as it came: `raw` little-endian bytes, or `values` from JSON or protobuf."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any] | None = None
    raw: bytes | memoryview | None = None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Call:
    """One inference request. `outputs` are (name, parameters) that were asked for; none means all."""

    id: str
    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, Any]
    outputs: tuple[tuple[str, Mapping[str, Any]], ...]


def read_call(body: bytes, json_length: str | None) -> Call:
    """Parse a REST body. `json_length` is the header Inference-Header-Content-Length, None when absent.

    Raises RequestError, whose message never quotes data.
    """
    head, tail = _split(body, json_length)
    request = _read_object(head)
    call_id = request.get("id", "")
    if not isinstance(call_id, str):
        raise RequestError("'id' is not a string")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError("'inputs' is not a list of at least one tensor")
    tensors = []
    for position, item in enumerate(inputs):
        tensor, tail = _read_tensor(item, position, tail)
        tensors.append(tensor)
    require_distinct(tensors)
    if tail:
        raise RequestError(f"{len(tail)} bytes of binary data are left over after the last input")
    return Call(call_id, tuple(tensors), _parameters(request, "the request"), _read_outputs(request))


@dataclasses.dataclass(frozen=True)
class FeedbackCall:
    """A radiologist's label of one instance of an earlier request."""

    request_id: str
    instance: int
    label: str


def read_feedback(body: bytes) -> FeedbackCall:
    """Parse `{"request_id": "...", "instance": 0, "label": "positive"}`. Raises RequestError."""
    given = _read_object(body)
    if given.keys() - {"request_id", "instance", "label"}:
        raise RequestError("the request has other keys than request_id, instance and label")
    request_id, instance, label = given.get("request_id"), given.get("instance", 0), given.get("label")
    if not isinstance(request_id, str) or not request_id:
        raise RequestError("'request_id' is not a string")
    if type(instance) is not int or instance < 0:
        raise RequestError("'instance' is not a whole number from 0 up")
    if label not in CLASS_NAMES:
        raise RequestError(f"'label' is not one of {', '.join(CLASS_NAMES)}")
    return FeedbackCall(request_id, instance, label)


def require_distinct(tensors: Sequence[Tensor]) -> None:
    """Raise RequestError when two inputs have one name: which of them is meant cannot be known."""
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise RequestError("'inputs' holds two tensors of one name")


def read_byte_elements(raw: bytes | memoryview, name: str) -> list[bytes]:
    """The elements of a raw BYTES tensor: each is its length, 4 bytes little-endian, then its bytes."""
    view, elements, offset = memoryview(raw), [], 0
    while offset < len(view):
        if offset + 4 > len(view):
            raise RequestError(f"input '{name}': the length of element {len(elements)} is cut short")
        (length,) = struct.unpack_from("<I", view, offset)
        offset += 4
        if offset + length > len(view):
            raise RequestError(
                f"input '{name}': element {len(elements)} is shorter than the {length} bytes it claims"
            )
        elements.append(bytes(view[offset : offset + length]))
        offset += length
    return elements


def write_byte_elements(elements: Sequence[bytes]) -> bytes:
    """The raw form of a BYTES tensor, the inverse of `read_byte_elements`."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def _read_object(content: bytes | memoryview) -> dict[str, Any]:
    try:
        read = orjson.loads(content)
    except orjson.JSONDecodeError:  # also for brackets nested too deep
        raise RequestError("the request is not JSON") from None
    if not isinstance(read, dict):
        raise RequestError("the request is not a JSON object")
    return read


def _split(body: bytes, json_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if json_length is None:
        return view, view[len(view) :]
    if not (json_length.isascii() and json_length.isdigit()) or int(json_length) > len(view):
        raise RequestError("the header Inference-Header-Content-Length is not a length inside the body")
    return view[: int(json_length)], view[int(json_length) :]


def _read_tensor(item: Any, position: int, tail: memoryview) -> tuple[Tensor, memoryview]:
    where = f"inputs[{position}]"
    if not isinstance(item, dict):
        raise RequestError(f"{where} is not a JSON object")
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where}: 'name' is not a string")
    if not isinstance(datatype, str):
        raise RequestError(f"{where}: 'datatype' is not a string")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise RequestError(f"{where}: 'shape' is not a list of whole numbers from 0 up")
    parameters = _parameters(item, where)
    size = parameters.get("binary_data_size")
    values = item.get("data")
    if size is None:
        if not isinstance(values, list):
            raise RequestError(f"{where}: 'data' is not a list, and there is no parameter 'binary_data_size'")
        return Tensor(name, datatype, tuple(shape), values=values, parameters=parameters), tail
    if values is not None:
        raise RequestError(f"{where}: has both 'data' and the parameter 'binary_data_size'")
    if type(size) is not int or not 0 <= size <= len(tail):
        raise RequestError(f"{where}: 'binary_data_size' is not a length inside the rest of the body")
    tensor = Tensor(name, datatype, tuple(shape), raw=tail[:size], parameters=parameters)
    return tensor, tail[size:]


def _read_outputs(request: Mapping[str, Any]) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    outputs = request.get("outputs")
    if outputs is None:
        return ()
    if not isinstance(outputs, list) or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in outputs
    ):
        raise RequestError("'outputs' is not a list of objects with a 'name'")
    return tuple((item["name"], _parameters(item, "an output")) for item in outputs)


def _parameters(item: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"{where}: 'parameters' is not a JSON object")
    return parameters


def element_count(shape: Sequence[int]) -> int:
    return math.prod(shape)

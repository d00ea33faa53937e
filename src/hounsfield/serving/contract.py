"""What a request may hold and what an answer says, whichever door (JSON, binary, gRPC) it came through.

Inputs, exactly one of:
  `dicom`  BYTES [N]: one whole DICOM file an element; raw in binary bodies and gRPC, base64 strings in JSON
           (a file is not UTF-8; the parameter `content_type`, if sent, must be "base64").
  `image`  FP32 [N, 1, size, size] in [0, 1]: already prepared by the package's image contract.
Outputs, each [N]:
  `probability`      FP32 in [0, 1], calibrated; NaN (null in JSON) where the element was refused
  `label`            BYTES: a class name; empty where refused
  `review_required`  BOOL: a person decides: the probability lies inside the review band, or it was refused
  `refusal`          BYTES: the reason code; empty where answered
  `embedding`        FP32 [N, E]: the last features, NaN where refused; sent only when asked for by name

The doors build a `Question`, the model turns it into an `Answer`, and the doors write that:
`PackagedModel.predict(question) -> Answer`, raising RequestError (also Overloaded, Draining) or EngineError.
"""

from __future__ import annotations

import binascii
import dataclasses
import re
import uuid
from collections.abc import Mapping, Sequence

import numpy as np
import pybase64

from hounsfield.serving.wire import RequestError, Tensor, element_count, read_byte_elements

DICOM, IMAGE = "dicom", "image"
EMBEDDING = "embedding"
OUTPUT_DATATYPES = {
    "probability": "FP32",
    "label": "BYTES",
    "review_required": "BOOL",
    "refusal": "BYTES",
    EMBEDDING: "FP32",
}
MAX_INSTANCES = 256
MAX_ID_CHARACTERS = 256

_CALLER = re.compile(r"[ -~]{0,128}")
_SITE = re.compile(r"[A-Za-z0-9._@-]{0,64}")
_STUDY = re.compile(r"[A-Za-z0-9._-]{0,64}")


@dataclasses.dataclass(frozen=True)
class Instances:
    """The instances of one request: `files`, or `images` float32 (N, 1, size, size) in [0, 1]; never both."""

    files: tuple[bytes, ...] | None = None
    images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images) if self.files is None else len(self.files)


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who asks, as the headers (gRPC: the metadata) say; nothing in it identifies a patient.

    `caller` is who the gateway found out (x-hounsfield-caller; '' if nobody). `study` is an opaque token
    (x-hounsfield-study; ''). `shadow` marks a request that Envoy mirrored, whose answer nobody reads;
    `first` one that a rollout's policy sent to the canary because of who asks. `site` is where the client
    says that it stands (x-hounsfield-site; '').
    `door` is "rest-json", "rest-binary" or "grpc". `traceparent` is W3C's, as it came; '' without one.
    """

    request_id: str
    caller: str = ""
    study: str = ""
    shadow: bool = False
    first: bool = False
    site: str = ""
    door: str = "rest-json"
    traceparent: str = ""

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], call_id: str, door: str) -> Caller:
        """Read them from `headers` (lower-case names; gRPC: the metadata). Raises RequestError.

        The request's own id comes first, then x-request-id, then one of ours.
        """
        # Envoy marks the copy of a mirrored request by this ending of its Host.
        host = headers.get("host", "").partition(":")[0]
        return cls(
            request_id=_checked_id(call_id or headers.get("x-request-id", "")) or str(uuid.uuid4()),
            caller=_checked(headers, "x-hounsfield-caller", _CALLER),
            study=_checked(headers, "x-hounsfield-study", _STUDY),
            # grpc.aio does not tell its servants the :authority, so the gateway may say it in a header too.
            shadow=host.endswith("-shadow") or headers.get("x-hounsfield-shadow") == "1",
            first=headers.get("x-hounsfield-first") == "1",
            site=_checked(headers, "x-hounsfield-site", _SITE),
            door=door,
            traceparent=headers.get("traceparent", ""),
        )


@dataclasses.dataclass(frozen=True)
class Question:
    """One request as every door hands it on: the tensors as they came (not yet read), and who asks.

    `read_instances(question.tensors, size_px)` does the reading; it computes, so not on the event loop.
    """

    tensors: tuple[Tensor, ...]
    caller: Caller


@dataclasses.dataclass(frozen=True)
class Answer:
    """One row an instance, in the order of the request; see the module for the meaning of each column.

    `probability` float32 (N,), `review_required` bool (N,), `embedding` float32 (N, E).
    """

    probability: np.ndarray
    label: tuple[str, ...]
    review_required: np.ndarray
    refusal: tuple[str, ...]
    embedding: np.ndarray


def _checked_id(value: str) -> str:
    if len(value) > MAX_ID_CHARACTERS or not value.isprintable():
        raise RequestError(f"the request's id is not at most {MAX_ID_CHARACTERS} printable characters")
    return value


def _checked(headers: Mapping[str, str], name: str, form: re.Pattern[str]) -> str:
    value = headers.get(name, "")
    if not form.fullmatch(value):
        raise RequestError(f"the header {name} is longer than allowed or has a character that is not allowed")
    return value


def input_types(size_px: int) -> list[dict]:
    """The `inputs` of the model's metadata; -1 is any size."""
    return [
        {"name": DICOM, "datatype": "BYTES", "shape": [-1]},
        {"name": IMAGE, "datatype": "FP32", "shape": [-1, 1, size_px, size_px]},
    ]


def output_types(embedding_size: int) -> list[dict]:
    """The `outputs` of the model's metadata; all but the last are sent when none is asked for by name."""
    return [
        {"name": name, "datatype": datatype, "shape": [-1, embedding_size] if name == EMBEDDING else [-1]}
        for name, datatype in OUTPUT_DATATYPES.items()
    ]


def read_instances(tensors: Sequence[Tensor], size_px: int) -> Instances:
    """Check the tensors of a request against the contract. Raises RequestError, which never quotes data."""
    if len(tensors) != 1:
        raise RequestError(
            f"the model takes exactly one input, '{DICOM}' or '{IMAGE}'; {len(tensors)} were sent"
        )
    (tensor,) = tensors
    if tensor.name == DICOM:
        expected = ("BYTES", 1)
    elif tensor.name == IMAGE:
        expected = ("FP32", 4)
    else:
        raise RequestError(f"the model has no input of that name; its inputs are '{DICOM}' and '{IMAGE}'")
    datatype, dimensions = expected
    if tensor.datatype != datatype:
        raise RequestError(f"input '{tensor.name}': the datatype must be {datatype}")
    if len(tensor.shape) != dimensions or any(size < 0 for size in tensor.shape):
        raise RequestError(f"input '{tensor.name}': the shape must have {dimensions} dimensions from 0 up")
    if not 1 <= tensor.shape[0] <= MAX_INSTANCES:
        raise RequestError(f"input '{tensor.name}': a request holds 1 to {MAX_INSTANCES} instances")
    if tensor.name == DICOM:
        return Instances(files=_read_files(tensor))
    if tuple(tensor.shape[1:]) != (1, size_px, size_px):
        raise RequestError(f"input '{IMAGE}': the shape must be [N, 1, {size_px}, {size_px}]")
    return Instances(images=_read_images(tensor))


def _read_files(tensor: Tensor) -> tuple[bytes, ...]:
    if tensor.parameters.get("content_type", "base64") != "base64":
        raise RequestError(f"input '{DICOM}': the only content_type is base64")
    if tensor.raw is not None:
        files = read_byte_elements(tensor.raw, tensor.name)
    else:
        files = [_file(value, position) for position, value in enumerate(tensor.values or ())]
    if len(files) != tensor.shape[0]:
        raise RequestError(
            f"input '{DICOM}': the shape says {tensor.shape[0]} elements, the data has {len(files)}"
        )
    return tuple(files)


def _file(value: object, position: int) -> bytes:
    if isinstance(value, bytes):  # protobuf's bytes_contents
        return value
    if isinstance(value, str):
        try:
            return pybase64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise RequestError(f"input '{DICOM}': element {position} is not a base64 string")


def _read_images(tensor: Tensor) -> np.ndarray:
    count = element_count(tensor.shape)
    if tensor.raw is not None:
        if len(tensor.raw) != 4 * count:
            raise RequestError(
                f"input '{IMAGE}': the shape needs {4 * count} bytes of FP32, the data has {len(tensor.raw)}"
            )
        images = np.frombuffer(tensor.raw, dtype="<f4")
    else:
        images = _numbers(tensor.values, tensor.shape)
    images = images.reshape(tensor.shape)
    # Written so that a NaN fails too.
    bad = ~((images >= 0.0) & (images <= 1.0)).all(axis=(1, 2, 3))
    if bad.any():
        raise RequestError(f"input '{IMAGE}': instance {int(bad.argmax())} has values outside 0 to 1")
    return images.astype(np.float32, copy=False)


def _numbers(values: object, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a JSON list, flat or nested as the shape says, or of protobuf's fp32_contents."""
    try:
        numbers = np.asarray(values)
    except ValueError:  # lists of different lengths, or nested deeper than an array can be
        numbers = None
    # Without a dtype in the call, so that strings, nulls and booleans show: they would be converted.
    if numbers is None or (numbers.dtype.kind not in "iuf" and numbers.size):
        raise RequestError(f"input '{IMAGE}': the data is not an array of numbers")
    if numbers.size != element_count(shape):
        raise RequestError(
            f"input '{IMAGE}': the shape says {element_count(shape)} values, the data has {numbers.size}"
        )
    if numbers.shape not in (shape, (numbers.size,)):
        raise RequestError(f"input '{IMAGE}': the data is nested in another shape than the one declared")
    return numbers

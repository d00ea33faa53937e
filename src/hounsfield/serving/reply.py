"""An answer as bytes: which outputs were asked for, and how JSON, the binary extension and gRPC write them.

Source: kserve/open-inference-protocol, `inference_rest.md`, its binary extension, and `inference_grpc.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from hounsfield.serving.contract import EMBEDDING, OUTPUT_DATATYPES, Answer
from hounsfield.serving.wire import RequestError, write_byte_elements


@dataclasses.dataclass(frozen=True)
class Output:
    """One output to send; `binary` behind the JSON instead of in it (REST only, gRPC is always raw)."""

    name: str
    binary: bool = False


DEFAULT_OUTPUTS = tuple(Output(name) for name in OUTPUT_DATATYPES if name != EMBEDDING)


def choose_outputs(
    asked: Sequence[tuple[str, Mapping[str, Any]]], parameters: Mapping[str, Any]
) -> tuple[Output, ...]:
    """The outputs to send, in the order asked for; without any asked for, all but the embedding.

    `asked` are names and their parameters, `parameters` the request's. An output's `binary_data` overrules
    the request's `binary_data_output`. Raises RequestError.
    """
    binary = _flag(parameters, "binary_data_output", False)
    if not asked:
        return tuple(Output(output.name, binary) for output in DEFAULT_OUTPUTS) if binary else DEFAULT_OUTPUTS
    names = [name for name, _ in asked]
    if any(name not in OUTPUT_DATATYPES for name in names):
        raise RequestError(f"the model has no output of that name; its outputs are {_listed()}")
    if len(set(names)) != len(names):
        raise RequestError("'outputs' names an output twice")
    for _, own in asked:
        for unsupported in ("classification", "shared_memory_region"):
            if own.get(unsupported):
                raise RequestError(f"an output has the parameter '{unsupported}', which is not supported")
    return tuple(Output(name, _flag(own, "binary_data", binary)) for name, own in asked)


def write_rest(
    answer: Answer, outputs: Sequence[Output], head: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """The body of a REST response, and the length of its JSON when binary data follows it, else None.

    `head` is model_name, model_version, id and parameters. NaN becomes null: JSON has no other word for it.
    """
    tensors, tails = [], []
    for output in outputs:
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": OUTPUT_DATATYPES[output.name],
            "shape": shape(answer, output.name),
        }
        if output.binary:
            tails.append(raw(answer, output.name))
            tensor["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            column = getattr(answer, output.name)
            tensor["data"] = np.ascontiguousarray(column).ravel() if _is_array(column) else column
        tensors.append(tensor)
    content = orjson.dumps({**head, "outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((content, *tails)), len(content)) if tails else (content, None)


def shape(answer: Answer, name: str) -> list[int]:
    """The shape of the output `name`."""
    return list(answer.embedding.shape) if name == EMBEDDING else [len(answer.refusal)]


def raw(answer: Answer, name: str) -> bytes:
    """The output `name` in the protocol's raw form: little-endian, one byte a BOOL, lengths before BYTES."""
    column = getattr(answer, name)
    if not _is_array(column):
        return write_byte_elements([value.encode() for value in column])
    return column.astype("<f4" if OUTPUT_DATATYPES[name] == "FP32" else "?", copy=False).tobytes()


def _is_array(column: np.ndarray | tuple[str, ...]) -> bool:
    return isinstance(column, np.ndarray)


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"the parameter '{name}' is neither true nor false")
    return value


def _listed() -> str:
    return ", ".join(f"'{name}'" for name in OUTPUT_DATATYPES)

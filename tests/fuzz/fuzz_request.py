"""`python -m tests.fuzz request`: the bytes of a request, to the model's instances.

Whatever comes, only RequestError may be raised, and it must not quote the request.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator

from bench.serving.protocol import MARKER
from hounsfield.serving.contract import Caller, Instances, read_instances
from hounsfield.serving.reply import choose_outputs
from hounsfield.serving.wire import RequestError, read_call, read_feedback
from tests.fuzz.corpus import BINARY, FEEDBACK, HEADERS, SIZE_PX, request_seeds

seeds = request_seeds
WORDS = ('"inputs"', '"shape"', '"data"', '"outputs"', '"parameters"', '"binary_data_size"', "1e999", "FP32")
NAMES = ("x-request-id", "x-hounsfield-study", "x-hounsfield-caller", "host")


@contextlib.contextmanager
def target() -> Iterator[Callable[[bytes], None]]:
    """The function to be called with each input."""
    yield one


def one(data: bytes) -> None:
    """One request; see `corpus` for the first bytes."""
    if not data:
        return
    kind, body = data[0] % 4, data[1:]
    try:
        if kind == FEEDBACK:
            read_feedback(body)
        elif kind == HEADERS:
            call_id, *values = body.decode("latin-1").split("\0")
            Caller.from_headers(dict(zip(NAMES, values, strict=False)), call_id, "rest-json")
        else:
            length = None
            if kind == BINARY and len(body) >= 2:
                length, body = str(struct.unpack_from("<H", body)[0]), body[2:]
            _infer(body, length)
        refusal = None
    except RequestError as error:
        refusal = error
    assert refusal is None or 400 <= refusal.status < 500
    assert MARKER not in str(refusal)


def _infer(body: bytes, length: str | None) -> None:
    call = read_call(body, length)
    choose_outputs(call.outputs, call.parameters)
    instances = read_instances(call.tensors, SIZE_PX)
    assert isinstance(instances, Instances)
    assert 1 <= len(instances) <= 256
    if instances.images is not None:
        assert instances.images.shape[1:] == (1, SIZE_PX, SIZE_PX)
        assert instances.images.dtype == "float32"
        assert (instances.images >= 0).all()
        assert (instances.images <= 1).all()

"""What a client is told when its request fails: a status and a sentence, never a part of the request."""

from __future__ import annotations

import dataclasses
import math

from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady

from hounsfield.package.engine import EngineError
from hounsfield.serving.logs import log_failure
from hounsfield.serving.wire import RequestError


@dataclasses.dataclass(frozen=True)
class Failure:
    """`status` is HTTP's; the gRPC door translates it. `retry_after_s`: whole seconds, or None."""

    status: int
    message: str
    retry_after_s: int | None = None


def report(error: Exception, request_id: str, door: str) -> Failure:
    """The failure to answer with, written to the log as the one line of the request.

    A request that was read as far as its caller has the id and the door of that one.
    """
    failure = describe(error)
    caller = getattr(error, "caller", None)
    if caller is not None:
        request_id, door = caller.request_id, caller.door
    log_failure(request_id, door, failure.status, error, sentence=failure.message)
    return failure


def describe(error: Exception) -> Failure:
    """The failure to answer with."""
    if isinstance(error, RequestError):
        delay_s = getattr(error, "retry_after_s", None)
        return Failure(error.status, str(error), None if delay_s is None else max(1, math.ceil(delay_s)))
    if isinstance(error, InvalidInput):
        return Failure(400, str(error))
    if isinstance(error, ModelNotFound):
        return Failure(404, "this server holds no model of that name")
    if isinstance(error, ModelNotReady):
        return Failure(503, "the model is not ready", 1)
    if isinstance(error, EngineError):
        return Failure(500, str(error))
    # Not the error's own text: it may quote what the code choked on, and that is a patient's.
    return Failure(500, "the server failed on this request")

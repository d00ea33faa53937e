"""What a client is told when its request fails: a status and a sentence, never a part of the request."""

from __future__ import annotations

import dataclasses
import logging
import math

from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady

from hounsfield.package.engine import EngineError
from hounsfield.serving.wire import RequestError

log = logging.getLogger("hounsfield.predictor")


@dataclasses.dataclass(frozen=True)
class Failure:
    """`status` is HTTP's; the gRPC door translates it. `retry_after_s`: whole seconds, or None."""

    status: int
    message: str
    retry_after_s: int | None = None


def describe(error: Exception) -> Failure:
    """The failure to answer with. What is not foreseen is logged, by its kind and place only."""
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
    # A message may quote what the code choked on, and that is a patient's.
    log.error("request failed by %s at %s", type(error).__name__, where(error))
    return Failure(500, "the server failed on this request")


def where(error: BaseException) -> str:
    """File and line that raised `error`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"

"""The process's log: a line an event, as JSON or as text, to standard error; never a byte of a payload.

A failed request leaves one line with its request id, a good one none: the inference log is the record of
those. An exception is written by its kind and its place, for its text may quote what it choked on.
"""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any, TextIO

import orjson

FORMATS = ("json", "text")
LEVELS = ("debug", "info", "warning", "error")

_REQUESTS = logging.getLogger("hounsfield.predictor.request")


def configure(style: str, level: str, stream: TextIO | None = None) -> None:
    """Send every logger of the process to `stream` (standard error) as `style`, one of FORMATS.

    Called before KServe configures its own loggers: it leaves them alone when the root has a handler.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A line a request is what they write.
    for chatty in ("uvicorn.access", "kserve.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def log_failure(request_id: str, door: str, status: int, error: BaseException, *, sentence: str = "") -> None:
    """The one line of a failed request: an error when it is the server's fault, a warning when the client's.

    `sentence` is what the client was told; it holds no data of the request.
    """
    level = logging.ERROR if status >= 500 else logging.WARNING
    if not _REQUESTS.isEnabledFor(level):
        return
    fields = {"request_id": request_id[:256], "door": door, "status": status, "error": type(error).__name__}
    if status >= 500:
        fields["where"] = where(error)
    _REQUESTS.log(level, "request failed: %s", sentence or "see error", extra={"fields": fields})


def where(error: BaseException) -> str:
    """File and line that raised `error`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        fields |= {"error": type(record.exc_info[1]).__name__, "where": where(record.exc_info[1])}
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        return orjson.dumps(line, default=str).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        rest = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return f"{_time(record)} {record.levelname.lower()} {record.name}: {record.getMessage()}{rest}"

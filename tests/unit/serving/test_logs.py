import io
import json
import logging

import pytest

from hounsfield.serving.logs import configure, log_failure
from hounsfield.serving.wire import Overloaded, RequestError

PATIENT = "DOE^JANE"


@pytest.fixture
def write():
    """Configure the root logger, and give it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()

    def start(style="json", level="info"):
        configure(style, level, stream)
        return stream

    yield start
    root.handlers[:] = handlers
    root.setLevel(level)


def fail():
    raise ValueError(f"cannot convert {PATIENT}")


def test_a_failed_request_is_one_json_line_with_its_id(write):
    stream = write()
    log_failure(
        "r1", "grpc", 400, RequestError("the request is not JSON"), sentence="the request is not JSON"
    )
    (line,) = stream.getvalue().splitlines()
    values = json.loads(line)
    assert values.pop("time").endswith("Z")
    assert values == {
        "level": "warning",
        "logger": "hounsfield.predictor.request",
        "message": "request failed: the request is not JSON",
        "request_id": "r1",
        "door": "grpc",
        "status": 400,
        "error": "RequestError",
    }


def test_a_fault_of_the_server_is_an_error_with_its_place_and_never_its_text(write):
    stream = write()
    try:
        fail()
    except ValueError as error:
        log_failure("r1", "rest-json", 500, error)
    values = json.loads(stream.getvalue())
    assert (values["level"], values["error"]) == ("error", "ValueError")
    assert "test_logs.py:" in values["where"]
    assert PATIENT not in stream.getvalue()


@pytest.mark.parametrize("style", ["json", "text"])
def test_an_exception_of_any_library_is_written_without_its_text(write, style):
    stream = write(style)
    try:
        fail()
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    assert len(stream.getvalue().splitlines()) == 1
    assert "ValueError" in stream.getvalue()
    assert "test_logs.py:" in stream.getvalue()
    assert PATIENT not in stream.getvalue()


def test_the_level_filters(write):
    stream = write(level="error")
    log_failure("r1", "grpc", 429, Overloaded("33 instances wait already"))
    assert stream.getvalue() == ""
    log_failure("r2", "grpc", 500, RuntimeError())
    assert json.loads(stream.getvalue())["request_id"] == "r2"


def test_text_is_one_line_too(write):
    stream = write("text")
    logging.getLogger("hounsfield").info("ready on %s", "127.0.0.1:8080")
    assert stream.getvalue().endswith(" info hounsfield: ready on 127.0.0.1:8080\n")


def test_a_line_break_does_not_make_two_lines_of_one(write):
    stream = write()
    logging.getLogger("hounsfield").warning("first\nsecond")
    assert len(stream.getvalue().splitlines()) == 1

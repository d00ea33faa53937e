import pytest

from hounsfield.serving.contract import Caller
from hounsfield.serving.wire import RequestError, read_feedback


def test_who_asks_is_read_from_the_headers():
    headers = {"x-hounsfield-caller": "ward 7", "x-hounsfield-study": "a0.B_-9", "host": "predictor:80"}
    caller = Caller.from_headers(headers, "7", "grpc")
    assert (caller.request_id, caller.caller, caller.study) == ("7", "ward 7", "a0.B_-9")
    assert (caller.shadow, caller.door) == (False, "grpc")


def test_a_site_and_a_first_caller_are_read_from_the_headers():
    caller = Caller.from_headers({"x-hounsfield-site": "north", "x-hounsfield-first": "1"}, "", "grpc")
    assert (caller.site, caller.first) == ("north", True)
    assert Caller.from_headers({"x-hounsfield-first": "yes"}, "", "grpc").first is False
    with pytest.raises(RequestError):
        Caller.from_headers({"x-hounsfield-site": "St. Mary"}, "", "grpc")


def test_the_requests_own_id_comes_first_then_the_header_then_one_of_ours():
    assert Caller.from_headers({"x-request-id": "h"}, "own", "grpc").request_id == "own"
    assert Caller.from_headers({"x-request-id": "h"}, "", "grpc").request_id == "h"
    assert len(Caller.from_headers({}, "", "grpc").request_id) == 36


@pytest.mark.parametrize(
    ("headers", "shadow"),
    [
        ({"host": "opacity-shadow"}, True),
        ({"host": "opacity-shadow:8080"}, True),
        ({"host": "shadow-opacity"}, False),
        ({"x-hounsfield-shadow": "1"}, True),
        ({}, False),
    ],
)
def test_a_mirrored_request_is_known_by_its_host(headers, shadow):
    assert Caller.from_headers(headers, "", "rest-json").shadow is shadow


@pytest.mark.parametrize(
    "headers",
    [
        {"x-hounsfield-caller": "c" * 129},
        {"x-hounsfield-caller": "tab\there"},
        {"x-hounsfield-study": "s" * 65},
        {"x-hounsfield-study": "DOE^JANE"},
        {"x-request-id": "r" * 257},
        {"x-request-id": "a\nb"},
    ],
)
def test_a_header_that_is_too_long_or_odd_is_refused_and_not_quoted(headers):
    with pytest.raises(RequestError) as error:
        Caller.from_headers(headers, "", "rest-json")
    assert error.value.status == 400
    assert "DOE" not in str(error.value)


def test_feedback_is_read():
    given = read_feedback(b'{"request_id": "7", "instance": 2, "label": "negative"}')
    assert (given.request_id, given.instance, given.label) == ("7", 2, "negative")
    assert read_feedback(b'{"request_id": "7", "label": "positive"}').instance == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"DOE", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"label": "positive"}', "'request_id'"),
        (b'{"request_id": 7, "label": "positive"}', "'request_id'"),
        (b'{"request_id": "7", "instance": true, "label": "positive"}', "'instance'"),
        (b'{"request_id": "7", "instance": -1, "label": "positive"}', "'instance'"),
        (b'{"request_id": "7", "label": "DOE"}', "not one of negative, positive"),
        (b'{"request_id": "7", "label": ["positive"]}', "not one of"),
        (b'{"request_id": "7", "label": "positive", "DOE": 1}', "other keys than"),
    ],
)
def test_feedback_that_is_none_is_refused_and_not_quoted(body, words):
    with pytest.raises(RequestError, match=words) as error:
        read_feedback(body)
    assert "DOE" not in str(error.value)

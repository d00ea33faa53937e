import json

import numpy as np
import pytest

from hounsfield.serving.contract import Answer
from hounsfield.serving.reply import DEFAULT_OUTPUTS, Output, choose_outputs, raw, shape, write_rest
from hounsfield.serving.wire import RequestError

NAN = float("nan")
ANSWER = Answer(
    probability=np.array([0.25, NAN], dtype=np.float32),
    label=("negative", ""),
    review_required=np.array([False, True]),
    refusal=("", "not_dicom"),
    embedding=np.array([[1.0, 2.0, 3.0], [NAN] * 3], dtype=np.float32),
)
HEAD = {"model_name": "opacity", "model_version": "3", "id": "7", "parameters": {"a": "b"}}


def test_the_embedding_is_sent_only_when_it_is_asked_for():
    assert [each.name for each in choose_outputs((), {})] == [
        "probability",
        "label",
        "review_required",
        "refusal",
    ]
    assert choose_outputs((("embedding", {}), ("label", {})), {}) == (Output("embedding"), Output("label"))


def test_an_outputs_own_flag_overrules_the_requests():
    asked = (("label", {"binary_data": False}), ("refusal", {}), ("probability", {"binary_data": True}))
    assert [each.binary for each in choose_outputs(asked, {"binary_data_output": True})] == [
        False,
        True,
        True,
    ]
    assert [each.binary for each in choose_outputs(asked, {})] == [False, False, True]
    assert all(each.binary for each in choose_outputs((), {"binary_data_output": True}))


@pytest.mark.parametrize(
    ("asked", "parameters", "words"),
    [
        ((("DOE^JANE", {}),), {}, "no output of that name"),
        ((("label", {}), ("label", {})), {}, "twice"),
        ((("label", {"binary_data": 1}),), {}, "'binary_data' is neither true nor false"),
        ((), {"binary_data_output": "true"}, "'binary_data_output' is neither"),
        ((("label", {"classification": 2}),), {}, "'classification', which is not supported"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_never_quoted(asked, parameters, words):
    with pytest.raises(RequestError, match=words) as error:
        choose_outputs(asked, parameters)
    assert "DOE" not in str(error.value)


def test_json_says_null_for_what_is_not_a_number():
    content, length = write_rest(ANSWER, (*DEFAULT_OUTPUTS, Output("embedding")), HEAD)
    assert length is None
    assert json.loads(content) == {
        **HEAD,
        "outputs": [
            {"name": "probability", "datatype": "FP32", "shape": [2], "data": [0.25, None]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["negative", ""]},
            {"name": "review_required", "datatype": "BOOL", "shape": [2], "data": [False, True]},
            {"name": "refusal", "datatype": "BYTES", "shape": [2], "data": ["", "not_dicom"]},
            {
                "name": "embedding",
                "datatype": "FP32",
                "shape": [2, 3],
                "data": [1.0, 2.0, 3.0, None, None, None],
            },
        ],
    }


def test_binary_outputs_follow_the_json_in_order():
    outputs = (Output("review_required", True), Output("label"), Output("refusal", True))
    content, length = write_rest(ANSWER, outputs, HEAD)
    written = json.loads(content[:length])["outputs"]
    assert [each.get("parameters") for each in written] == [
        {"binary_data_size": 2},
        None,
        {"binary_data_size": 17},
    ]
    assert content[length:] == b"\x00\x01" + b"\0\0\0\0" + b"\x09\0\0\0not_dicom"


def test_raw_is_little_endian_and_rows_follow_each_other():
    assert raw(ANSWER, "probability")[:4] == b"\x00\x00\x80\x3e"  # 0.25
    assert np.frombuffer(raw(ANSWER, "embedding"), "<f4")[:3].tolist() == [1.0, 2.0, 3.0]
    assert raw(ANSWER, "label") == b"\x08\0\0\0negative\0\0\0\0"
    assert (shape(ANSWER, "embedding"), shape(ANSWER, "label")) == ([2, 3], [2])

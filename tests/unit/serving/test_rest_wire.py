import json
import struct

import pytest

from hounsfield.serving.wire import RequestError, read_byte_elements, read_call, write_byte_elements

SECRET = b"DOE^JANE\xff\xfe"


def body(*inputs, tail=b"", **rest):
    head = json.dumps({"inputs": list(inputs), **rest}).encode()
    return head + tail, str(len(head))


def binary(size, name="dicom"):
    return {"name": name, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}


def test_json_values_are_read_as_they_stand():
    content, _ = body({"name": "image", "datatype": "FP32", "shape": [2], "data": [0.5, 1]}, id="7")
    call = read_call(content, None)
    assert call.id == "7"
    assert call.tensors[0].values == [0.5, 1]
    assert call.tensors[0].raw is None


def test_binary_tensors_follow_the_json_in_order():
    content, length = body(binary(3), binary(2, "other"), tail=b"abcde")
    first, second = read_call(content, length).tensors
    assert bytes(first.raw) == b"abc"
    assert bytes(second.raw) == b"de"


def test_byte_elements_round_trip():
    elements = [b"", b"\x00\xff", SECRET]
    assert read_byte_elements(write_byte_elements(elements), "dicom") == elements
    assert write_byte_elements([b"ab"]) == b"\x02\x00\x00\x00ab"


def test_requested_outputs_keep_their_parameters():
    content, _ = body(
        {"name": "image", "datatype": "FP32", "shape": [1], "data": [1]},
        outputs=[{"name": "probability", "parameters": {"binary_data": True}}],
    )
    assert read_call(content, None).outputs == (("probability", {"binary_data": True}),)


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"{" + SECRET, None),
        (b"[1]", None),
        (b"{}", None),
        (b'{"inputs": []}', None),
        (b'{"inputs": [3]}', None),
        (b'{"inputs": [{"name": 3, "datatype": "FP32", "shape": [1], "data": [1]}]}', None),
        (b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [-1], "data": [1]}]}', None),
        (b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [true], "data": [1]}]}', None),
        (b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": null}]}', None),
        (b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1]}]}', None),
        (b'{"id": 3, "inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [1]}]}', None),
        (*body(binary(3), tail=b"ab"),),
        (*body(binary(3), tail=b"abcd"),),
        (*body(binary(-1), tail=b"abcd"),),
        (body(binary(2), tail=b"ab")[0], "99999"),
        (body(binary(2), tail=b"ab")[0], "-1"),
        (body(binary(2), tail=b"ab")[0], "ten"),
    ],
)
def test_a_broken_body_is_the_clients_fault_and_never_quoted(content, length):
    with pytest.raises(RequestError) as broken:
        read_call(content, length)
    assert broken.value.status == 400
    assert "DOE" not in str(broken.value)
    assert broken.value.__cause__ is None


@pytest.mark.parametrize("raw", [b"\x01", struct.pack("<I", 10) + SECRET[:4], struct.pack("<I", 2**32 - 1)])
def test_a_cut_byte_tensor_is_refused_without_quoting_it(raw):
    with pytest.raises(RequestError) as broken:
        read_byte_elements(raw, "dicom")
    assert "DOE" not in str(broken.value)


def test_two_inputs_of_one_name_are_refused():
    item = {"name": "image", "datatype": "FP32", "shape": [1], "data": [0.5]}
    with pytest.raises(RequestError, match="two tensors of one name"):
        read_call(body(item, item)[0], None)

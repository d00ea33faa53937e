import base64

import numpy as np
import pytest

from hounsfield.serving.contract import MAX_INSTANCES, read_instances
from hounsfield.serving.wire import RequestError, Tensor, write_byte_elements

FILE = b"\x00DICM\xff" * 9
PLAIN = np.linspace(0, 1, 2 * 16, dtype=np.float32).reshape(2, 1, 4, 4)


def tensor(name="image", datatype="FP32", shape=(2, 1, 4, 4), **rest):
    return Tensor(name, datatype, shape, **rest)


@pytest.mark.parametrize(
    "door",
    [
        {"values": [base64.b64encode(FILE).decode(), ""]},  # JSON
        {"values": [FILE, b""]},  # gRPC bytes_contents
        {"raw": write_byte_elements([FILE, b""])},  # binary extension, raw_input_contents
    ],
)
def test_the_same_file_comes_through_every_door(door):
    instances = read_instances([tensor("dicom", "BYTES", (2,), **door)], 4)
    assert instances.files == (FILE, b"")
    assert len(instances) == 2


@pytest.mark.parametrize(
    "door", [{"values": PLAIN.tolist()}, {"values": PLAIN.ravel().tolist()}, {"raw": PLAIN.tobytes()}]
)
def test_the_same_image_comes_through_every_door(door):
    images = read_instances([tensor(**door)], 4).images
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, PLAIN)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ([], "exactly one input"),
        ([tensor(values=[]), tensor(values=[])], "exactly one input"),
        ([tensor("DOE^JANE", values=[])], "no input of that name"),
        ([tensor(datatype="FP64", values=[])], "must be FP32"),
        ([tensor("dicom", "FP32", (1,), values=[])], "must be BYTES"),
        ([tensor(shape=(2, 16), values=[])], "4 dimensions"),
        ([tensor(shape=(2, 1, 4, 5), raw=b"")], r"\[N, 1, 4, 4\]"),
        ([tensor(shape=(0, 1, 4, 4), raw=b"")], "1 to 256"),
        ([tensor(shape=(MAX_INSTANCES + 1, 1, 4, 4), raw=b"")], "1 to 256"),
        ([tensor(shape=(-1, 1, 4, 4), raw=b"")], "from 0 up"),
        ([tensor(raw=b"123")], "needs 128 bytes"),
        ([tensor(values=[0.0])], "says 32 values"),
        ([tensor(values=["DOE"] * 32)], "not an array of numbers"),
        ([tensor(values=["0.5"] * 32)], "not an array of numbers"),
        ([tensor(values=[None] * 32)], "not an array of numbers"),
        ([tensor(values=[True] * 32)], "not an array of numbers"),
        ([tensor(values=[1e300] * 32)], "instance 0 has values outside"),
        ([tensor(values=[[0.5]] * 32)], "nested in another shape"),
        ([tensor(values=[[0], [0, 1]])], "not an array of numbers"),
        ([tensor(raw=(PLAIN * 2).tobytes())], "instance 1 has values outside"),
        ([tensor(raw=np.full_like(PLAIN, np.nan).tobytes())], "instance 0 has values outside"),
        ([tensor("dicom", "BYTES", (1,), values=["DOE^JANE"])], "element 0 is not a base64"),
        ([tensor("dicom", "BYTES", (1,), values=[7])], "element 0 is not a base64"),
        ([tensor("dicom", "BYTES", (3,), values=["", ""])], "says 3 elements"),
        ([tensor("dicom", "BYTES", (1,), values=[""], parameters={"content_type": "str"})], "base64"),
    ],
)
def test_what_breaks_the_contract_is_named_and_never_quoted(broken, words):
    with pytest.raises(RequestError, match=words) as error:
        read_instances(broken, 4)
    assert "DOE" not in str(error.value)

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hounsfield.package.engine import Engine, EngineError


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """logit = log(mean of the image), embedding = the four pixels: a black image has no finite logit."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Log", ["mean"], ["logit"]),
        helper.make_node("Flatten", ["image"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 2, 2])],
        [
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4]),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])],
    )
    path = tmp_path_factory.mktemp("engine") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return Engine(path)


def test_one_logit_and_one_embedding_an_image(engine):
    images = np.array([[[[0.5, 0.5], [0.5, 0.5]]], [[[1, 1], [1, 1]]]], dtype=np.float32)
    logit, embedding = engine.run(images)
    np.testing.assert_allclose(logit, [np.log(0.5), 0.0], atol=1e-6)
    assert embedding.tolist() == [[0.5] * 4, [1.0] * 4]


def test_a_number_that_is_not_finite_is_an_error_and_never_an_answer(engine):
    with pytest.raises(EngineError, match="finite"):
        engine.run(np.zeros((1, 1, 2, 2), dtype=np.float32))

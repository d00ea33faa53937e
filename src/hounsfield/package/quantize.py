"""INT8 from the fp32 ONNX: static quantization in QDQ form, its ranges taken from training images."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hounsfield.errors import PackageError

CALIBRATION_IMAGES = 64


def quantize(model: Path, images: np.ndarray, out: Path, runtime: str) -> int:
    """Write `out`, the INT8 form of `model` that `runtime` is fastest with; return how many layers are INT8.

    `images` is float32 (N, 1, size, size); the first CALIBRATION_IMAGES set the range of each activation.
    Only convolutions are quantized, a scale a channel of their weights. Three kinds stay fp32: depthwise
    ones, whose few weights a channel lose most, the first, which reads the image, and what makes the logit.
    For ONNX Runtime the outputs are quantized too, so that it need not go back to fp32; OpenVINO fuses what
    lies between convolutions into them only if their inputs alone are. Raises PackageError when there is
    nothing to quantize.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="quantize-") as work, _quiet():
        folded = Path(work) / "folded.onnx"
        # Batch normalization is folded into its convolution before ranges are taken.
        quant_pre_process(str(model), str(folded), skip_symbolic_shape=True)
        convolutions = [node for node in onnx.load(folded).graph.node if node.op_type == "Conv"]
        kept = {node.name for node in convolutions[:1]} | {
            node.name for node in convolutions if _groups(node) > 1
        }
        if len(kept) == len(convolutions):
            raise PackageError(f"{Path(model).name} holds no convolution that could be INT8")
        quantize_static(
            str(folded),
            str(out),
            _reader(images[:CALIBRATION_IMAGES]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=sorted(kept),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Conv"] if runtime == "openvino" else [],
            },
        )
    return len(convolutions) - len(kept)


def _groups(node) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _reader(images: np.ndarray):
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = ({"image": np.ascontiguousarray(image[np.newaxis])} for image in images)

        def get_next(self):
            return next(self._feeds, None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer speaks through the root logger: advice on a preprocessing that is done here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)

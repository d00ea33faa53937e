"""An MLServer runtime for the model; `model-settings.json` names the ONNX file in `parameters.uri`."""

import os

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

OUTPUTS = os.environ.get("BENCH_OUTPUTS", "logit").split(",")


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        found = self.session.run(OUTPUTS, {"image": image})
        outputs = [
            NumpyCodec.encode_output(name, values) for name, values in zip(OUTPUTS, found, strict=True)
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

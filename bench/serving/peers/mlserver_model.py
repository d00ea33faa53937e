"""An MLServer runtime for the model; `model-settings.json` names the ONNX file in `parameters.uri`."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        (logit,) = self.session.run(["logit"], {"image": image})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logit", logit)])

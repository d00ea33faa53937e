"""Stock KServe: the SDK's ModelServer, nothing tuned; predicts where its examples do, on the event loop."""

import argparse
import os

import kserve
import onnxruntime

OUTPUTS = os.environ.get("BENCH_OUTPUTS", "logit").split(",")


class Stock(kserve.Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.ready = True

    def get_input_types(self) -> list[dict]:
        return [{"name": "image", "datatype": "FP32", "shape": [-1, *self.session.get_inputs()[0].shape[1:]]}]

    def get_output_types(self) -> list[dict]:
        return [{"name": name, "datatype": "FP32", "shape": [-1]} for name in OUTPUTS]

    async def predict(self, payload, headers=None, response_headers=None):
        image = payload.inputs[0].as_numpy()
        found = self.session.run(OUTPUTS, {"image": image})
        outputs = [
            kserve.InferOutput(name, list(values.shape), "FP32", data=values.ravel().tolist())
            for name, values in zip(OUTPUTS, found, strict=True)
        ]
        return kserve.InferResponse(
            payload.id or "1",
            self.name,
            outputs,
            requested_outputs=payload.request_outputs,
            use_binary_outputs=payload.use_binary_outputs,
        )


if __name__ == "__main__":
    # ModelServer takes its ports from its own arguments, --http_port and --grpc_port.
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--onnx", required=True)
    arguments, _ = parser.parse_known_args()
    kserve.ModelServer().start([Stock("opacity", arguments.onnx)])

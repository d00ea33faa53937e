"""Stock KServe: the SDK's ModelServer, nothing tuned; predicts where its examples do, on the event loop."""

import argparse

import kserve
import onnxruntime


class Stock(kserve.Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        image = payload.inputs[0].as_numpy()
        (logit,) = self.session.run(["logit"], {"image": image})
        output = kserve.InferOutput("logit", list(logit.shape), "FP32")
        output.set_data_from_numpy(logit, binary_data=False)
        return kserve.InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    # ModelServer takes its ports from its own arguments, --http_port and --grpc_port.
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--onnx", required=True)
    arguments, _ = parser.parse_known_args()
    kserve.ModelServer().start([Stock("opacity", arguments.onnx)])

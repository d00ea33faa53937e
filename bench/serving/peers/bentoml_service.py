"""A BentoML service for the model: JSON by its own numpy type, binary by its own file upload."""

import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 60})
class Opacity:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_ONNX"], options)

    @bentoml.api
    def predict(self, image: np.ndarray) -> np.ndarray:
        return self.session.run(["logit"], {"image": image.astype(np.float32)})[0]

    @bentoml.api
    def predict_file(self, image: Path) -> np.ndarray:
        pixels = np.fromfile(image, np.float32).reshape(-1, 1, 224, 224)
        return self.session.run(["logit"], {"image": pixels})[0]

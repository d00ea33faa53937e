"""The model itself: an ONNX Runtime session and the calibrated reading of its logit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hounsfield.errors import HounsfieldError


class EngineError(HounsfieldError):
    """The model gave no usable answer: the server's fault, never an answer."""


class Engine:
    """Runs `model.onnx`; safe to call from several threads at once.

    `threads` is what one run may use. On a CPU one thread a run and one run a core beat one run on all cores.
    """

    def __init__(self, model: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=onnxruntime.get_available_providers()
        )
        self.embedding_size: int = self._session.get_outputs()[1].shape[1]

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 (N, 1, size, size) in [0, 1] to logits (N,) and embeddings (N, E), both float32.

        Raises EngineError when any value is not finite.
        """
        logit, embedding = self._session.run(("logit", "embedding"), {"image": images})
        if logit.shape != (len(images),) or not (np.isfinite(logit).all() and np.isfinite(embedding).all()):
            raise EngineError("the model's output is not one finite number an image")
        return logit, embedding


def calibrate(logit: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of the positive class, float32 (N,): the sigmoid of the logit over the temperature."""
    scaled = logit.astype(np.float64) / temperature
    # By way of tanh: the plain form overflows for large negative logits.
    return (0.5 * (1.0 + np.tanh(0.5 * scaled))).astype(np.float32)

"""The model itself: ONNX Runtime or OpenVINO behind one `run`, and the calibrated reading of its logit.

Requests are the parallelism, one a core, so no run uses a second thread. Which engine a package runs on was
measured when it was packaged (`choose`); where that engine is missing, or the CPU cannot do its arithmetic,
the same network runs as the fp32 ONNX that every package carries.
"""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hounsfield.errors import HounsfieldError
from hounsfield.package.choice import EngineChoice
from hounsfield.package.cpu import unsupported

if TYPE_CHECKING:
    from hounsfield.package.package import Package

log = logging.getLogger("hounsfield.engine")

Infer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

GPU_PROVIDERS = ("CUDAExecutionProvider", "ROCMExecutionProvider")
GPU_BATCH = 16


class EngineError(HounsfieldError):
    """The model gave no usable answer: the server's fault, never an answer."""


class Engine:
    """Runs the network of one file; safe to call from several threads at once.

    `threads` is how many callers there may be; each run has one thread. `max_batch` is how many images are
    worth running together: 1 on a CPU, where a batch gains nothing and only costs memory.
    """

    def __init__(self, model: Path, threads: int = 1, choice: EngineChoice | None = None) -> None:
        """Open `model` as `choice` says; fp32 in ONNX Runtime by default. Raises EngineError."""
        self.choice = choice or EngineChoice()
        open_runtime = _openvino if self.choice.runtime == "openvino" else _onnxruntime
        try:
            self._infer, self.embedding_size, self.max_batch = open_runtime(
                Path(model), threads, self.choice.precision
            )
        except Exception as error:
            # Both libraries raise their own kinds, down to RuntimeError; the first line says what was wrong.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineError(f"{Path(model).name} does not open in {self.choice.title}: {reason}") from error

    @classmethod
    def open(cls, package: Package, threads: int = 1) -> Engine:
        """The engine that `package` chose; where that cannot run, its fp32 ONNX and a logged sentence."""
        choice = package.model.engine
        reason = _why_not(choice)
        if reason is None:
            try:
                return cls(package.path / choice.file, threads, choice)
            except EngineError as error:
                if choice == EngineChoice():
                    raise
                reason = str(error)
        log.warning("serving in ONNX Runtime fp32 instead of %s: %s", choice.title, reason)
        return cls(package.onnx, threads)

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 (N, 1, size, size) in [0, 1] to logits (N,) and embeddings (N, E), both float32.

        Runs at most `max_batch` images at a time. Raises EngineError when any value is not finite.
        """
        logit = np.empty(len(images), dtype=np.float32)
        embedding = np.empty((len(images), self.embedding_size), dtype=np.float32)
        for start in range(0, len(images), self.max_batch):
            rows = slice(start, start + self.max_batch)
            part = np.ascontiguousarray(images[rows], dtype=np.float32)
            part_logit, part_embedding = self._infer(part)
            if part_logit.shape != (len(part),) or part_embedding.shape != (len(part), self.embedding_size):
                raise EngineError("the model's output is not one logit and one embedding an image")
            logit[rows], embedding[rows] = part_logit, part_embedding
        if not (np.isfinite(logit).all() and np.isfinite(embedding).all()):
            raise EngineError("the model's output is not one finite number an image")
        return logit, embedding


def calibrate(logit: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of the positive class, float32 (N,): the sigmoid of the logit over the temperature."""
    scaled = logit.astype(np.float64) / temperature
    # By way of tanh: the plain form overflows for large negative logits.
    return (0.5 * (1.0 + np.tanh(0.5 * scaled))).astype(np.float32)


def _why_not(choice: EngineChoice) -> str | None:
    """Why this machine should not run `choice`, or None."""
    if choice == EngineChoice():
        return None
    if provider := _gpu_provider():
        return f"ONNX Runtime offers {provider}, and the choice was measured on a CPU"
    return unsupported(choice.precision)


def _gpu_provider() -> str | None:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return next((provider for provider in GPU_PROVIDERS if provider in available), None)


def _onnxruntime(model: Path, threads: int, precision: str) -> tuple[Infer, int, int]:
    # `threads` and `precision` are the file's and the callers' affair: a session is safe to share.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    provider = _gpu_provider()
    providers = [provider, "CPUExecutionProvider"] if provider else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(model), options, providers=providers)

    def infer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logit, embedding = session.run(("logit", "embedding"), {"image": images})
        return logit, embedding

    return infer, session.get_outputs()[1].shape[1], GPU_BATCH if provider else 1


def _openvino(model: Path, threads: int, precision: str) -> tuple[Infer, int, int]:
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    # A fixed shape is worth an eighth of the time; several images are several runs.
    shape = network.input("image").partial_shape
    network.reshape({"image": [1, *(int(side.get_length()) for side in list(shape)[1:])]})
    compiled = core.compile_model(
        network,
        "CPU",
        {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            # Streams bound to cores double the rate of two callers, measured. Where the process may use more
            # cores than it has streams (a container with a CPU quota), every pod would take the same ones.
            "ENABLE_CPU_PINNING": len(os.sched_getaffinity(0)) <= threads,
            # Left to itself it takes bf16 wherever the CPU has it, whatever the package was judged with.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        },
    )
    # A request is used by one thread at a time, and one more caller than requests waits its turn.
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(threads):
        idle.put(compiled.create_infer_request())
    logit_port, embedding_port = compiled.output("logit"), compiled.output("embedding")

    def infer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        request = idle.get()
        try:
            # The image is read in place; the results are copies, for the request is soon another caller's.
            results = request.infer({"image": images}, share_inputs=True)
            return results[logit_port], results[embedding_port]
        finally:
            idle.put(request)

    # OpenVINO's binding looks NumPy up at its first conversion, under a lock that it takes beside the GIL:
    # two threads at once may wait for each other for ever. So this one is first, before there is another.
    infer(np.zeros(tuple(network.input("image").shape), dtype=np.float32))
    return infer, compiled.output("embedding").partial_shape[1].get_length(), 1

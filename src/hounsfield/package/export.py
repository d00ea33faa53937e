"""From a trained network to ONNX, proved equal before it may be shipped."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hounsfield.errors import PackageError

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
TOLERANCE = 1e-4


def export_onnx(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write `network` to `path`: `image` float32 (N, *shape) to `logit` (N,), `embedding` (N, E).

    `shape` is that of one prepared image or volume, channel first: `ImageContract.shape`.
    """
    import onnx
    import torch

    # Two images, so that the exporter cannot take the batch for a constant 1.
    example = torch.zeros(2, *shape)
    with _quiet_exporter():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=["image"],
            output_names=["logit", "embedding"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def largest_difference(network: nn.Module, engine_run, images: np.ndarray, batch: int = 32) -> float:
    """How far ONNX is from PyTorch over `images`, float32 (N, 1, size, size).

    The largest |difference| of any logit or embedding value, relative to the value where it exceeds 1.
    `engine_run(images) -> (logit, embedding)` is the served engine's.
    """
    import torch

    worst = 0.0
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            part = np.ascontiguousarray(images[start : start + batch])
            expected = [output.numpy() for output in network(torch.from_numpy(part))]
            for ours, theirs in zip(engine_run(part), expected, strict=True):
                if ours.shape != theirs.shape:
                    raise PackageError(
                        f"ONNX answers shape {ours.shape} where PyTorch answers {theirs.shape}"
                    )
                worst = max(worst, float(np.max(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs)))))
    return worst


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of torchvision, which is not used here, and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(model) -> None:
    """Drop the exporter's notes: they hold paths of this machine, and would change the digest on another."""
    del model.metadata_props[:]
    model.doc_string = ""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        del graph.metadata_props[:]
        graph.doc_string = ""
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in (*getattr(graph, "value_info", ()), *getattr(model.graph, "initializer", ())):
            del value.metadata_props[:]
            value.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.doc_string = ""

"""A small served model without a server: what several tests of the serving package build on."""

from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np

from hounsfield.serving.computing import Computer, Task
from hounsfield.serving.contract import Caller, Question
from hounsfield.serving.decoding import Decoded
from hounsfield.serving.metrics import Metrics
from hounsfield.serving.wire import Tensor

LABELS = {"model_name": "opacity", "model_version": "3"}
MODEL = {**LABELS, "package_digest": "p" * 64, "contract_digest": "c" * 64}
HEADER = {"patient_sex": "F", "age_years": 44.0, "view_position": "PA", "manufacturer": "Acme"}
GROUPS = ("F", "40-59", "PA", "Acme")
PACKAGE = SimpleNamespace(
    model=SimpleNamespace(temperature=2.0, threshold=0.6, review_band=(0.5, 0.7)),
    contract=SimpleNamespace(size_px=2),
)


class MeanEngine:
    """The logit is ten times the mean of the image, minus five; the embedding is the mean, twice."""

    embedding_size = 2

    def __init__(self):
        self.batches = []

    def run(self, images):
        self.batches.append(len(images))
        mean = images.mean(axis=(1, 2, 3))
        return (10 * mean - 5).astype(np.float32), np.stack([mean, mean], axis=1).astype(np.float32)


class KeptLog:
    """Keeps records in memory; `error` is what the disk does."""

    def __init__(self, error=None):
        self.records, self.error = [], error

    def append(self, records):
        future = Future()
        if self.error is None:
            self.records.extend(records)
            future.set_result(None)
        else:
            future.set_exception(self.error)
        return future


def decode(source):
    """`b"0.5"` is an image of that grey, `b"bad"` one without pixels."""
    if source == b"bad":
        return Decoded(None, "no_pixel_data", HEADER)
    return Decoded(np.full((1, 2, 2), float(source), dtype=np.float32), "", HEADER)


def computer(registry, engine=None, log=None, **options):
    return Computer(
        PACKAGE,
        engine or MeanEngine(),
        decode,
        Metrics(**LABELS, registry=registry),
        model=MODEL,
        manufacturers=("Acme",),
        log=log,
        **options,
    )


def files(*sources, request_id="r1", **who):
    """The question about these files."""
    tensor = Tensor("dicom", "BYTES", (len(sources),), values=list(sources))
    return Question((tensor,), Caller(request_id, **who))


def images(*greys, request_id="r1", **who):
    """The question about prepared images of these greys."""
    raw = np.repeat(np.float32(greys), 4).tobytes()
    tensor = Tensor("image", "FP32", (len(greys), 1, 2, 2), raw=raw)
    return Question((tensor,), Caller(request_id, **who))


def task(question):
    return Task(question, arrived_s=0.0)

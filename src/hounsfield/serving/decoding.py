"""From the bytes of one DICOM file to the network's input, in a worker process where a decoder may crash."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from hounsfield.dicom.reading import is_compressed, read_image
from hounsfield.imaging.contract import ImageContract, prepare


def decode(source: bytes, contract: ImageContract) -> np.ndarray:
    """The prepared image, float32 (1, size, size) in [0, 1]. Raises Refused."""
    return prepare(read_image(source), contract)


def decoder(contract: ImageContract, sandbox_call: Callable) -> Callable[[bytes], np.ndarray]:
    """A function that prepares one file; compressed ones by `sandbox_call(function, item)`.

    Native decoders may abort the process on a damaged file. Uncompressed pixels are only reshaped, which is
    safe, and sending them to another process would cost more than that.
    """
    work = functools.partial(decode, contract=contract)

    def run(source: bytes) -> np.ndarray:
        return sandbox_call(work, source) if is_compressed(source) else work(source)

    return run

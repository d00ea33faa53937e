"""From the bytes of one DICOM file to the network's input, in a worker process where a decoder may crash."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hounsfield.dicom.parsing import is_compressed, load, parse
from hounsfield.dicom.quarantine import Refused
from hounsfield.dicom.reading import decode_image, describe
from hounsfield.imaging.contract import ImageContract, prepare


@dataclass(frozen=True)
class Decoded:
    """One file: its `image`, float32 (1, size, size) in [0, 1], or None and the reason code `refusal`.

    `attributes` are the header's columns of `reading.describe`, empty where no header could be read.
    """

    image: np.ndarray | None
    refusal: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict)


def decode(source: bytes, contract: ImageContract) -> Decoded:
    """Read and prepare one file; a file that cannot be taken is an answer too."""
    dataset = None
    try:
        dataset = parse(load(source))
        image = decode_image(dataset)
        return Decoded(prepare(image, contract), attributes=image.attributes)
    except Refused as error:
        # Who was refused is worth counting: a scanner whose every image is refused is a finding.
        attributes = {} if dataset is None else describe(dataset)
        return Decoded(None, str(error.reason), attributes)


def decoder(contract: ImageContract, sandbox_call: Callable) -> Callable[[bytes], Decoded]:
    """A function that prepares one file; compressed ones by `sandbox_call(function, item)`.

    Native decoders may abort the process on a damaged file. Uncompressed pixels are only reshaped, which is
    safe, and sending them to another process would cost more than that.
    """
    work = functools.partial(decode, contract=contract)

    def run(source: bytes) -> Decoded:
        if not is_compressed(source):
            return work(source)
        try:
            return sandbox_call(work, source)
        except Refused as error:  # the worker died or hung
            return Decoded(None, str(error.reason))

    return run

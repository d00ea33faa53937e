"""`python -m tests.fuzz dicom`: the bytes of a file, to a decoded image.

Whatever comes, only Refused may be raised, and it must not quote the file. What may run a native decoder does
so in the sandbox, where its crash is one more refusal; all else runs in the fuzzer, where a crash is found.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from bench.serving.protocol import MARKER
from hounsfield.dicom.parsing import is_compressed, parse
from hounsfield.dicom.quarantine import Refused
from hounsfield.dicom.reading import read_image
from hounsfield.dicom.sandbox import Sandbox
from tests.fuzz.corpus import dicom_seeds

seeds = dicom_seeds
WORDS = (
    *("DICM", "SQ", "OW", "OB", "US", "UI", "UN", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"),
    *(r"\xfe\xff\x00\xe0", r"\xff\xff\xff\xff", r"\x28\x00\x10\x00", r"\xe0\x7f\x10\x00"),
)


@contextlib.contextmanager
def target() -> Iterator[Callable[[bytes], None]]:
    """The function to be called with each input."""
    with Sandbox(1) as sandbox:
        yield functools.partial(one, sandbox)


def one(sandbox: Sandbox, data: bytes) -> None:
    """One file."""
    try:
        if is_compressed(data):
            with contextlib.suppress(Refused):
                parse(data)
            image = sandbox.call(read_image, data)
        else:
            image = read_image(data)
        said = str(image.attributes)
        assert image.pixels.ndim == 2
    except Refused as refused:
        said = str(refused)
    assert MARKER not in said

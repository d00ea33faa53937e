"""What a machine that is too small says in the middle of a run, as a sentence that a person can act on."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import torch

from hounsfield.errors import PlatformError, TrainingError

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than the limit of this process",
}

_NO_MEMORY = ("can't allocate memory", "not enough memory", "could not create a primitive")
"""PyTorch's words, by who could not get it: its allocator, the same on another system, oneDNN."""


@contextlib.contextmanager
def as_sentences(batch_size: int, shape: tuple[int, ...]) -> Iterator[None]:
    """Turn lack of memory into TrainingError and lack of space into PlatformError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(batch_size, shape) from error
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_MEMORY):
            raise _out_of_memory(batch_size, shape) from error
        raise
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise PlatformError(
            f"training cannot write its checkpoint or model: {_FULL[error.errno]}; make room and start it "
            "again, it goes on from the last checkpoint that is whole"
        ) from error


def _out_of_memory(batch_size: int, shape: tuple[int, ...]) -> TrainingError:
    size = " x ".join(map(str, shape))
    return TrainingError(
        f"out of memory with batch_size {batch_size} of images {size}: lower batch_size, or the images' size"
    )

"""Where an interrupted run goes on from: one file, replaced as a whole, that says whose it is."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hounsfield.errors import TrainingError
from hounsfield.training.whole_file import join, read_whole, write_whole

FILE = "last.ckpt"
FORMAT = 1


def folder_of(place: str | os.PathLike, identity: Mapping[str, Any]) -> str:
    """The folder below `place` of the run that `identity` describes.

    Two runs share it only when they would end at the same weights, so that runs with other parameters or
    data may use one `place`.
    """
    name = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
    return join(place, name)


def save(place: str, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `place` (a path, or a URL such as s3://bucket/run/last.ckpt)."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": dict(identity), **state}, buffer)
    write_whole(place, buffer.getvalue())


def load(place: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state kept at `place`, on the CPU; None where there is no checkpoint.

    Raises TrainingError for a file that is no checkpoint, and for one of a run that `identity` does not
    describe, naming what differs.
    """
    data = read_whole(place)
    if data is None:
        return None
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError("of another release")
        found = state["identity"]
    except Exception as error:
        raise TrainingError(
            f"{place} cannot be read as a checkpoint ({type(error).__name__}); "
            f"remove {Path(place).parent if '://' not in place else place} to start over"
        ) from error
    for key in (*identity, *sorted(set(found) - set(identity))):
        if found.get(key) != identity.get(key):
            raise TrainingError(
                f"{place} is a checkpoint of a run with {key} {found.get(key)!r}, and this run has "
                f"{identity.get(key)!r}: give the same, or start without it"
            )
    return state

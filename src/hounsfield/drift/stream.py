"""The inference log's predictions as windows: pure, and as JSON, so that a killed worker goes on exactly."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hounsfield.drift.rows import Rows

TAKEN, SHADOW, REFUSED, REPEATED, UNUSABLE, NO_DETECTORS = OUTCOMES = (
    "taken", "shadow", "refused", "repeated", "unusable", "no_detectors",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """One prediction, as the log has it. `embedding`: base64 of float16; `fields`: None without a header."""

    sha256: str
    embedding: str
    score: float
    fields: dict[str, str] | None
    time: str


@dataclass
class ModelStream:
    """One model's images since its last window, and that window's result."""

    model_name: str
    model_version: str
    images: list[Image] = field(default_factory=list)
    windows: int = 0
    last: dict[str, Any] | None = None

    def add(self, image: Image) -> bool:
        """Take the image, unless this window has it: the same picture again says nothing about drift, and
        the tests take the images for independent."""
        if any(known.sha256 == image.sha256 for known in self.images):
            return False
        self.images.append(image)
        return True

    def rows(self) -> Rows:
        """The window's images; fields of those that have them."""
        with_fields = [image.fields for image in self.images if image.fields is not None]
        names = sorted({name for fields in with_fields for name in fields})
        return Rows(
            embedding=np.stack([decode_embedding(image.embedding) for image in self.images]),
            score=np.array([image.score for image in self.images], dtype=np.float32),
            fields={name: tuple(fields.get(name, "") for fields in with_fields) for name in names},
        )

    def close_window(self, last: dict[str, Any] | None) -> None:
        """Begin the next window; `last` is the result of the one that ends, None when it had none."""
        self.images.clear()
        if last is not None:
            self.windows += 1
            self.last = last

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelStream:
        return cls(**{**values, "images": [Image(**image) for image in values["images"]]})


def read_prediction(record: Mapping[str, Any]) -> Image | str | None:
    """The image of a record that counts; why it does not (one of OUTCOMES); None for another kind of record.

    A mirrored request (shadow) is no part of what clinicians are answered, and a refused one has no answer.
    """
    if record.get("kind") != "prediction":
        return None
    if record.get("shadow"):
        return SHADOW
    if record.get("refusal"):
        return REFUSED
    score, embedding, fields = record.get("probability"), record.get("embedding"), record.get("subgroups")
    if (
        not isinstance(score, float | int)
        or not isinstance(embedding, str)
        or decode_embedding(embedding) is None
    ):
        return UNUSABLE
    return Image(
        sha256=str(record.get("input_sha256")),
        embedding=embedding,
        score=float(score),
        fields=dict(fields) if record.get("input_kind") == "dicom" and isinstance(fields, Mapping) else None,
        time=str(record.get("time")),
    )


def decode_embedding(text: str) -> np.ndarray | None:
    """float32 (E,) of base64 of little-endian float16; None when it is not, or not finite."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float32)
    except (binascii.Error, ValueError):
        return None
    return values if len(values) and np.isfinite(values).all() else None

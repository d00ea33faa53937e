"""What a viewer shows: PS3.3 C.11.2, VOI LUT, from the values after the Modality LUT to [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class Window:
    """Window Center and Width with a VOI LUT Function; the first of several windows."""

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """float32 in [0, 1], shaped as `values`, any integer or float."""
        x = values.astype(np.float64)
        if self.function == "SIGMOID":  # C.11.2.1.3.1
            with np.errstate(over="ignore"):
                return (1 / (1 + np.exp(-4 * (x - self.center) / self.width))).astype(np.float32)
        center, width = self.center, self.width  # C.11.2.1.3.2, LINEAR_EXACT
        if self.function == "LINEAR":  # C.11.2.1.2.1
            center, width = center - 0.5, width - 1
        if width == 0:
            return (x > center).astype(np.float32)
        return np.clip((x - center) / width + 0.5, 0, 1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Table:
    """A VOI LUT: `entries`, float32 in [0, 1]; the first for `first` and below, the last for all above."""

    first: int
    entries: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """float32 in [0, 1], shaped as `values`, any integer or float."""
        position = np.round(values).astype(np.int64) - self.first
        return self.entries[np.clip(position, 0, len(self.entries) - 1)]


def read_voi(dataset: Dataset) -> Window | Table | None:
    """The first VOI LUT of `dataset`, else its first window; None where neither is there and valid."""
    try:
        return _table(dataset) or _window(dataset)
    except Exception:  # pydicom turns bytes into values when they are asked for, and fails then
        return None


def _window(dataset: Dataset) -> Window | None:
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if center is None or width is None or function not in FUNCTIONS:
        return None
    window = Window(float(center), float(width), function)
    # C.11.2.1.2: at least 1 for LINEAR; C.11.2.1.3: above 0 for the others.
    least = 1 if function == "LINEAR" else np.nextafter(0, 1)
    return window if np.isfinite(window.center) and least <= window.width < np.inf else None


def _table(dataset: Dataset) -> Table | None:
    if not dataset.get("VOILUTSequence"):
        return None
    item = dataset.VOILUTSequence[0]
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16  # C.11.2.1.1: 0 stands for 65536, which has no place in 16 bits
    data = item.LUTData
    if isinstance(data, bytes):
        little = "<" if dataset.original_encoding[1] is not False else ">"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{little}u2")
    entries = np.asarray(data)[:count]
    if len(entries) < count or not 8 <= bits <= 16:
        return None
    return Table(first, (entries / (2**bits - 1)).astype(np.float32))


def _first(value: object) -> object:
    return (value[0] if len(value) else None) if isinstance(value, MultiValue | list) else value

"""From a decoded image to the network's input. Training and serving both call `prepare` and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from hounsfield.config import from_mapping
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.errors import ConfigError

if TYPE_CHECKING:
    from hounsfield.dicom.reading import DecodedImage

FILE_NAME = "contract.json"

# One thread: processes (preprocess) and request threads (serving) are the parallelism; two layers thrash.
cv2.setNumThreads(1)


@dataclasses.dataclass(frozen=True)
class ImageContract:
    """Everything that decides the value of an input pixel.

    `size_px` is the side of the square input; the percentiles are of the image's own pixels, in percent.
    `version` names the algorithm of `prepare`: change it whenever the same image would give other values.
    """

    size_px: int = 128
    lower_percentile: float = 0.5
    upper_percentile: float = 99.5
    version: str = "1"

    def __post_init__(self) -> None:
        if (
            isinstance(self.size_px, bool)
            or not isinstance(self.size_px, int)
            or not 8 <= self.size_px <= 4096
        ):
            raise ConfigError(f"{FILE_NAME}: size_px {self.size_px!r} is not a whole number from 8 to 4096")
        if not 0 <= self.lower_percentile < self.upper_percentile <= 100:
            raise ConfigError(
                f"{FILE_NAME}: percentiles {self.lower_percentile!r} and {self.upper_percentile!r} "
                "must rise and lie in 0 to 100"
            )
        if self.version != "1":
            raise ConfigError(
                f"{FILE_NAME}: version {self.version!r} is not '1', the only one that this release computes"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal digests mean equal preprocessing."""
        values = dataclasses.asdict(self)
        values["lower_percentile"] = float(self.lower_percentile)
        values["upper_percentile"] = float(self.upper_percentile)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channel, row, column) of one prepared image."""
        return (1, self.size_px, self.size_px)

    def save(self, folder: Path) -> Path:
        """Write `contract.json` into `folder`."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> ImageContract:
        """Read a `contract.json`, given itself or its folder. Raises ConfigError."""
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(f"{FILE_NAME} is missing in {path.parent}: run preprocess first") from None
        except ValueError:
            raise ConfigError(f"{path.name} in {path.parent} is not JSON") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path.name} in {path.parent} is not a JSON object")
        return from_mapping(cls, values, path.name)


def prepare(image: DecodedImage, contract: ImageContract) -> np.ndarray:
    """The network's input for one image.

    Returns float32 (1, size, size): channel, row, column, in [0, 1]; 0 is dark (air), 1 is bright (bone).
    The image keeps its aspect ratio, centred on a black square. Raises Refused(CONSTANT_IMAGE) when the
    percentiles coincide, for then there is no contrast to scale.
    """
    percentiles = (contract.lower_percentile, contract.upper_percentile)
    inverted = image.photometric_interpretation == "MONOCHROME1"
    if inverted:
        # PS3.3 C.7.6.3.1.2: in MONOCHROME1 the lowest value is white, so the percentiles count from the top.
        percentiles = (100.0 - contract.upper_percentile, 100.0 - contract.lower_percentile)
    lower, upper = _percentiles(image.pixels, percentiles)
    if not upper > lower:  # also when either is not a number
        raise Refused(Reason.CONSTANT_IMAGE, "the image has no contrast between its percentiles")
    # In place: a detector's image has millions of pixels, and each copy costs as much as the arithmetic.
    scaled = image.pixels.astype(np.float32)
    scaled -= np.float32(upper if inverted else lower)
    scaled *= np.float32((-1.0 if inverted else 1.0) / (upper - lower))
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return _fit_square(scaled, contract.size_px)[np.newaxis]


def _percentiles(pixels: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Both percentiles of all pixels, interpolated linearly between the neighbouring ranks, as numpy does.

    Pixels of at most 16 bits are counted instead of sorted: the same numbers, several times faster.
    """
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        lower, upper = np.percentile(pixels.astype(np.float64), percentiles)
        return float(lower), float(upper)
    base, counts = _histogram(pixels)
    ranks = np.cumsum(counts)
    found = []
    for percentile in percentiles:
        position = percentile / 100.0 * (pixels.size - 1)
        below, above = np.searchsorted(ranks, (np.floor(position), np.ceil(position)), side="right")
        found.append(float(base + below + (above - below) * (position - np.floor(position))))
    return found[0], found[1]


def _histogram(pixels: np.ndarray) -> tuple[int, np.ndarray]:
    """The lowest value of the type of `pixels` (8 or 16 bits), and how many pixels have each from there."""
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    levels = 256**native.dtype.itemsize
    base = 0
    if native.dtype.kind == "i":
        # The other sign of the top bit puts the negative values below the positive ones.
        base = -levels // 2
        native = native.view(f"u{native.dtype.itemsize}") ^ (levels // 2)
    # OpenCV's counts are float32, which is exact up to 2**24: no block of rows has more pixels.
    rows = max(1, 2**24 // native.shape[1])
    counts = np.zeros(levels, dtype=np.int64)
    for start in range(0, len(native), rows):
        block = np.ascontiguousarray(native[start : start + rows])
        counts += cv2.calcHist([block], [0], None, [levels], [0, levels]).ravel().astype(np.int64)
    return base, counts


def _fit_square(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """(rows, columns) to (size, size): longest side to `size_px`, area averaging, zero padding, centred."""
    rows, columns = pixels.shape
    scale = size_px / max(rows, columns)
    # Rounded, and never 0: a strip of 1 x 5000 is odd but no reason to fail.
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    square = np.zeros((size_px, size_px), dtype=np.float32)
    top, left = (size_px - height) // 2, (size_px - width) // 2
    # Averaging in float32 may leave [0, 1] by one unit in the last place.
    np.clip(resized, 0.0, 1.0, out=square[top : top + height, left : left + width])
    return square

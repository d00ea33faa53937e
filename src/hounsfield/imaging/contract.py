"""From a decoded image to the network's input. Training and serving both call `prepare` and nothing else.

A contract with a depth is one of volumes, which `prepare_volume` makes of a stack of slices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
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
SCALINGS = ("percentiles", "voi")

_BLOCK_PIXELS = 2**15
"""Of float32: 128 KiB, which stay in a core's own cache."""

# One thread: processes (preprocess) and request threads (serving) are the parallelism; two layers thrash.
cv2.setNumThreads(1)


@dataclasses.dataclass(frozen=True)
class ImageContract:
    """Everything that decides the value of an input pixel.

    `size_px` is the side of the square input and `depth_px` the number of its planes, None for an image of
    one plane; the percentiles are of the image's or the volume's own pixels, in percent.
    `scaling` is `percentiles`, or `voi`: the window or VOI LUT that the sender put into the file of an image.
    `version` names the algorithm of `prepare`: change it whenever the same image would give other values.
    """

    size_px: int = 128
    lower_percentile: float = 0.5
    upper_percentile: float = 99.5
    scaling: str = "percentiles"
    version: str = "1"
    depth_px: int | None = None

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
        if self.depth_px is not None and (
            isinstance(self.depth_px, bool)
            or not isinstance(self.depth_px, int)
            or not 8 <= self.depth_px <= 1024
        ):
            raise ConfigError(f"{FILE_NAME}: depth_px {self.depth_px!r} is not a whole number from 8 to 1024")
        if self.scaling not in SCALINGS:
            raise ConfigError(f"{FILE_NAME}: scaling {self.scaling!r} is not one of {', '.join(SCALINGS)}")
        if self.scaling == "voi" and self.depth_px is not None:
            raise ConfigError(
                f"{FILE_NAME}: scaling 'voi' is for images: the slices of a volume share no window"
            )
        if self.version != "1":
            raise ConfigError(
                f"{FILE_NAME}: version {self.version!r} is not '1', the only one that this release computes"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal digests mean equal preprocessing."""
        values = self._values() | {
            "lower_percentile": float(self.lower_percentile),
            "upper_percentile": float(self.upper_percentile),
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, row, column) of one prepared image, or (channel, plane, row, column) of a volume."""
        depth = () if self.depth_px is None else (self.depth_px,)
        return (1, *depth, self.size_px, self.size_px)

    def save(self, folder: Path) -> Path:
        """Write `contract.json` into `folder`."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(self._values(), indent=2, sort_keys=True) + "\n")
        return path

    def _values(self) -> dict[str, object]:
        """The fields; later ones only where they say something, so that older contracts keep their digest."""
        later = {"depth_px": None, "scaling": "percentiles"}
        values = dataclasses.asdict(self).items()
        return {name: value for name, value in values if name not in later or value != later[name]}

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
    The image keeps its aspect ratio, centred on a black square. Raises Refused: CONSTANT_IMAGE when there is
    no contrast to scale, MISSING_ATTRIBUTE when the contract wants the sender's VOI and the file has none;
    and ConfigError for a contract of volumes.
    """
    if contract.depth_px is not None:
        raise ConfigError(f"{FILE_NAME}: depth_px {contract.depth_px} asks for a volume, not for one image")
    if contract.scaling == "voi":
        scaled = _shown(image)
    else:
        scaled = _scale(image.pixels, image.photometric_interpretation, contract)
    return _fit_square(scaled, contract.size_px)[np.newaxis]


def prepare_volume(slices: Sequence[DecodedImage], contract: ImageContract) -> np.ndarray:
    """The network's input for the slices of one volume, given in their order along the axis.

    Returns float32 (1, depth, size, size): channel, plane, row, column, in [0, 1]. The percentiles are of
    all slices together, so that their brightness stays comparable; planes are averages of the slices that
    they cover, or interpolated where there are fewer slices than planes. Raises Refused as `prepare` does,
    and ConfigError for a contract of images and for slices of different shapes.
    """
    if contract.depth_px is None:
        raise ConfigError(f"{FILE_NAME}: depth_px is missing, and a volume needs it")
    kinds = {(image.pixels.shape, image.photometric_interpretation) for image in slices}
    if len(kinds) != 1:
        raise ConfigError(
            f"a volume needs slices of one shape and photometric interpretation, not {len(kinds)}"
        )
    rows = np.concatenate([image.pixels for image in slices])
    scaled = _scale(rows, slices[0].photometric_interpretation, contract)
    squares = [_fit_square(part, contract.size_px) for part in np.split(scaled, len(slices))]
    planes = cv2.resize(
        np.stack(squares).reshape(len(slices), -1),
        (contract.size_px**2, contract.depth_px),
        interpolation=cv2.INTER_AREA,
    )
    return np.clip(planes, 0.0, 1.0).reshape(contract.shape)


def _shown(image: DecodedImage) -> np.ndarray:
    """(rows, columns) float32 in [0, 1]: the sender's VOI, and MONOCHROME1 inverted after it."""
    if image.voi is None:
        raise Refused(Reason.MISSING_ATTRIBUTE, "the file has no window and no VOI LUT that can be used")
    shown = image.voi.apply(image.pixels)
    if shown.min() == shown.max():
        raise Refused(Reason.CONSTANT_IMAGE, "the image has no contrast within its window")
    return 1 - shown if image.photometric_interpretation == "MONOCHROME1" else shown


def _scale(pixels: np.ndarray, photometric_interpretation: str, contract: ImageContract) -> np.ndarray:
    """`pixels` (rows, columns) as float32 in [0, 1], 0 dark, scaled between the contract's percentiles."""
    percentiles = (contract.lower_percentile, contract.upper_percentile)
    inverted = photometric_interpretation == "MONOCHROME1"
    if inverted:
        # PS3.3 C.7.6.3.1.2: in MONOCHROME1 the lowest value is white, so the percentiles count from the top.
        percentiles = (100.0 - contract.upper_percentile, 100.0 - contract.lower_percentile)
    lower, upper = _percentiles(pixels, percentiles)
    if not upper > lower:  # also when either is not a number
        raise Refused(Reason.CONSTANT_IMAGE, "the image has no contrast between its percentiles")
    offset = np.float32(upper if inverted else lower)
    factor = np.float32((-1.0 if inverted else 1.0) / (upper - lower))
    # A few rows at a time: an image has millions of pixels, and each way of them through memory costs as much
    # as the arithmetic.
    scaled = np.empty(pixels.shape, dtype=np.float32)
    rows = max(1, _BLOCK_PIXELS // pixels.shape[1])
    for start in range(0, len(pixels), rows):
        block = scaled[start : start + rows]
        block[...] = pixels[start : start + rows]
        block -= offset
        block *= factor
        np.clip(block, 0.0, 1.0, out=block)
    return scaled


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

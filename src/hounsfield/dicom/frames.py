"""Objects of many frames: each frame as an object of its own, or a refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import StrEnum

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from hounsfield.dicom.parsing import transfer_syntax
from hounsfield.dicom.quarantine import Reason, Refused

MAX_FRAMES = 10_000

# PS3.3 C.7.6.16.2: the macros that say what the stored values mean, and the elements that they hold.
_MACROS = ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


class Frames(StrEnum):
    """What becomes of an object with more than one frame."""

    REFUSE = "refuse"
    SPLIT = "split"


def split(dataset: Dataset, policy: Frames) -> Iterator[Dataset]:
    """The frames of `dataset` as datasets of one frame; of a single one, the dataset itself.

    A frame's functional groups (PS3.3 C.7.6.16) take their place at the top level, where a single frame has
    its spacing, rescale and window. Its SOP Instance UID is derived from the object's and the frame's number.
    Under REFUSE an object of many frames comes back as it is, and `reading.decode_image` refuses it.
    Raises Refused.
    """
    try:
        count = int(dataset.get("NumberOfFrames") or 1)
    except Exception:
        raise Refused(Reason.MISSING_ATTRIBUTE, "NumberOfFrames is not a number") from None
    if count > MAX_FRAMES:
        raise Refused(Reason.MULTI_FRAME, f"{count} frames are over the limit of {MAX_FRAMES}")
    if count > 1 and policy is Frames.REFUSE:
        yield dataset
        return
    for number in range(max(count, 1)):
        try:
            frame = _frame(dataset, number, count)
        except MemoryError:
            raise Refused(Reason.IMAGE_TOO_LARGE, "the frames do not fit into memory") from None
        except Exception as error:  # pydicom's errors at a malformed element are of many kinds
            raise Refused(
                Reason.DECODE_FAILED, f"{type(error).__name__} while taking frame {number + 1}"
            ) from None
        yield frame


def _frame(dataset: Dataset, number: int, count: int) -> Dataset:
    groups = _functional_groups(dataset, number)
    if count <= 1 and not groups:
        return dataset
    # A slice of all: the elements are shared with `dataset`, so they are replaced below and never changed.
    frame = dataset[:]
    frame.file_meta = dataset.file_meta
    for keyword in (*_GROUPS, "NumberOfFrames", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in frame:
            del frame[keyword]
    for group in groups:
        for element in group:
            frame.add(element)
    if count > 1:
        digest = hashlib.sha256(f"{dataset.SOPInstanceUID} frame {number + 1}".encode()).digest()
        frame.add_new("SOPInstanceUID", "UI", f"2.25.{int.from_bytes(digest[:16])}")
        frame.add_new("PixelData", dataset["PixelData"].VR, _pixels(dataset, number, count))
        frame["PixelData"].is_undefined_length = transfer_syntax(dataset).is_encapsulated
    return frame


def _functional_groups(dataset: Dataset, number: int) -> list[Dataset]:
    """The items of the macros that hold for frame `number`: what all frames share, then the frame's own."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    items = [*shared[:1], *own[number : number + 1]]
    return [group[keyword][0] for group in items for keyword in _MACROS if group.get(keyword)]


def _pixels(dataset: Dataset, number: int, count: int) -> bytes:
    if transfer_syntax(dataset).is_encapsulated:
        offsets = None
        if dataset.get("ExtendedOffsetTable"):
            offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
        return encapsulate(
            [get_frame(dataset.PixelData, number, number_of_frames=count, extended_offsets=offsets)]
        )
    bits = dataset.Rows * dataset.Columns * dataset.get("SamplesPerPixel", 1) * dataset.BitsAllocated
    if bits % 8:
        raise ValueError("a frame does not end with a byte")
    content = bytes(dataset.PixelData[number * bits // 8 : (number + 1) * bits // 8])
    return content + b"\0" * (len(content) % 2)  # PS3.5 8.1.1: an even length

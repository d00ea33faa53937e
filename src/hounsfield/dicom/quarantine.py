"""Why a file was refused: one code a cause, counted by ingest, answered by the server."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A reason code; `meaning` says it in words."""

    NOT_DICOM = "not_dicom"
    TRUNCATED = "truncated"
    NO_PIXEL_DATA = "no_pixel_data"
    SOP_CLASS_NOT_ALLOWED = "sop_class_not_allowed"
    MISSING_ATTRIBUTE = "missing_attribute"
    NOT_MONOCHROME = "not_monochrome"
    MULTI_FRAME = "multi_frame"
    IMAGE_TOO_LARGE = "image_too_large"
    DECODE_FAILED = "decode_failed"
    DECODER_ABORTED = "decoder_aborted"
    DECODE_TIMEOUT = "decode_timeout"
    CONSTANT_IMAGE = "constant_image"
    BURNED_IN_TEXT = "burned_in_text"
    UNREADABLE = "unreadable"
    NO_LABEL = "no_label"
    DUPLICATE = "duplicate"

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    Reason.NOT_DICOM: "The file is not DICOM, or its header cannot be parsed.",
    Reason.TRUNCATED: "The file breaks off before the end of its pixels.",
    Reason.NO_PIXEL_DATA: "The object holds no pixels, for example a report.",
    Reason.SOP_CLASS_NOT_ALLOWED: "The object is of a kind that this model does not take.",
    Reason.MISSING_ATTRIBUTE: "An attribute that is needed to read the image is missing or malformed.",
    Reason.NOT_MONOCHROME: "The image is in colour or of a palette.",
    Reason.MULTI_FRAME: "The object holds more than one frame.",
    Reason.IMAGE_TOO_LARGE: "The file or the image is larger than the limit.",
    Reason.DECODE_FAILED: "The decoder reported an error, or none is installed for the transfer syntax.",
    Reason.DECODER_ABORTED: "The decoder crashed its worker process.",
    Reason.DECODE_TIMEOUT: "The decoder did not come back in time.",
    Reason.CONSTANT_IMAGE: "Every pixel has the same value.",
    Reason.BURNED_IN_TEXT: "The header says that the pixels carry the patient's name or the like.",
    Reason.UNREADABLE: "The operating system could not read the file.",
    Reason.NO_LABEL: "The image is good, but the labels file does not name it.",
    Reason.DUPLICATE: "The same image (SOP Instance UID) was accepted before under another file.",
}


class Refused(Exception):
    """A file is not taken. `detail` is a sentence without patient data: it is logged and answered."""

    def __init__(self, reason: Reason, detail: str) -> None:
        # Both go to Exception's args, so that it survives the pickle from a worker process.
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"

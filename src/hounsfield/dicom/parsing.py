"""The bytes of a DICOM file to pydicom's dataset, bounded: what a hostile file can allocate is known before.

No value of an element leaves this module in a message: those are the patient's.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

# The function with which `dcmread` finds the transfer syntax: a reader of our own could be told another one.
from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from hounsfield.dicom.quarantine import Reason, Refused

MAX_FILE_BYTES = 256 * 2**20
"""Of a file as it comes, and again of what a deflated one inflates to."""

_PLAIN = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
_NATIVE = _PLAIN | {ExplicitVRBigEndian}

PIXEL_DATA, _PADDING = BaseTag(0x7FE00010), BaseTag(0xFFFCFFFC)
# PS3.5 7.1: tag (group, element), VR and two bytes of 0 where it is explicit, and length of PixelData.
EXPLICIT_HEAD, IMPLICIT_HEAD = struct.Struct("<HH2sHL"), struct.Struct("<HHL")

# pydicom warns of a malformed element twice, as a warning and in its log, and quotes the value.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom\.|hounsfield\.dicom\.")


def load(source: bytes | Path) -> bytes:
    """The bytes of a file, refused beyond MAX_FILE_BYTES before they are read."""
    if isinstance(source, bytes | bytearray | memoryview):
        size = len(source)
    else:
        try:
            size = source.stat().st_size
        except OSError as error:
            raise Refused(Reason.UNREADABLE, f"{type(error).__name__} while opening the file") from None
    if size > MAX_FILE_BYTES:
        raise Refused(Reason.IMAGE_TOO_LARGE, f"the file has {size} bytes, the limit is {MAX_FILE_BYTES}")
    if not isinstance(source, Path):
        return bytes(source)
    try:
        return source.read_bytes()
    except OSError as error:
        raise Refused(Reason.UNREADABLE, f"{type(error).__name__} while reading the file") from None


def announce(path: Path) -> None:
    """Let the kernel begin to read a file, so that a cold disk works while others decode; raises Refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise Refused(Reason.UNREADABLE, f"{type(error).__name__} while opening the file") from None
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def parse(data: bytes) -> Dataset:
    """The dataset of a file's bytes; PixelData is empty where the file breaks off within it.

    Uncompressed pixels are a memoryview of `data` where they end it, as they do in nearly every file. Raises
    Refused: NOT_DICOM when nothing that looks like DICOM is found, IMAGE_TOO_LARGE when a deflated dataset is
    more than MAX_FILE_BYTES or the elements do not fit into memory.
    """
    dataset = _read(data, pixels=True)
    if dataset is None or "SOPClassUID" not in dataset:
        # pydicom drops all elements of a file that ends within encapsulated pixels; the header is still good.
        dataset = _read(data, pixels=False)
        if dataset is not None and "Rows" in dataset:
            dataset.PixelData = None
    if dataset is None or "SOPClassUID" not in dataset:
        raise Refused(Reason.NOT_DICOM, "no DICOM header with a SOP Class UID was found")
    return dataset


def study_instance_uid(data: bytes) -> str:
    """StudyInstanceUID of a file, read without its pixels; '' where there is none to be read."""
    try:
        dataset = _read(data, pixels=False)
        return str(dataset.get("StudyInstanceUID") or "") if dataset is not None else ""
    except Exception:  # pydicom's errors at a malformed element are of many kinds
        return ""


def is_compressed(data: bytes) -> bool:
    """Whether reading these bytes may run a decompressor, so that it belongs into the sandbox.

    A deflated dataset counts, and so does a transfer syntax that nobody knows. Only the file meta information
    is read; False where none can be, as then no decoder will be reached.
    """
    head = _read_head(data)
    if head is None:
        return False
    _, _, meta = head
    return "TransferSyntaxUID" in meta and _syntax_of(meta) not in _NATIVE


def transfer_syntax(dataset: Dataset) -> UID:
    """From the file meta information; a bare dataset without it is Implicit VR Little Endian (PS3.5 10.1)."""
    uid = _syntax_of(getattr(dataset, "file_meta", None))
    return uid if uid.is_transfer_syntax else ImplicitVRLittleEndian


def _syntax_of(meta: Dataset | None) -> UID:
    """As the file says it; the empty UID where it says nothing that can be read."""
    try:
        return UID(str(meta.get("TransferSyntaxUID", "")) if meta is not None else "")
    except Exception:
        return UID("")


def _read_head(data: bytes) -> tuple[io.BytesIO, bytes | None, FileMetaDataset] | None:
    """A stream after the file meta information, the preamble and that information; None if not DICOM.

    PS3.10 7.1 wants the preamble, old archives left it out: then group 0002 or 0008 comes first.
    """
    stream = io.BytesIO(data)
    try:
        bare = data[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
        return stream, read_preamble(stream, force=bare), _read_file_meta_info(stream)
    except MemoryError:
        raise _too_large() from None
    except Exception:
        return None


def _read(data: bytes, *, pixels: bool) -> Dataset | None:
    """pydicom's reader, None where it fails."""
    head = _read_head(data)
    if head is None:
        return None
    stream, preamble, meta = head
    try:
        syntax = _syntax_of(meta)
        if pixels and syntax in _PLAIN and (dataset := _read_plain(data)) is not None:
            return dataset
        if syntax != DeflatedExplicitVRLittleEndian:
            return pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=not pixels)
        # PS3.5 A.5: all after the meta information is deflated. pydicom would inflate it whatever it holds.
        elements = read_dataset(
            io.BytesIO(_inflate(stream.read())),
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=None if pixels else _at_pixels,
        )
        return FileDataset(stream, elements, preamble, meta, is_implicit_VR=False, is_little_endian=True)
    except MemoryError:
        raise _too_large() from None
    except Refused:
        raise
    except Exception:
        return None


def _read_plain(data: bytes) -> Dataset | None:
    """As pydicom's reader, without its copy of the pixels; None where they are not plainly the last element.

    Padding (FFFC,FFFC) may follow, which says nothing.
    """
    stream = io.BytesIO(data)
    dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
    at = stream.tell()
    if at == len(data):
        return dataset
    implicit, little = dataset.original_encoding
    head = IMPLICIT_HEAD if implicit else EXPLICIT_HEAD
    start = at + head.size
    if not little or start > len(data):
        return None
    group, element, *vr, length = head.unpack_from(data, at)
    end = start + length
    if (group << 16 | element) != PIXEL_DATA or length == 0 or end > len(data):
        return None
    if not implicit and vr not in ([b"OB", 0], [b"OW", 0]):
        return None
    stream.seek(end)
    rest = read_dataset(stream, bool(implicit), is_little_endian=True)
    if end < len(data) and list(rest.keys()) != [_PADDING]:
        return None
    name = None if implicit else vr[0].decode()
    pixels = memoryview(data)[start:end]
    dataset[PIXEL_DATA] = RawDataElement(
        PIXEL_DATA, name, length, pixels, start, is_implicit_VR=bool(implicit), is_little_endian=True
    )
    dataset.update(rest)
    return dataset


def _inflate(body: bytes) -> bytes:
    """What `body` (a raw deflate stream, perhaps cut off) holds. Raises Refused over MAX_FILE_BYTES."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(body, MAX_FILE_BYTES)
    if inflater.unconsumed_tail:
        raise Refused(Reason.IMAGE_TOO_LARGE, f"the dataset inflates to more than {MAX_FILE_BYTES} bytes")
    return content


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag in (0x7FE00008, 0x7FE00009, 0x7FE00010)


def _too_large() -> Refused:
    return Refused(Reason.IMAGE_TOO_LARGE, "the file does not fit into memory")

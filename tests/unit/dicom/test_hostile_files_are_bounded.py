"""Files made to exhaust memory, the stack or the reader: refused with a reason, and the next one succeeds."""

import gzip
import io
import logging
import struct
import subprocess
import sys
import textwrap
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.encaps import encapsulate

from hounsfield.dicom import parsing
from hounsfield.dicom.parsing import is_compressed, parse
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import read_image
from hounsfield.dicom.sandbox import Sandbox

RAMP = np.arange(64 * 64).reshape(64, 64)


def reason_of(data):
    with pytest.raises(Refused) as refused:
        read_image(data)
    return refused.value.reason


def peak_bytes(data):
    """The reason (None if read) and the peak memory of this process in bytes; runs in a sandbox's worker."""
    try:
        read_image(data)
        reason = None
    except Refused as error:
        reason = error.reason
    return reason, 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def peak_in(sandbox, data):
    """As `peak_bytes`, where the decoder may also take its worker along."""
    try:
        return sandbox.call(peak_bytes, data)
    except Refused as refused:
        return refused.reason, 0


def take(bytes_):
    return len(bytearray(bytes_))


def deflated(data, more=b""):
    """A plain Explicit VR file as a deflated one (PS3.5 A.5), its dataset followed by `more`."""
    stream, _, _ = parsing._read_head(data)
    end = stream.tell()
    head = data[:end].replace(uids.ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.10008.1.2.1.99")
    # The UID grew by two bytes: so do its own length and the group's.
    at = head.index(b"\x02\x00\x10\x00UI") + 6
    head = head[:at] + struct.pack("<H", 22) + head[at + 2 :]
    group = struct.unpack_from("<I", head, 140)[0]
    head = head[:140] + struct.pack("<I", group + 2) + head[144:]
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return head + deflater.compress(data[end:] + more) + deflater.flush()


@pytest.fixture
def plain(radiograph, as_bytes):
    return as_bytes(radiograph(RAMP))


@pytest.fixture
def encapsulated(radiograph, as_bytes):
    """A factory: a file whose header says `pixels`, and whose one fragment is `fragment`."""

    def make(pixels, syntax, fragment):
        ds = radiograph(pixels)
        ds.PixelData = encapsulate([fragment])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = syntax
        return as_bytes(ds)

    return make


def test_a_deflated_file_is_read(plain):
    data = deflated(plain)
    assert is_compressed(data)
    assert (read_image(data).pixels == RAMP).all()
    assert read_image(data).attributes["transfer_syntax_uid"] == "1.2.840.10008.1.2.1.99"


def test_a_deflated_file_cut_short_is_refused(plain):
    data = deflated(plain)
    assert reason_of(data[:-200]) == Reason.TRUNCATED
    assert reason_of(data[: len(data) // 8]) in {Reason.NOT_DICOM, Reason.TRUNCATED, Reason.NO_PIXEL_DATA}


def test_inflation_stops_at_the_limit_of_a_file(plain, monkeypatch):
    data = deflated(plain)
    monkeypatch.setattr(parsing, "MAX_FILE_BYTES", 9000)  # the dataset has 8192 bytes of pixels and a header
    assert (read_image(data).pixels == RAMP).all()
    monkeypatch.setattr(parsing, "MAX_FILE_BYTES", 8192)
    assert reason_of(data) == Reason.IMAGE_TOO_LARGE


def test_a_deflate_bomb_is_refused_before_it_is_inflated(plain):
    bomb = deflated(plain, more=b"\0" * 2**30)  # 1 MB that is 1 GiB
    assert len(bomb) < 2**21
    with Sandbox(1) as sandbox:
        reason, peak = sandbox.call(peak_bytes, bomb)
        assert reason == Reason.IMAGE_TOO_LARGE
        assert peak < 2 * parsing.MAX_FILE_BYTES + 2**28
        assert sandbox.call(peak_bytes, plain)[0] is None


def test_asking_whether_it_is_compressed_inflates_nothing(plain, monkeypatch):
    monkeypatch.setattr(zlib, "decompress", None)
    monkeypatch.setattr(zlib, "decompressobj", None)
    assert is_compressed(deflated(plain))


@pytest.mark.parametrize("cut", [0, 132])
def test_a_compressed_file_without_preamble_belongs_into_the_sandbox_too(cut, radiograph, as_bytes):
    ds = radiograph(RAMP)
    ds.compress(uids.RLELossless, generate_instance_uid=False)
    data = as_bytes(ds)[cut:]
    assert (read_image(data).pixels == RAMP).all()
    assert is_compressed(data)


def test_a_transfer_syntax_that_nobody_knows_belongs_into_the_sandbox(plain):
    assert is_compressed(plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))


@pytest.mark.parametrize("claimed", [(2, 2), (64, 128), (1, 4000)])
def test_a_jpeg2000_image_of_another_size_than_the_header_says_is_refused(claimed, radiograph, encapsulated):
    ds = radiograph(RAMP)
    ds.compress(uids.JPEG2000Lossless, generate_instance_uid=False)
    fragment = ds.PixelData[16:]
    assert reason_of(encapsulated(np.zeros(claimed), uids.JPEG2000Lossless, fragment)) == Reason.DECODE_FAILED


def test_a_jpeg2000_header_that_claims_gigabytes_costs_one_file(radiograph, encapsulated, plain):
    ds = radiograph(RAMP)
    ds.compress(uids.JPEG2000Lossless, generate_instance_uid=False)
    fragment = bytearray(ds.PixelData[16:])
    siz = fragment.index(b"\xff\x51")  # marker, length, capabilities; then sizes of the image and of a tile
    for offset in (6, 10, 22, 26):
        struct.pack_into(">I", fragment, siz + offset, 60000)
    with Sandbox(1) as sandbox:
        reason, peak = sandbox.call(
            peak_bytes, encapsulated(np.zeros((7000, 7000)), uids.JPEG2000Lossless, bytes(fragment))
        )
        assert reason in {Reason.DECODE_FAILED, Reason.IMAGE_TOO_LARGE}
        assert peak < 2**31
        assert sandbox.call(peak_bytes, plain)[0] is None


def test_rle_that_runs_over_its_image_is_refused_or_cut(encapsulated, plain):
    # PS3.5 G.3.1: a control byte of -127 repeats the next byte 128 times; here to 50 million bytes a segment.
    segment = b"\x81\x07" * 400_000
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *(0,) * 13)
    data = encapsulated(np.zeros((2, 2)), uids.RLELossless, header + segment + segment)
    with Sandbox(1) as sandbox:
        reason, peak = peak_in(sandbox, data)
        assert reason in {Reason.DECODE_FAILED, Reason.CONSTANT_IMAGE, Reason.DECODER_ABORTED}
        assert peak < 2**30
        assert sandbox.call(peak_bytes, plain)[0] is None


def test_rle_whose_offsets_point_outside_is_refused(encapsulated):
    header = struct.pack("<16I", 2, 2**31, 2**32 - 1, *(0,) * 13)
    with Sandbox(1) as sandbox:
        reason, _ = peak_in(sandbox, encapsulated(RAMP, uids.RLELossless, header + b"\x00" * 64))
    assert reason in {Reason.DECODE_FAILED, Reason.DECODER_ABORTED}


@pytest.mark.parametrize("ended", [True, False])
def test_sequences_ten_thousand_deep_are_refused(ended, plain):
    opened = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    at = plain.index(b"\xe0\x7f\x10\x00")
    deep = plain[:at] + opened * 10_000 + (closed * 10_000 if ended else b"") + plain[at:]
    assert reason_of(deep) == Reason.NOT_DICOM
    assert (read_image(plain).pixels == RAMP).all()


def test_a_zip_a_gzip_and_a_polyglot_are_bounded(plain):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("scan.dcm", plain)
        file.writestr("bomb", b"\0" * 2**24)
    assert reason_of(archive.getvalue()) == Reason.NOT_DICOM
    assert reason_of(gzip.compress(plain)) == Reason.NOT_DICOM
    # PS3.10 7.1 leaves the preamble free: a file may be two things at once, and we read the DICOM one.
    assert (read_image(b"PK\x03\x04" + plain[4:] + archive.getvalue()).pixels == RAMP).all()


def test_an_element_that_claims_four_gigabytes_is_read_as_what_is_there(plain):
    at = plain.index(b"\xe0\x7f\x10\x00") + 8
    lie = plain[:at] + struct.pack("<I", 2**32 - 2) + plain[at + 4 :]
    assert (read_image(lie).pixels == RAMP).all()
    assert reason_of(lie[:-1]) == Reason.TRUNCATED


def test_a_malformed_number_is_refused_as_a_malformed_attribute(plain):
    at = plain.index(b"\x28\x00\x10\x00US")  # Rows, with three bytes where two are a number
    assert reason_of(plain[: at + 6] + b"\x03\x00" + b"\x40\x00\x00" + plain[at + 10 :]) in {
        Reason.MISSING_ATTRIBUTE,
        Reason.NOT_DICOM,
    }


def test_a_value_that_pydicom_warns_of_is_not_in_the_log(radiograph, as_bytes, caplog, recwarn):
    data = as_bytes(radiograph(RAMP, PatientAge="040Y", StudyDate="20200301"))
    data = data.replace(b"040Y", b"SECR").replace(b"20200301", b"SECR2030")
    with caplog.at_level(logging.DEBUG, logger="root"):
        dataset = parse(data)
        read_image(data)
        str(dataset)
    assert "SECR" not in caplog.text


def test_a_worker_cannot_allocate_beyond_its_bound():
    with Sandbox(1, memory_bytes=2**28) as sandbox:
        assert sandbox.call(take, 2**27) == 2**27
        with pytest.raises(MemoryError):
            sandbox.call(take, 2**29)
        assert sandbox.call(take, 2**27) == 2**27


def test_a_program_on_standard_input_is_told_so():
    program = textwrap.dedent(
        """
        from hounsfield.dicom.sandbox import Sandbox
        from hounsfield.errors import PlatformError

        with Sandbox(2) as sandbox:
            for _ in range(2):
                try:
                    list(sandbox.map(len, [b"1", b"22"]))
                except PlatformError as error:
                    print(error)
        """
    )
    ended = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.count("a process that decodes DICOM files ended with code 1") == 2
    assert "not standard input" in ended.stdout

import subprocess
import sys
from datetime import datetime
from io import BytesIO

import numpy as np
import pydicom
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from hounsfield.dicom.deidentify import Profile, deidentify, key_from, new_uid
from hounsfield.dicom.deidentify.standard import Step, plan_for
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.errors import ConfigError

KEY = b"0123456789abcdef"


def item(**elements):
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def test_names_ids_dates_and_private_groups_are_taken_out_at_any_depth(radiograph, as_bytes):
    inner = item(PersonName="Deep^Secret", PatientID="DEEPSECRET", StudyDate="19990909", Manufacturer="ACME")
    inner.private_block(0x0029, "SECRET", create=True).add_new(1, "LO", "SECRET")
    middle = item(ProtocolContextSequence=Sequence([inner]), CodeValue="1", CodingSchemeDesignator="SCT")
    ds = radiograph([[0, 1]], PerformedProtocolCodeSequence=Sequence([middle]))
    ds.ContributingEquipmentSequence = Sequence(
        [item(InstitutionName="SECRET Hospital", Manufacturer="ACME")]
    )
    clean = deidentify(ds, KEY)
    written = as_bytes(clean)
    for trace in (b"SECRET", b"Secret", b"19990909"):
        assert trace not in written
    assert clean.ContributingEquipmentSequence[0].Manufacturer == "ACME"


def test_references_between_instances_hold(radiograph):
    first, second = (radiograph([[0, 1]], SOPInstanceUID=uid) for uid in ("1.2.31", "1.2.32"))
    reference = item(
        ReferencedSOPClassUID=uids.DigitalXRayImageStorageForPresentation, ReferencedSOPInstanceUID="1.2.31"
    )
    second.SourceImageSequence = Sequence([reference])
    one, two = deidentify(first, KEY), deidentify(second, KEY)
    pointer = two.SourceImageSequence[0]
    assert pointer.ReferencedSOPInstanceUID == one.SOPInstanceUID == new_uid("1.2.31", KEY)
    assert pointer.ReferencedSOPClassUID == uids.DigitalXRayImageStorageForPresentation


def test_two_studies_are_as_far_apart_as_they_were(radiograph):
    moments = [("20200228", "233000"), ("20210301", "000500")]
    cleaned = [deidentify(radiograph([[0, 1]], StudyDate=day, StudyTime=time), KEY) for day, time in moments]
    before = [datetime.strptime(day + time, "%Y%m%d%H%M%S") for day, time in moments]
    after = [datetime.strptime(str(ds.StudyDate) + str(ds.StudyTime), "%Y%m%d%H%M%S") for ds in cleaned]
    assert after[1] - after[0] == before[1] - before[0]
    assert after[0] < before[0]


def test_another_process_gives_the_same_answer(radiograph, as_bytes, tmp_path):
    ds = radiograph([[0, 1]], PatientName="A^B", StudyTime="101112")
    here = as_bytes(deidentify(ds, KEY))
    ds.save_as(tmp_path / "in.dcm", enforce_file_format=True)
    script = (
        "import sys, pydicom; from pathlib import Path; from hounsfield.dicom.deidentify import deidentify\n"
        "clean = deidentify(pydicom.dcmread(sys.argv[1]), b'0123456789abcdef')\n"
        "clean.save_as(sys.argv[2], enforce_file_format=True)"
    )
    paths = [str(tmp_path / "in.dcm"), str(tmp_path / "out.dcm")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True, env={"PYTHONHASHSEED": "7"})
    there = pydicom.dcmread(tmp_path / "out.dcm")
    mine = pydicom.dcmread(BytesIO(here))
    assert there == mine


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_names_in_any_character_set_are_taken_out_also_where_text_repeats_them(
    radiograph, as_bytes, charset, name
):
    family = name.split("=")[-1].split("^")[0]
    ds = radiograph(
        [[0, 1]], SpecificCharacterSet=charset, PatientName=name, SoftwareVersions=["V1", f"for {family}"]
    )
    ds.ManufacturerModelName = f"{name.split('^')[0].upper()} 5" if family.isascii() else family + "机"
    ds.DetectorManufacturerName = "ACME"
    clean = pydicom.dcmread(BytesIO(as_bytes(deidentify(pydicom.dcmread(BytesIO(as_bytes(ds))), KEY))))
    assert list(clean.SoftwareVersions) == ["V1", "REMOVED"]
    assert clean.ManufacturerModelName == "REMOVED"
    assert clean.DetectorManufacturerName == "ACME"
    assert clean.PatientName == f"{clean.PatientID}^"
    assert clean.SpecificCharacterSet == charset


def test_an_unknown_sop_class_is_refused_and_a_directory_too(radiograph):
    for sop_class in ("1.2.3.4", uids.BasicTextSRStorage, uids.MediaStorageDirectoryStorage, ""):
        with pytest.raises(Refused) as refusal:
            deidentify(radiograph([[0, 1]], SOPClassUID=sop_class), KEY)
        assert refusal.value.reason == Reason.SOP_CLASS_NOT_ALLOWED


def test_what_the_iod_does_not_have_is_dropped(radiograph):
    ds = radiograph([[0, 1]], EchoTime="20", RTImageLabel="SECRET", ViewPosition="PA")
    clean = deidentify(ds, KEY)
    assert "EchoTime" not in clean
    assert "RTImageLabel" not in clean
    assert clean.ViewPosition == "PA"


def test_text_in_the_place_of_a_number_is_dropped(radiograph, as_bytes):
    data = as_bytes(radiograph([[0, 1]], KVP="123456", DistanceSourceToDetector="1000"))
    data = data.replace(b"123456", b"SECRET")
    written = as_bytes(deidentify(pydicom.dcmread(BytesIO(data)), KEY))
    assert b"SECRET" not in written
    assert b"1000" in written


def test_codes_of_a_private_scheme_lose_their_meaning(radiograph, as_bytes):
    private = item(CodeValue="77", CodingSchemeDesignator="99HOSPITAL", CodeMeaning="as Dr House wanted it")
    public = item(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Chest")
    clean = deidentify(radiograph([[0, 1]], AnatomicRegionSequence=Sequence([private, public])), KEY)
    assert b"House" not in as_bytes(clean)
    assert [i.CodeMeaning for i in clean.AnatomicRegionSequence] == ["REMOVED", "Chest"]


def test_overlays_in_planes_and_in_unused_bits_are_gone(radiograph):
    pixels = np.array([[0x0123, 0xF456], [0x8FFF, 0x0000]], np.uint16)
    ds = radiograph(pixels, BitsStored=12, HighBit=11)
    ds.add_new(0x60003000, "OW", b"\xff\xff")
    ds.add_new(0x60000022, "LO", "SECRET")
    clean = deidentify(ds, KEY)
    assert not [tag for tag in clean.keys() if 0x6000 <= tag.group < 0x6100]  # noqa: SIM118
    assert clean.PixelData == np.array([[0x0123, 0x0456], [0x0FFF, 0]], np.uint16).tobytes()


def test_the_sign_of_a_stored_value_is_kept(radiograph):
    ds = radiograph([[0, 1]], PixelRepresentation=1, BitsStored=12, HighBit=11)
    ds.PixelData = np.array([-5, 7], np.int16).tobytes()
    assert deidentify(ds, KEY).PixelData == ds.PixelData


def test_bytes_after_the_pixels_and_after_the_dataset_are_gone(radiograph, as_bytes):
    ds = radiograph([[0, 1], [2, 3]])
    ds.PixelData += b"SECRET"
    ds.add_new(0xFFFCFFFC, "OB", b"SECRET")
    ds.preamble = b"SECRET".ljust(128, b"\0")
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2.3", b"SECRET"
    data = as_bytes(ds)
    assert data.count(b"SECRET") == 4
    assert b"SECRET" not in as_bytes(deidentify(pydicom.dcmread(BytesIO(data)), KEY))


def test_comments_in_compressed_streams_are_blanked_without_moving_a_byte(radiograph):
    import cv2

    picture = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    secret = b"SECRET^NAME 1960"
    comment = b"\xff\xfe" + (len(secret) + 2).to_bytes(2) + secret
    exif = b"\xff\xe1" + (len(secret) + 8).to_bytes(2) + b"Exif\0\0" + secret
    with_comment = jpeg[:2] + comment + exif + jpeg[2:]
    ds = radiograph([[0]], Rows=64, Columns=64, BitsAllocated=8, BitsStored=8, HighBit=7)
    ds.PixelData = encapsulate([with_comment, jpeg])
    ds.NumberOfFrames = 2
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = uids.JPEGBaseline8Bit
    clean = deidentify(ds, KEY)
    assert b"SECRET" not in clean.PixelData
    assert len(clean.PixelData) == len(ds.PixelData)
    assert (clean.pixel_array == ds.pixel_array).all()


def test_descriptions_go_unless_their_words_are_of_radiology(radiograph):
    ds = radiograph(
        [[0, 1]], PatientName="Foot^Anna", StudyDescription="CHEST PA erect, Dr. Miller 555-1234, foot"
    )
    assert "StudyDescription" not in deidentify(ds, KEY)
    clean = deidentify(ds, KEY, Profile(clean_descriptors=True))
    assert clean.StudyDescription == "CHEST PA erect"  # foot is a word of radiology, and here of a name


def test_the_options_are_said_in_codes_and_kept_to(radiograph):
    ds = radiograph(
        [[0, 1]], PatientAge="095Y", PatientSize="1.8", DeviceSerialNumber="SN-1", StationName="ROOM-1"
    )
    default = deidentify(ds, KEY)
    assert [i.CodeValue for i in default.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert (default.PatientAge, default.PatientSize) == ("090Y", 1.8)
    assert default.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "DeviceSerialNumber" not in default
    assert "StationName" not in default
    bare = deidentify(ds, KEY, Profile(modified_dates=False, patient_characteristics=False))
    assert [i.CodeValue for i in bare.DeidentificationMethodCodeSequence] == ["113100"]
    assert (bare.PatientSex, bare.StudyDate) == ("", "")
    assert "PatientAge" not in bare
    assert "PatientSize" not in bare
    assert bare.LongitudinalTemporalInformationModified == "REMOVED"
    device = deidentify(ds, KEY, Profile(device_identity=True))
    assert (device.DeviceSerialNumber, device.StationName) == ("SN-1", "ROOM-1")


def test_of_two_codes_the_type_in_the_iod_decides():
    profile = Profile(modified_dates=False)
    mammogram = plan_for(uids.DigitalMammographyXRayImageStorageForPresentation, profile).top
    chest = plan_for(uids.DigitalXRayImageStorageForPresentation, profile).top
    assert 0x00081070 not in chest  # OperatorsName: X/Z/D, Type 3
    assert chest[0x00400555].step is Step.EMPTY  # AcquisitionContextSequence: X/Z, Type 2
    assert mammogram[0x00080020].step is Step.EMPTY  # StudyDate: Z
    assert chest[0x00080020].step is Step.EMPTY


def test_options_are_read_from_words():
    assert Profile.parse("") == Profile()
    assert Profile.parse("dates, descriptors") == Profile(
        clean_descriptors=True, patient_characteristics=False
    )
    assert Profile.parse("blank,always").look == "always"
    with pytest.raises(ConfigError, match="option 'everything' is not one of"):
        Profile.parse("everything")
    with pytest.raises(ConfigError, match="choose one of"):
        Profile.parse("blank,quarantine")


def test_the_key_comes_from_a_variable_or_a_file_and_is_not_in_the_answer(radiograph, as_bytes, tmp_path):
    (tmp_path / "key").write_text("a key of enough bytes\n")
    assert key_from({"HOUNSFIELD_DEID_KEY": "another key of enough bytes"}) == b"another key of enough bytes"
    assert key_from({"HOUNSFIELD_DEID_KEY_FILE": str(tmp_path / "key")}) == b"a key of enough bytes"
    with pytest.raises(ConfigError, match="no de-identification key"):
        key_from({})
    with pytest.raises(ConfigError) as refusal:
        key_from({"HOUNSFIELD_DEID_KEY": "short secret"})
    assert "short secret" not in str(refusal.value)
    assert KEY not in as_bytes(deidentify(radiograph([[0, 1]]), KEY))

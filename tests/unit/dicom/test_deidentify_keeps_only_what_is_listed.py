import stat

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hounsfield.dicom.deidentify import create_key, deidentify, load_key
from hounsfield.errors import ConfigError

KEY = b"0123456789abcdef"


def code(value, scheme, meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def test_nothing_of_the_patient_survives(radiograph, as_bytes):
    ds = radiograph(
        [[0, 1]],
        PatientName="Secret^Person",
        PatientBirthDate="19600102",
        PatientID="SECRET-4711",
        AccessionNumber="SECRETACC",
        InstitutionName="SECRET Hospital",
        StudyDescription="SECRET story",
        ReferringPhysicianName="SECRET^Doctor",
        PatientComments="SECRET",
        StudyTime="101112",
        RequestAttributesSequence=code("1", "99SECRET", "SECRET"),
        AnatomicRegionSequence=code("1", "99SECRET", "SECRET"),
    )
    ds.private_block(0x0029, "SECRET", create=True).add_new(1, "LO", "SECRET")
    ds.file_meta.SourceApplicationEntityTitle = "SECRETAE"
    data = as_bytes(deidentify(ds, KEY))
    for trace in (b"SECRET", b"Secret", b"19600102", b"20200301", b"101112", b"1.2.4\0", b"1.2.5\0"):
        assert trace not in data


def test_the_picture_and_how_it_was_made_stay(radiograph):
    ds = radiograph([[0, 1], [2, 3]], KVP="120", RescaleSlope="2", RescaleIntercept="1", PatientAge="095Y")
    ds.AnatomicRegionSequence = code("51185008", "SCT", "Chest")
    clean = deidentify(ds, KEY)
    assert clean.pixel_array.tolist() == [[0, 1], [2, 3]]
    assert (clean.KVP, clean.RescaleSlope, clean.ViewPosition, clean.PatientSex) == (120, 2, "PA", "F")
    assert clean.PatientAge == "090Y"
    assert clean.AnatomicRegionSequence[0].CodeMeaning == "Chest"
    assert clean.PatientIdentityRemoved == "YES"


def test_a_modality_lut_stays_because_the_pixels_need_it(radiograph):
    ds = radiograph([[0, 1], [2, 3]])
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 16])
    item.add_new("LUTData", "US", [10, 20, 30, 40])
    item.ModalityLUTType, item.LUTExplanation = "US", "by Dr Secret"
    ds.ModalityLUTSequence = Sequence([item])
    kept = deidentify(ds, KEY).ModalityLUTSequence[0]
    assert list(kept.LUTData) == [10, 20, 30, 40]
    assert "Secret" not in str(kept)


def test_identifiers_agree_for_one_key_and_differ_for_another(radiograph):
    one = deidentify(radiograph([[0, 1]]), KEY)
    same_patient = deidentify(radiograph([[2, 3]], PatientID="P1 ", SOPInstanceUID="1.2.9"), KEY)
    other_key = deidentify(radiograph([[0, 1]]), b"fedcba9876543210")
    assert one.PatientID == same_patient.PatientID
    assert one.StudyInstanceUID == same_patient.StudyInstanceUID
    assert one.SOPInstanceUID != same_patient.SOPInstanceUID
    assert one.SOPInstanceUID.startswith("2.25.")
    assert one.SOPInstanceUID.is_valid
    assert one.PatientID != other_key.PatientID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID


def test_dates_of_one_patient_move_together(radiograph):
    first = deidentify(radiograph([[0, 1]], StudyDate="20200301"), KEY)
    later = deidentify(radiograph([[0, 1]], StudyDate="20200331"), KEY)
    from datetime import datetime

    days = [datetime.strptime(str(ds.StudyDate), "%Y%m%d") for ds in (first, later)]
    assert (days[1] - days[0]).days == 30
    assert days[0] < datetime(2020, 3, 1)


def test_the_source_is_not_changed(radiograph):
    ds = radiograph([[0, 1]], PatientName="A^B")
    deidentify(ds, KEY)
    assert ds.PatientName == "A^B"


def test_a_missing_or_short_key_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no de-identification key"):
        load_key(None)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_key(tmp_path / "no.key")
    (tmp_path / "short.key").write_text("fifteen bytes..\n")
    with pytest.raises(ConfigError, match="has 15 bytes; it needs at least 16"):
        load_key(tmp_path / "short.key")


def test_a_made_key_is_private_and_is_kept(tmp_path):
    path = tmp_path / "keys" / "deid.key"
    key = create_key(path)
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert create_key(path) == key == load_key(path)

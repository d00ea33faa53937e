"""The judge of bench/deidentification: right of what ours writes, wrong of what is planted in it."""

from io import BytesIO

import pydicom
import pytest

from bench.deidentification.bundled import leaks
from bench.deidentification.hard_set import PERSONAL, Maker
from bench.deidentification.judge import Score, judge_file, judge_interval, judge_patient
from hounsfield.dicom.deidentify import deidentify

KEY = b"0123456789abcdef"
CODES = {
    0x00080018: "U", 0x0020000D: "U", 0x0020000E: "U", 0x00200052: "U", 0x00100010: "Z", 0x00100020: "Z",
    0x00100030: "Z", 0x00080020: "Z", 0x00080030: "Z", 0x00080050: "Z", 0x00080090: "Z", 0x00200010: "Z",
    0x0008002A: "X/Z/D", 0x00080080: "X/Z/D", 0x00080081: "X", 0x00101040: "X", 0x00102154: "X",
    0x00081050: "X", 0x00101010: "X", 0x00081140: "X/Z/U*", 0x00082112: "X/Z/U*", 0x00081030: "X",
    0x00400275: "X",
}  # fmt: skip


@pytest.fixture(scope="module")
def patients():
    return list(Maker(CODES, nested=20).patients(3))


def written(dataset):
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def judged(patients, change=lambda dataset, number: None, tool=lambda ds: deidentify(ds, KEY)):
    score = Score()
    for pair in patients:
        sources = [pydicom.dcmread(BytesIO(written(ds))) for ds, _ in pair]
        outputs = []
        for number, (source, (_, actions)) in enumerate(zip(sources, pair, strict=True)):
            clean = tool(source)
            change(clean, number)
            outputs.append(judge_file(written(clean), actions, score))
        judge_interval(sources, outputs, score)
        judge_patient(outputs, score)
    return score


def test_ours_is_right(patients):
    score = judged(patients)
    assert dict(score.examples) == {}
    assert score.share() == 1
    assert {*PERSONAL, "uid", "private", "file", "repeated", "kept", "link", "interval"} <= set(score.actions)


def test_an_untouched_file_is_wrong_of_everything_personal(patients):
    score = judged(patients, tool=lambda ds: ds)
    assert score.share(*PERSONAL, "uid", "private", "file", "repeated") < 0.01
    assert score.share("kept") == 1


@pytest.mark.parametrize(
    ("kind", "keyword", "value"),
    [
        ("name", "ImageComments", lambda planted: planted[0x00100010].split("^")[0]),
        ("id", "ImageComments", lambda planted: f"see {planted[0x00100020]}"),
        ("address", "ImageComments", lambda planted: planted[0x00101040]),
        ("contact", "ImageComments", lambda planted: planted[0x00102154]),
        ("date", "PatientBirthDate", lambda planted: planted[0x00100030]),
    ],
)
def test_a_planted_leak_is_caught(patients, kind, keyword, value):
    pair = patients[:1]
    planted = {action.tag: action.value for action in pair[0][0][1] if not action.path}

    def plant(dataset, number):
        if number == 0:
            setattr(dataset, keyword, value(planted))

    score = judged(pair, plant)
    assert score.share(kind) < 1
    assert score.share("kept") == 1


def test_a_broken_reference_a_lost_interval_and_a_changed_picture_are_caught(patients):
    def break_it(dataset, number):
        if number == 1:
            dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.1"
            dataset.StudyDate = "20000101"
            dataset.PixelData = bytes(len(dataset.PixelData))

    score = judged(patients, break_it)
    for kind in ("uid", "interval", "kept"):
        assert score.share(kind) < 1


def test_a_leaking_bundled_file_is_caught():
    original = pydicom.Dataset()
    original.PatientName, original.StudyDescription, original.Manufacturer = "Doe^John", "Scout", "ACME"
    original.InstitutionName = "ACME"
    answer = pydicom.Dataset()
    answer.Manufacturer, answer.ScanOptions = "ACME", "SCOUT MODE"
    assert leaks(original, answer) == []
    answer.SoftwareVersions, answer.StudyDescription = "for DOE^JOHN", "Scout"
    answer.private_block(0x0029, "X", create=True).add_new(1, "LO", "y")
    assert leaks(original, answer) == ["PatientName", "StudyDescription", "private"]

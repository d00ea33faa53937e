import csv
import json
import shutil

import pandas as pd
import pydicom
import pytest

from hounsfield.data.collect import INDEX_COLUMNS
from hounsfield.data.examine import Rules, examine
from hounsfield.data.ingest import ingest
from hounsfield.data.locate import locate
from hounsfield.dicom.reading import read_image
from hounsfield.errors import DataError, LabelError

KEY = b"a key for the tests only"


@pytest.fixture(scope="module")
def data_set(sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("ingested") / "set"
    return out, ingest(sample / "dicom", sample / "labels.csv", out, Rules(KEY))


@pytest.fixture
def few(sample, tmp_path):
    """A copy of the sample's files that a test may spoil."""
    shutil.copytree(sample / "dicom", tmp_path / "data" / "dicom")
    shutil.copy(sample / "labels.csv", tmp_path / "labels.csv")
    return tmp_path


def test_every_file_is_in_the_index_or_in_the_quarantine(sample, data_set):
    out, summary = data_set
    index, quarantine = pd.read_parquet(out / "index.parquet"), pd.read_parquet(out / "quarantine.parquet")
    assert list(index.columns) == list(INDEX_COLUMNS)
    assert list(quarantine.columns) == ["sha256", "size_bytes", "reason", "detail"]
    assert (len(index), len(quarantine)) == (summary.accepted, summary.quarantined) == (120, 8)
    assert len(list((sample / "dicom").rglob("*.dcm"))) == 128
    assert summary.by_reason == {
        "constant_image": 1, "multi_frame": 1, "no_label": 1, "no_pixel_data": 1, "not_dicom": 1,
        "sop_class_not_allowed": 2, "truncated": 1,
    }  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == [
        "dataset.json", "dicom", "index.parquet", "profile.json", "quarantine.parquet",
    ]  # fmt: skip
    assert {f"dicom/{path.name}" for path in (out / "dicom").iterdir()} == set(index["file"])


def test_labels_and_pixels_arrive_at_the_right_file(sample, data_set):
    out, summary = data_set
    with (sample / "labels.csv").open(newline="") as stream:
        labels = {row["SOPInstanceUID"]: row for row in csv.DictReader(stream)}
    index = pd.read_parquet(out / "index.parquet").set_index("sha256")
    for sha256, row in index.iloc[:15].iterrows():
        (source,) = locate(sha256, sample / "dicom")
        said = labels[pydicom.dcmread(source).SOPInstanceUID]
        assert (said["label"] == "positive", said["site"]) == (bool(row["label"]), row["site"])
        before, after = read_image(source), read_image(out / row["file"])
        assert (before.pixels == after.pixels).all()
        assert {**before.attributes, "manufacturer": ""} == {**after.attributes, "manufacturer": ""}
        assert {name: row[name] for name in before.attributes} == dict(before.attributes)
    assert summary.positives == index["label"].sum()


def test_no_original_identifier_survives_in_any_byte(sample, data_set):
    out, _ = data_set
    traces = set()
    for path in (sample / "dicom").rglob("*.dcm"):
        traces.add(path.stem.encode())
        try:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
        for keyword in (
            "PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID",
            "SOPInstanceUID", "ReferringPhysicianName", "InstitutionName", "OperatorsName", "StationName",
            "DeviceSerialNumber",
        ):  # fmt: skip
            traces.add(str(ds.get(keyword, "") or "nothing here").encode())
    assert len(traces) > 300
    for path in sorted(out.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            assert not [trace for trace in traces if trace in content], path.name


def test_dates_are_moved_and_birth_dates_gone(sample, data_set):
    out, _ = data_set
    index = pd.read_parquet(out / "index.parquet").set_index("sha256")
    for sha256, row in index.iloc[:15].iterrows():
        (source,) = locate(sha256, sample / "dicom")
        before = pydicom.dcmread(source, stop_before_pixels=True)
        after = pydicom.dcmread(out / row["file"], stop_before_pixels=True)
        assert after.PatientBirthDate == ""
        assert after.StudyDate < before.StudyDate


@pytest.mark.parametrize(
    ("changes", "inside", "indexed"),
    [
        ({}, "Acme", "Acme"),
        ({"OperatorsName": "Acme^Cy"}, "REMOVED", "Acme"),
        ({"PatientName": "Acme^Cy"}, "REMOVED", "REMOVED"),
        ({"OtherPatientIDs": "acme"}, "REMOVED", "REMOVED"),
    ],
)
def test_the_index_keeps_the_manufacturer_unless_it_names_the_patient(
    sample, tmp_path, changes, inside, indexed
):
    source = next(path for path in sorted((sample / "dicom").rglob("*.dcm")) if is_good(path))
    ds = pydicom.dcmread(source)
    ds.Manufacturer, ds.ViewPosition = "Acme", "AP"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(tmp_path / "a.dcm")
    (image,) = examine(("a", tmp_path / "a.dcm"), Rules(KEY), tmp_path).images
    assert (pydicom.dcmread(tmp_path / image["file"]).Manufacturer, image["manufacturer"]) == (
        inside,
        indexed,
    )


def test_text_in_a_wrong_place_does_not_reach_the_index(sample, tmp_path):
    source = next(path for path in sorted((sample / "dicom").rglob("*.dcm")) if is_good(path))
    ds = pydicom.dcmread(source)
    ds.PatientName, ds.ViewPosition = "Ahorn^Azure", "AHORN"
    ds.save_as(tmp_path / "a.dcm")
    (image,) = examine(("a", tmp_path / "a.dcm"), Rules(KEY), tmp_path).images
    assert "ahorn" not in json.dumps(image).casefold()


def test_a_run_again_gives_the_same_data_set(sample, data_set, tmp_path):
    out, summary = data_set
    again = ingest(sample / "dicom", sample / "labels.csv", tmp_path / "again", Rules(KEY), workers=1)
    assert again == summary
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "index.parquet"), pd.read_parquet(tmp_path / "again" / "index.parquet")
    )


def test_the_records_say_simulated_and_count(data_set):
    out, summary = data_set
    record = json.loads((out / "dataset.json").read_text())
    assert record["sample"] is True
    assert record["fingerprint"] == summary.fingerprint
    assert record["counts"]["by_split"] == summary.by_split
    profile = json.loads((out / "profile.json").read_text())
    assert profile["deidentified"] == {
        "options": ["dates", "patient"], "burned_in": "quarantine", "look": "suspect",
        "dates_moved_back_days": [1, 3650],
    }  # fmt: skip
    fields = profile["fields"]
    assert sum(fields["manufacturer"]["counts"].values()) == 120
    assert fields["age_years"]["max"] <= 90


def test_labels_by_patient_reach_all_images_of_the_patient(few):
    ids = {}
    for path in (few / "data").rglob("*.dcm"):
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        if "PatientID" in ds:
            ids[ds.PatientID] = len(ids) % 2
    lines = "".join(f"{patient},{label}\n" for patient, label in ids.items())
    (few / "labels.csv").write_text("PatientID,label\n" + lines)
    # The good image without a label of its own has a patient too.
    assert ingest(few / "data", few / "labels.csv", few / "out", Rules(KEY)).accepted == 121


def test_a_copy_of_an_image_is_a_duplicate(few):
    good = max((few / "data").rglob("*.dcm"), key=lambda path: path.stat().st_size)
    image = next(p for p in sorted((few / "data").rglob("*.dcm")) if p != good and is_good(p))
    shutil.copy(image, image.with_name("zz-copy.dcm"))
    assert ingest(few / "data", few / "labels.csv", few / "out", Rules(KEY)).by_reason["duplicate"] == 1


def is_good(path):
    try:
        read_image(path)
    except Exception:
        return False
    return True


def test_a_label_of_an_unknown_image_is_named_by_its_row_and_nothing_is_left(few):
    with (few / "labels.csv").open("a") as stream:
        stream.write("9.9.9.9,,positive\n")
    with pytest.raises(LabelError, match="row 126: no object of the data has this SOPInstanceUID"):
        ingest(few / "data", few / "labels.csv", few / "out", Rules(KEY))
    assert sorted(path.name for path in few.iterdir()) == ["data", "labels.csv"]


def test_one_class_only_is_refused(few):
    text = (few / "labels.csv").read_text().replace("positive", "negative")
    (few / "labels.csv").write_text(text)
    with pytest.raises(DataError, match="training needs both classes"):
        ingest(few / "data", few / "labels.csv", few / "out", Rules(KEY))


def test_an_empty_or_missing_folder_is_refused(few):
    (few / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        ingest(few / "empty", few / "labels.csv", few / "out", Rules(KEY))
    with pytest.raises(DataError, match="does not exist"):
        ingest(few / "nowhere", few / "labels.csv", few / "out", Rules(KEY))


def test_a_folder_without_a_readable_image_is_refused_with_the_reasons(few):
    (few / "notes").mkdir()
    (few / "notes" / "a.dcm").write_text("a note")
    (few / "notes" / "b.dcm").write_text("another")
    with pytest.raises(DataError, match=r"none of the 2 files is a readable radiograph: 2 not_dicom"):
        ingest(few / "notes", few / "labels.csv", few / "out", Rules(KEY))


def test_the_labels_file_may_lie_in_the_folder(few):
    shutil.move(few / "labels.csv", few / "data" / "labels.csv")
    assert ingest(few / "data", few / "data" / "labels.csv", few / "out", Rules(KEY)).quarantined == 8


def test_the_output_is_neither_in_the_data_nor_over_foreign_files(few):
    with pytest.raises(DataError, match="choose one outside"):
        ingest(few / "data", few / "labels.csv", few / "data" / "out", Rules(KEY))
    (few / "mine").mkdir()
    (few / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="was not made by this step"):
        ingest(few / "data", few / "labels.csv", few / "mine", Rules(KEY))
    assert (few / "mine" / "thesis.txt").exists()

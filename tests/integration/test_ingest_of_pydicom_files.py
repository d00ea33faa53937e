"""pydicom's own test files: strange DICOM, in part damaged on purpose (see tests/data/README.md)."""

import importlib.util
import warnings
from pathlib import Path

import pandas as pd
import pydicom
import pydicom.data
import pytest

from hounsfield.data.examine import Rules
from hounsfield.data.ingest import ingest
from hounsfield.dicom.parsing import load, parse
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import decode_pixels
from hounsfield.dicom.sandbox import Sandbox

BUNDLED = Path(pydicom.data.__file__).parent
GPL_ONLY = {"JPGExtended.dcm"}
NO_DECODER_OR_DAMAGED = {
    "JPEG-lossy.dcm",  # 12 bit JPEG needs the GPL plugin
    "JPGExtended.dcm",
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "MR_truncated.dcm",
    "badVR.dcm",
}


def bundled_files():
    return sorted(
        path for path in BUNDLED.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    )


def outcome(path):
    """In a worker: decoded, without pixels, or refused."""
    dataset = parse(load(path))
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return "no pixels"
    decode_pixels(dataset)
    return "decoded"


def test_all_files_with_pixels_decode_but_the_known_five():
    with Sandbox(2) as sandbox:
        results = list(sandbox.map(outcome, bundled_files()))
    decoded = [path for path, result in results if result == "decoded"]
    failed = {
        path.name
        for path, result in results
        if isinstance(result, Refused) and result.reason != Reason.NOT_DICOM
    }
    # 107 of the files hold pixels: these five do not decode without the GPL plugin, and two more have no
    # SOP Class UID in their header, so that nothing says what their pixels are.
    gpl = importlib.util.find_spec("libjpeg") is not None
    assert failed == NO_DECODER_OR_DAMAGED - (GPL_ONLY if gpl else set())
    assert len(decoded) == (101 if gpl else 100)
    assert len(decoded) + len(failed) + 2 == 107


@pytest.fixture(scope="module")
def monochrome_set(tmp_path_factory):
    """Ingest of all bundled files, all SOP classes allowed, labelled by patient."""
    folder = tmp_path_factory.mktemp("bundled")
    patients, classes = {}, set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in bundled_files():
            try:
                dataset = parse(load(path))
            except Refused:
                continue
            classes.add(str(dataset.SOPClassUID))
            patient = str(dataset.get("PatientID", "") or "").strip()
            if patient and "\n" not in patient:
                patients.setdefault(patient, len(patients) % 2)
    frame = pd.DataFrame({"PatientID": patients.keys(), "label": patients.values()})
    frame.to_csv(folder / "labels.csv", index=False)
    out = folder / "out"
    rules = Rules(b"a key for the tests", allowed_sop_classes=frozenset(classes))
    summary = ingest(BUNDLED, folder / "labels.csv", out, rules)
    return out, summary


def test_every_bundled_file_is_accepted_or_quarantined_with_a_reason(monochrome_set):
    out, summary = monochrome_set
    everything = [path for path in BUNDLED.rglob("*") if path.is_file()]
    assert summary.accepted + summary.quarantined == len(everything)
    quarantine = pd.read_parquet(out / "quarantine.parquet")
    assert set(quarantine["reason"]) <= {str(reason) for reason in Reason}
    assert (quarantine["detail"].str.len() > 10).all()
    assert (quarantine["sha256"].str.len() == 64).all()
    assert summary.accepted >= 25


def test_accepted_files_are_readable_dicom_without_the_patient(monochrome_set):
    out, summary = monochrome_set
    index = pd.read_parquet(out / "index.parquet")
    for file in index["file"]:
        dataset = pydicom.dcmread(out / file)
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.pixel_array.shape == (dataset.Rows, dataset.Columns)
    assert len(index) == summary.accepted

import hashlib
import os

import pytest

from hounsfield.data.fingerprint import dataset_fingerprint, source_fingerprint
from hounsfield.data.locate import locate
from hounsfield.errors import DataError, LabelError


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.dcm").write_bytes(b"one")
    (data / "b.dcm").write_bytes(b"two")
    (tmp_path / "labels.csv").write_text("PatientID,label\nA,1\n")
    return tmp_path


def test_the_fingerprint_is_the_hash_of_sorted_lines():
    expected = hashlib.sha256(b"aa 1\nbb 0\n").hexdigest()
    assert dataset_fingerprint([("bb", 0), ("aa", 1)]) == expected
    assert dataset_fingerprint([("bb", 1), ("aa", 1)]) != expected


def test_the_source_fingerprint_changes_with_a_file_a_name_or_a_label(folder):
    def now():
        return source_fingerprint(folder / "data", folder / "labels.csv")

    seen = [now()]
    assert now() == seen[0]
    os.utime(folder / "data" / "a.dcm", ns=(1, 1))
    seen.append(now())
    (folder / "data" / "a.dcm").rename(folder / "data" / "c.dcm")
    seen.append(now())
    (folder / "labels.csv").write_text("PatientID,label\nA,0\n")
    seen.append(now())
    assert len(set(seen)) == 4


def test_the_source_fingerprint_needs_files_and_labels(folder):
    with pytest.raises(LabelError, match=r"no.csv cannot be read"):
        source_fingerprint(folder / "data", folder / "no.csv")
    with pytest.raises(DataError, match="does not exist"):
        source_fingerprint(folder / "none", folder / "labels.csv")


def test_a_file_is_found_by_the_start_of_its_hash(folder):
    sha256 = hashlib.sha256(b"two").hexdigest()
    assert locate(sha256[:10], folder / "data") == [folder / "data" / "b.dcm"]
    assert locate(sha256.upper(), folder / "data") == [folder / "data" / "b.dcm"]


def test_what_is_not_there_or_not_a_hash_is_said(folder):
    with pytest.raises(DataError, match="no file below"):
        locate("0" * 64, folder / "data")
    with pytest.raises(DataError, match="not a SHA-256"):
        locate("abc", folder / "data")

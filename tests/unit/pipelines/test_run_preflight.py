"""What `make run` refuses before it starts anything: one sentence, exit status 2, nothing made."""

from __future__ import annotations

import collections
import shutil

import pytest

from pipelines import run

Usage = collections.namedtuple("Usage", "total used free")


def refused(capsys, *arguments: str) -> str:
    assert run.main([*arguments]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("error: ")
    return said


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr("hounsfield.laptop.stack.check_ports", lambda home, port: None)
    monkeypatch.setenv("HOUNSFIELD_GUARD_PYTHON", shutil.which("sh"))
    return ["--home", str(tmp_path / "home")]


def test_data_without_labels_asks_for_labels(base, tmp_path, capsys):
    assert "add LABELS=labels.csv" in refused(capsys, *base, "--data", str(tmp_path))


def test_labels_without_data_asks_for_data(base, tmp_path, capsys):
    assert "add DATA=folder" in refused(capsys, *base, "--labels", str(tmp_path / "labels.csv"))


def test_missing_labels_file_is_named(base, tmp_path, capsys):
    said = refused(capsys, *base, "--data", str(tmp_path), "--labels", str(tmp_path / "absent.csv"))
    assert "absent.csv does not exist" in said


def test_missing_data_folder_is_named(base, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("PatientID,label\n")
    said = refused(capsys, *base, "--data", str(tmp_path / "absent"), "--labels", str(labels))
    assert "absent does not exist" in said


def test_empty_data_folder_is_named(base, tmp_path, capsys):
    labels, empty = tmp_path / "labels.csv", tmp_path / "empty"
    labels.write_text("PatientID,label\n1,0\n")
    empty.mkdir()
    assert "is empty" in refused(capsys, *base, "--data", str(empty), "--labels", str(labels))


def test_data_of_patients_without_a_key_is_refused_before_it_is_read(base, tmp_path, capsys, monkeypatch):
    for name in ("HOUNSFIELD_DEID_KEY", "HOUNSFIELD_DEID_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    labels, scans = tmp_path / "labels.csv", tmp_path / "scans"
    labels.write_text("PatientID,label\n1,0\n")
    scans.mkdir()
    (scans / "a.dcm").write_bytes(b"a patient's")
    said = refused(capsys, *base, "--data", str(scans), "--labels", str(labels))
    assert "no de-identification key was given" in said
    assert not (tmp_path / "home" / "deid.key").exists()


def test_full_disk_is_named_with_what_is_needed(base, capsys, monkeypatch):
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**9))
    assert "0.9 GiB free" in refused(capsys, *base)


def test_missing_guard_environment_is_named(base, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOUNSFIELD_GUARD_PYTHON", str(tmp_path / "no-python"))
    assert "run `make install`" in refused(capsys, *base)

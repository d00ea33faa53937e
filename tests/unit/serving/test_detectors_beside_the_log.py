"""A package's detectors go beside the log whole, once, and as the drift worker wants them."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from hounsfield.drift import packaged
from hounsfield.errors import AuditError
from hounsfield.serving.detectors import publish_detectors


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "package"
    (path / "detectors" / "embedding").mkdir(parents=True)
    (path / "detectors" / "embedding" / "x_ref.npy").write_bytes(b"numbers")
    (path / "model.onnx").write_bytes(b"network")
    manifest = json.dumps({"files": {}}).encode()
    (path / "manifest.json").write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    return SimpleNamespace(path=path, digest=digest, detectors=path / "detectors")


def test_the_worker_finds_them_by_the_digest_and_nothing_else_of_the_package(package, tmp_path):
    log = tmp_path / "log"
    published = publish_detectors(package, log)
    assert published == packaged.find(log, package.digest) == log / "detectors" / package.digest
    assert sorted(p.relative_to(published).as_posix() for p in published.rglob("*") if p.is_file()) == [
        "detectors/embedding/x_ref.npy",
        "manifest.json",
    ]
    assert [path.name for path in published.parent.iterdir()] == [package.digest], "a draft was left"


def test_what_is_there_stays(package, tmp_path):
    published = publish_detectors(package, tmp_path / "log")
    (published / "mark").write_text("")
    assert publish_detectors(package, tmp_path / "log") == published
    assert (published / "mark").exists()


def test_a_package_without_detectors_publishes_none(package, tmp_path):
    package.detectors = None
    assert publish_detectors(package, tmp_path / "log") is None
    assert not (tmp_path / "log").exists()


def test_a_log_that_cannot_be_written_is_a_sentence(package, tmp_path):
    (tmp_path / "log").write_text("a file")
    with pytest.raises(AuditError, match="the detectors cannot be put beside the log"):
        publish_detectors(package, tmp_path / "log")

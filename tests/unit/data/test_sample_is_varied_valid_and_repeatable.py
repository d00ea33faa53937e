import csv
import hashlib
import json
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest

from hounsfield.data.exposure import CR, DX
from hounsfield.data.phantom import Anatomy, render
from hounsfield.data.sample import STAMP_NAME, is_simulated, make_sample
from hounsfield.dicom.parsing import load, parse
from hounsfield.dicom.quarantine import Refused
from hounsfield.dicom.reading import decode_image
from hounsfield.errors import ConfigError, DataError


def readable(sample):
    for path in sorted((sample / "dicom").rglob("*.dcm")):
        try:
            dataset = parse(load(path))
            yield path, dataset, decode_image(dataset)
        except Refused:
            continue


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(sample, tmp_path):
    make_sample(tmp_path / "again", images=120, size_px=64, workers=1)

    def digests(folder):
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest() for path in files}

    assert digests(sample) == digests(tmp_path / "again")


def test_another_seed_gives_other_images(sample, tmp_path):
    make_sample(tmp_path / "other", images=60, size_px=64, seed=8)
    known = {row["SOPInstanceUID"] for row in read_csv(sample / "labels.csv")}
    assert not known & {row["SOPInstanceUID"] for row in read_csv(tmp_path / "other" / "labels.csv")}


def test_all_kinds_of_images_are_there(sample):
    counts = Counter()
    studies = {}
    for _, ds, _ in readable(sample):
        counts.update(
            [str(ds.Manufacturer), ds.PhotometricInterpretation, ds.file_meta.TransferSyntaxUID.name]
        )
        counts.update([ds.SOPClassUID, ds.ViewPosition, f"sex {ds.PatientSex}", f"bits {ds.BitsStored}"])
        studies.setdefault(ds.PatientID, set()).add(ds.StudyInstanceUID)
        assert "SIMULATED" in ds.Manufacturer
    assert len([name for name in counts if name.startswith("SIMULATED")]) == 4
    for expected in (
        "MONOCHROME1", "MONOCHROME2", "RLE Lossless", "JPEG 2000 Image Compression (Lossless Only)",
        "Explicit VR Little Endian", DX, CR, "PA", "AP", "sex F", "sex M",
        "bits 10", "bits 12", "bits 14", "bits 16",
    ):  # fmt: skip
        assert counts[expected] > 0, expected
    assert max(len(uids) for uids in studies.values()) >= 3


def test_damaged_and_foreign_files_are_there_and_each_label_has_a_header(sample):
    files = list((sample / "dicom").rglob("*.dcm"))
    good = list(readable(sample))
    # Eight kinds, one of them a good image that has no label.
    assert len(files) - len(good) == 7
    labels = {row["SOPInstanceUID"] for row in read_csv(sample / "labels.csv")}
    assert len(labels) == 120 + 4
    assert len({str(ds.SOPInstanceUID) for _, ds, _ in good} - labels) == 1


def test_findings_say_where_each_opacity_is(sample):
    positives = {
        row["SOPInstanceUID"] for row in read_csv(sample / "labels.csv") if row["label"] == "positive"
    }
    findings = read_csv(sample / "findings.csv")
    assert {row["SOPInstanceUID"] for row in findings} == positives
    for row in findings:
        assert 0 < float(row["row_fraction"]) < 1
        assert 0 < float(row["column_fraction"]) < 1
        assert 0.03 < float(row["radius_fraction"]) < 0.2


def test_contrast_runs_from_invisible_to_plain(sample):
    contrasts = np.array([float(row["contrast"]) for row in read_csv(sample / "findings.csv")])
    invisible, visible = contrasts[contrasts == 0], contrasts[contrasts > 0]
    assert 0.02 < len(invisible) / len(contrasts) < 0.25  # 12 % are drawn so; the set is small
    assert visible.min() < 0.08
    assert visible.max() > 0.40
    assert np.mean((visible > 0.08) & (visible < 0.40)) > 0.4


def test_an_opacity_brightens_its_place():
    rng = np.random.default_rng
    anatomy = Anatomy.draw(rng(1), female=False, age_years=50)
    gained = []
    for seed in range(10):
        picture, opacities = render(rng(seed), anatomy, 128, supine=False, positive=True)
        clear, _ = render(rng(seed), anatomy, 128, supine=False, positive=False)
        found = max(opacities, key=lambda opacity: opacity.contrast)
        row, column = int(found.y * 128), int(found.x * 128)
        near = np.s_[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        gained.append((found.contrast, float(picture[near].mean() - clear[near].mean())))
    strong = [gain for contrast, gain in gained if contrast > 0.3]
    assert strong
    assert min(strong) > 0.05


def test_a_complete_set_is_left_alone(sample):
    stamp = (sample / STAMP_NAME).stat().st_mtime_ns
    summary = make_sample(sample, images=120, size_px=64)
    assert not summary.made_now
    assert summary.images == 120
    assert (sample / STAMP_NAME).stat().st_mtime_ns == stamp


def test_a_folder_with_a_persons_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="was not made by this step"):
        make_sample(tmp_path, images=60, size_px=64)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_too_few_images_or_a_wild_size_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="images is 10"):
        make_sample(tmp_path / "a", images=10)
    with pytest.raises(ConfigError, match="size_px is 9"):
        make_sample(tmp_path / "a", size_px=9)


def test_the_set_says_that_it_is_simulated(sample):
    assert (sample / "README.txt").read_text().startswith("Simulated chest radiographs")
    assert json.loads((sample / STAMP_NAME).read_text())["simulated"] is True
    assert is_simulated(sample)
    assert is_simulated(sample / "dicom")
    assert not is_simulated(sample.parent)


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed"
)
def test_dciodvfy_finds_no_error(sample):
    checked = Counter()
    for path, ds, _ in readable(sample):
        if checked[ds.Manufacturer] < 3:
            checked[ds.Manufacturer] += 1
            said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
            assert not [line for line in said.splitlines() if line.startswith("Error")], said
    assert len(checked) == 4

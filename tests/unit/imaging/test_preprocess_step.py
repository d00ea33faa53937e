import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from hounsfield.dicom.reading import read_image
from hounsfield.errors import DataError
from hounsfield.imaging import preprocess as step
from hounsfield.imaging.contract import ImageContract, prepare
from hounsfield.imaging.preprocess import load_split, preprocess

CONTRACT = ImageContract(size_px=16)
SPLITS = ["train", "test", "train", "validation", "train", "test"]


def write_radiograph(path, pixels, compressed=False):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.astype("<u2").tobytes()
    if compressed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def dataset_dir(tmp_path):
    """Six images; the one at position 2 has no contrast, the last is RLE."""
    folder = tmp_path / "dataset"
    (folder / "dicom").mkdir(parents=True)
    random = np.random.default_rng(7)
    rows = []
    for position, split in enumerate(SPLITS):
        pixels = random.integers(0, 4096, (24, 20))
        if position == 2:
            pixels[:], pixels[0, 0] = 5, 6
        write_radiograph(folder / "dicom" / f"{position}.dcm", pixels, compressed=position == 5)
        rows.append(
            {"sop_instance_uid": f"1.{position}", "file": f"dicom/{position}.dcm", "split": split, "label": 0}
        )
    pd.DataFrame(rows).to_parquet(folder / "index.parquet")
    return folder


def test_every_image_is_in_the_tensors_or_among_the_refused(dataset_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step, "IMAGES_PER_SHARD", 4)
    out = tmp_path / "tensors"
    summary = preprocess(dataset_dir, out, CONTRACT, workers=1)
    assert summary == {"images": 5, "refused": 1, "contract_digest": CONTRACT.digest}
    index = pd.read_parquet(out / "index.parquet")
    assert index[["sop_instance_uid", "shard", "row"]].to_numpy().tolist() == [
        ["1.0", 0, 0],
        ["1.1", 0, 1],
        ["1.3", 0, 2],
        ["1.4", 1, 0],
        ["1.5", 1, 1],
    ]
    refused = pd.read_parquet(out / "refused.parquet")
    assert refused.to_numpy().tolist() == [["1.2", "constant_image"]]
    assert ImageContract.load(out) == CONTRACT
    assert "[progress] preprocess 6/6" in capsys.readouterr().out

    images, rows = load_split(out, "test")
    assert images.shape == (2, 1, 16, 16)
    assert images.dtype == np.float32
    assert rows["sop_instance_uid"].tolist() == ["1.1", "1.5"]
    for image, file in zip(images, rows["file"], strict=True):
        np.testing.assert_array_equal(image, prepare(read_image(dataset_dir / file), CONTRACT))


def test_a_second_run_replaces_the_first(dataset_dir, tmp_path):
    preprocess(dataset_dir, tmp_path / "tensors", CONTRACT, workers=1)
    preprocess(dataset_dir, tmp_path / "tensors", ImageContract(size_px=8), workers=1)
    assert load_split(tmp_path / "tensors", "train")[0].shape == (2, 1, 8, 8)


def test_a_folder_that_was_not_finished_is_not_read(dataset_dir, tmp_path):
    preprocess(dataset_dir, tmp_path / "tensors", CONTRACT, workers=1)
    (tmp_path / "tensors" / "contract.json").unlink()
    with pytest.raises(DataError, match=r"contract\.json is missing"):
        load_split(tmp_path / "tensors", "train")


def test_a_split_that_is_unknown_or_empty_is_named(dataset_dir, tmp_path):
    index = pd.read_parquet(dataset_dir / "index.parquet")
    index[index["split"] == "train"].to_parquet(dataset_dir / "index.parquet")
    preprocess(dataset_dir, tmp_path / "tensors", CONTRACT, workers=1)
    with pytest.raises(DataError, match="'holdout' is not one of"):
        load_split(tmp_path / "tensors", "holdout")
    with pytest.raises(DataError, match=r"'test' of the tensors folder .* holds no image"):
        load_split(tmp_path / "tensors", "test")


def test_nothing_to_prepare_is_an_error(dataset_dir, tmp_path):
    with pytest.raises(DataError, match="run ingest first"):
        preprocess(tmp_path, tmp_path / "tensors", CONTRACT)
    index = pd.read_parquet(dataset_dir / "index.parquet")
    index.iloc[2:3].to_parquet(dataset_dir / "index.parquet")
    with pytest.raises(DataError, match="the first reason is constant_image"):
        preprocess(dataset_dir, tmp_path / "tensors", CONTRACT, workers=1)
    index.iloc[:0].to_parquet(dataset_dir / "index.parquet")
    with pytest.raises(DataError, match="holds no image"):
        preprocess(dataset_dir, tmp_path / "tensors", CONTRACT, workers=1)

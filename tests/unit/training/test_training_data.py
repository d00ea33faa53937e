import json

import numpy as np
import pandas as pd

from hounsfield.training.data import TrainingData, lineage


def relabel(tensors, sha256, shuffle_seed=None):
    """Give the index a column sha256, and its rows another order, as another key of pseudonyms does."""
    index = pd.read_parquet(tensors / "index.parquet").assign(sha256=sha256)
    if shuffle_seed is not None:
        index = index.sample(frac=1, random_state=shuffle_seed)
    index.to_parquet(tensors / "index.parquet")


def test_images_are_in_the_order_of_their_files_whatever_the_order_of_the_index(make_tensors):
    tensors = make_tensors()
    relabel(tensors, [f"{(number * 7) % 64:03d}" for number in range(64)])
    first = TrainingData(tensors)
    relabel(tensors, pd.read_parquet(tensors / "index.parquet")["sha256"], shuffle_seed=1)
    second = TrainingData(tensors)
    assert first.digest == second.digest
    assert np.array_equal(first.train.labels, second.train.labels)
    image, label = first.train.batch(np.array([0, 1]))
    assert image.shape == (2, 1, 32, 32)
    # Numbers 0 to 31 are train and odd ones positive; file 001 is number 55, 002 number 46, 003 number 37,
    # 004 number 28: number 28 comes after 0.
    assert label.tolist() == [0.0, 0.0]


def test_frames_of_one_file_have_an_order_of_their_own(make_tensors):
    tensors = make_tensors()
    relabel(tensors, "same")
    first = TrainingData(tensors).digest
    relabel(tensors, "same", shuffle_seed=2)
    assert TrainingData(tensors).digest == first


def test_the_digest_changes_with_a_pixel_and_with_a_label(make_tensors):
    tensors = make_tensors()
    before = TrainingData(tensors).digest
    images = np.load(tensors / "shard-00000.npy")
    images[5, 0, 0, 0] += 0.25
    np.save(tensors / "shard-00000.npy", images)
    changed = TrainingData(tensors).digest
    index = pd.read_parquet(tensors / "index.parquet")
    index.loc[5, "label"] = 1 - index.loc[5, "label"]
    index.to_parquet(tensors / "index.parquet")
    assert len({before, changed, TrainingData(tensors).digest}) == 3


def test_lineage_is_what_ingest_and_preprocess_left(make_tensors):
    tensors = make_tensors()
    assert lineage(tensors)["contract"]["size_px"] == 32
    (tensors / "dataset.json").write_text(json.dumps({"fingerprint": "abc", "seed": 7, "counts": {}}))
    assert lineage(tensors) | {"contract": 0} == {"contract": 0, "data_fingerprint": "abc", "split_seed": 7}

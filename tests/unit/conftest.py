"""A tiny preprocessed dataset: bright squares on noise, written in the layout of `imaging.preprocess`."""

from pathlib import Path

import pytest

from hounsfield.imaging.contract import ImageContract


def write_tensors(folder: Path, counts=(32, 16, 16), size_px=32, positive=lambda number: number % 2) -> Path:
    import numpy as np
    import pandas as pd

    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    images, rows = [], []
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        for number in range(count):
            label = positive(number)
            image = rng.normal(0.4, 0.1, (size_px, size_px))
            if label:
                image[8:20, 8:20] += 0.4
            rows.append(
                {
                    "sop_instance_uid": f"2.25.{len(rows)}",
                    "patient_id": f"{split}-{number // 2}",
                    "label": label,
                    "split": split,
                    "manufacturer": ("Ada", "Bo")[number % 3 == 0],
                    "view_position": ("PA", "AP")[number % 4 > 1],
                    "patient_sex": ("F", "M")[number % 5 > 2],
                    "age_years": 30.0 + number,
                    "shard": 0,
                    "row": len(rows),
                }
            )
            images.append(image.clip(0, 1))
    np.save(folder / "shard-00000.npy", np.stack(images)[:, None].astype(np.float32))
    pd.DataFrame(rows).to_parquet(folder / "index.parquet")
    ImageContract(size_px=size_px).save(folder)
    return folder


@pytest.fixture(scope="session")
def tensors(tmp_path_factory):
    return write_tensors(tmp_path_factory.mktemp("training") / "tensors")


@pytest.fixture
def make_tensors(tmp_path):
    return lambda **options: write_tensors(tmp_path / "tensors", **options)

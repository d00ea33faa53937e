import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from hounsfield.cli.main import main
from hounsfield.data.expectations import check, expectations, load_expectations, stability
from hounsfield.errors import ConfigError


def index_of(images=200, seed=0, **columns):
    """An index of these many images, alike but for `columns`."""
    dice = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "modality": dice.choice(["CR", "DX"], images),
            "view_position": dice.choice(["AP", "PA", ""], images),
            "bits_stored": dice.choice([12, 14], images),
            "manufacturer": dice.choice(["Alder", "Birch"], images),
            "patient_sex": dice.choice(["F", "M"], images),
            "photometric_interpretation": dice.choice(["MONOCHROME1", "MONOCHROME2"], images),
            "pixel_spacing_mm": dice.uniform(0.1, 0.2, images),
            "rows": dice.integers(2000, 3000, images),
            "columns": dice.integers(2000, 3000, images),
            "age_years": dice.uniform(20, 90, images),
            "intensity_p01": dice.normal(100, 10, images),
            "intensity_p50": dice.normal(1000, 100, images),
            "intensity_p99": dice.normal(3000, 300, images),
            **columns,
        }
    )


@pytest.fixture(scope="module")
def expected():
    # As it comes back from the file.
    return json.loads(json.dumps(expectations(index_of(1000))))


def test_limits_are_half_the_least_to_twice_the_greatest():
    index = index_of(3, pixel_spacing_mm=[0.1, 0.15, 0.2], rows=[2000, 2500, 3000], age_years=[30, 40, 50])
    found = expectations(index)
    assert (found["pixel_spacing_mm"]["min"], found["pixel_spacing_mm"]["max"]) == (0.05, 0.4)
    assert (found["rows"]["min"], found["rows"]["max"]) == (1000, 6000)
    assert (found["age_years"]["min"], found["age_years"]["max"]) == (0, 90)
    assert found["patient_sex"]["one_of"] == ["F", "M", "O"]


def test_data_of_the_same_kind_meets_all(expected):
    for seed in range(1, 21):
        assert check(index_of(100, seed=seed), expected) == []


@pytest.mark.parametrize(
    ("columns", "field", "number"),
    [
        ({"modality": ["CR"] * 47 + ["MG"] * 3}, "modality", 3),
        ({"bits_stored": [12] * 49 + [8]}, "bits_stored", 1),
        ({"patient_sex": ["F"] * 48 + ["male"] * 2}, "patient_sex", 2),
        ({"pixel_spacing_mm": [0.15] * 49 + [1.0]}, "pixel_spacing_mm", 1),
        ({"rows": [2500] * 46 + [256] * 4}, "rows", 4),
        ({"age_years": [40.0] * 49 + [-3.0]}, "age_years", 1),
    ],
)
def test_a_broken_limit_fails_with_its_count(columns, field, number, expected):
    found = [finding for finding in check(index_of(50, **columns), expected) if finding.hard]
    assert [(finding.field, finding.number) for finding in found] == [(field, number)]
    assert f"{number} of 50 images" in str(found[0])
    assert str(found[0]).startswith("FAIL")


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"manufacturer": ["Cedar"] * 100}, "manufacturer"),
        ({"patient_sex": ["F"] * 100}, "patient_sex"),
        ({"view_position": ["AP"] * 100}, "view_position"),
        ({"age_years": np.linspace(20, 40, 100)}, "age_years"),
        ({"age_years": [None] * 60 + [50.0] * 40}, "age_years"),
        ({"intensity_p50": np.linspace(1500, 1800, 100)}, "intensity_p50"),
    ],
)
def test_a_spread_that_moved_warns_with_its_number(columns, field, expected):
    (finding,) = check(index_of(100, seed=3, **columns), expected)
    assert (finding.field, finding.hard) == (field, False)
    assert finding.number > 0.2
    assert f"{finding.number:.2f}" in str(finding)


def test_many_images_of_few_patients_are_no_shift(expected):
    ages = {"age_years": [30.0] * 60 + [80.0] * 40}
    (finding,) = check(index_of(100, seed=3, **ages), expected)
    assert finding.field == "age_years"
    assert check(index_of(100, seed=3, patient_id=["a"] * 60 + ["b"] * 40, **ages), expected) == []
    # Without patients in an older profile the images count, as they did.
    older = {**expected, "images": {"count": 1000}}
    assert check(index_of(100, seed=3, **ages), older) == [finding]


def test_few_images_are_held_against_the_limits_only(expected):
    assert check(index_of(29, manufacturer=["Cedar"] * 29), expected) == []
    assert [f.field for f in check(index_of(1, modality=["MG"]), expected)] == ["modality"]
    assert check(index_of(0), expected) == []


def test_the_stability_index_is_the_sum_over_bins():
    # (59.5, 39.5) / 99... as shares (0.6, 0.4) against (0.3, 0.7), half a count added to 50 and 50-fold sums.
    psi, p_value = stability(np.array([59.5, 39.5]), np.array([29.5, 69.5]))
    assert psi == pytest.approx((0.3 - 0.6) * np.log(0.3 / 0.6) + (0.7 - 0.4) * np.log(0.7 / 0.4))
    assert p_value == pytest.approx(chi2.sf(psi / (1 / 100 + 1 / 100), 1))
    assert stability(np.array([10.0]), np.array([3.0])) == (0.0, 1.0)


def test_the_command_ends_with_1_for_a_failure_and_0_for_a_warning(expected, tmp_path, capsys):
    reference = tmp_path / "profile.json"
    reference.write_text(json.dumps({"expectations": expected}))
    for name, columns in (
        ("good", {}),
        ("old", {"manufacturer": ["Cedar"] * 100}),
        ("bad", {"modality": ["MG"] * 100}),
    ):
        (tmp_path / name).mkdir()
        index_of(100, seed=5, **columns).to_parquet(tmp_path / name / "index.parquet")
    assert main(["data", "check", str(tmp_path / "good"), "--profile", str(reference)]) == 0
    assert "100 images are as expected" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "old"), "--profile", str(reference)]) == 0
    assert "warn  manufacturer: its spread has moved" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "bad"), "--profile", str(reference)]) == 1
    assert "FAIL  modality: 100 of 100 images are not one of CR, DX" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path), "--profile", str(reference)]) == 2


def test_a_profile_without_expectations_is_one_sentence(tmp_path):
    (tmp_path / "profile.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no expectations"):
        load_expectations(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_expectations(tmp_path / "nothing.json")
    with pytest.raises(ConfigError, match="no field of an index"):
        check(index_of(5), {"height": {"min": 0, "max": 3}, "images": {"count": 1}})

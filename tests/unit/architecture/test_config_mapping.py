from dataclasses import dataclass

import pytest

from hounsfield.config import Home, from_mapping
from hounsfield.errors import ConfigError


@dataclass(frozen=True)
class Margins:
    error_rate: float
    refusals: float = 0.1


def test_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"policy\.yaml: key 'error_rate' is missing"):
        from_mapping(Margins, {}, "policy.yaml")


def test_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown key 'eror_rate'; known keys are error_rate, refusals"):
        from_mapping(Margins, {"eror_rate": 1}, "policy.yaml")


def test_defaults_fill_in():
    assert from_mapping(Margins, {"error_rate": 0.2}, "policy.yaml") == Margins(0.2, 0.1)


def test_everything_of_a_run_stays_below_home(tmp_path):
    home = Home.at(tmp_path)
    for place in (home.sample, home.models, home.tree, home.run, home.ledger, home.report, home.deid_key):
        assert place.is_relative_to(tmp_path)

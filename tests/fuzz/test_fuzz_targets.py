"""The fuzzers' targets take every seed: what a change breaks shows here, without atheris."""

import pytest

from hounsfield.dicom.quarantine import Refused
from hounsfield.dicom.reading import read_image
from tests.fuzz import fuzz_dicom, fuzz_request


@pytest.mark.parametrize("module", [fuzz_request, fuzz_dicom])
def test_every_seed_is_answered_or_refused(module):
    with module.target() as one:
        for seed in module.seeds():
            one(seed)


def test_the_seeds_reach_the_decoders_and_the_refusals():
    read, refused = 0, set()
    for seed in fuzz_dicom.seeds():
        try:
            read_image(seed)
            read += 1
        except Refused as refusal:
            refused.add(refusal.reason)
    assert read >= 8
    assert len(refused) >= 2

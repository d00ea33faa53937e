"""What is taken out and what may stay: the Basic Profile of PS3.15 Annex E with the options we offer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hounsfield.dicom.deidentify.keys import MAX_SHIFT_DAYS
from hounsfield.errors import ConfigError


class BurnedIn(StrEnum):
    """What happens to an image whose pixels hold text (see `burned_in`)."""

    QUARANTINE = "quarantine"
    BLANK = "blank"


class Look(StrEnum):
    """Which images are searched for text."""

    NEVER = "never"
    SUSPECT = "suspect"
    ALWAYS = "always"


@dataclass(frozen=True)
class Profile:
    """The options of PS3.15 E.3, and the policy for text in the pixels. Frozen: it is also a cache's key.

    clean_descriptors: keep those words of descriptions that are of radiology and of nobody's name (E.3.5).
    modified_dates: move dates and times of a patient together instead of dropping them (E.3.6).
    patient_characteristics: keep sex, age (90 for all over 89), size, weight and the like (E.3.7).
    device_identity: keep the serial numbers and names of devices (E.3.8).
    burned_in, look: what to do with text in pixels, and where to look for it. BurnedInAnnotation YES counts
        as text even where nobody looks.
    """

    clean_descriptors: bool = False
    modified_dates: bool = True
    patient_characteristics: bool = True
    device_identity: bool = False
    burned_in: BurnedIn = BurnedIn.QUARANTINE
    look: Look = Look.SUSPECT

    @classmethod
    def parse(cls, text: str) -> Profile:
        """From words such as `descriptors,dates,patient,blank,always`; '' is the default. Raises ConfigError.

        Named options replace the default ones (`dates,patient`); the pixels' policy stands beside them.
        """
        words = set(text.replace(",", " ").split())
        known = {*_OPTIONS, *BurnedIn, *Look}
        if words - known:
            raise ConfigError(
                f"de-identification option {min(words - known)!r} is not one of {', '.join(sorted(known))}"
            )
        chosen = {field: name in words for name, field in _OPTIONS.items()} if words & set(_OPTIONS) else {}
        for field, values in (("burned_in", BurnedIn), ("look", Look)):
            if found := words & set(values):
                if len(found) > 1:
                    raise ConfigError(f"choose one of {' and '.join(sorted(found))}")
                chosen[field] = values(found.pop())
        return cls(**chosen)

    @property
    def options(self) -> frozenset[str]:
        """Names of the chosen columns of Table E.1-1, as in standard.json."""
        return frozenset(name for name, field in _OPTIONS.items() if getattr(self, field))

    def record(self) -> dict[str, object]:
        """What is done, JSON-ready. Each patient has a shift of its own, the year of a date says little."""
        return {
            "options": sorted(self.options),
            "burned_in": str(self.burned_in),
            "look": str(self.look),
            "dates_moved_back_days": [1, MAX_SHIFT_DAYS] if self.modified_dates else None,
        }

    def method_codes(self, pixels_cleaned: bool) -> Sequence:
        """The items of DeidentificationMethodCodeSequence: PS3.16 CID 7050."""
        codes = ["113100", *(_CODES[name][0] for name in sorted(self.options))]
        meanings = dict([*_CODES.values(), _BASIC, _PIXELS])
        if pixels_cleaned:
            codes.append(_PIXELS[0])
        items = []
        for value in sorted(codes):
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meanings[value]
            items.append(item)
        return Sequence(items)


_OPTIONS = {
    "descriptors": "clean_descriptors",
    "dates": "modified_dates",
    "patient": "patient_characteristics",
    "device": "device_identity",
}
_BASIC = ("113100", "Basic Application Confidentiality Profile")
_PIXELS = ("113101", "Clean Pixel Data Option")
_CODES = {
    "descriptors": ("113105", "Clean Descriptors Option"),
    "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
}

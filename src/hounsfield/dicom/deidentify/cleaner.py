"""Walk a dataset and build the one without the patient, attribute by attribute, as the plan says."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy

from pydicom.charset import python_encoding
from pydicom.config import IGNORE
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID_dictionary

from hounsfield.dicom.deidentify.keys import Shift, new_uid, pseudonym
from hounsfield.dicom.deidentify.standard import Plan, Rule, Step, of_patient
from hounsfield.dicom.deidentify.values import cap_age, shift_date, shift_datetime, shift_time
from hounsfield.dicom.deidentify.words import Names, clean_description

REMOVED = "REMOVED"
MAX_DEPTH = 16
"""Of sequences in sequences; what lies deeper is dropped. Real files have four or five."""

_CHARACTER_SET, _PIXEL_DATA = 0x00080005, 0x7FE00010
_SCHEME, _VALUE, _MEANING = 0x00080102, 0x00080100, 0x00080104
_PUBLIC_SCHEMES = frozenset(
    {"SCT", "SRT", "SNM3", "DCM", "UCUM", "LN", "RADLEX", "FMA", "MDC", "UMLS", "NCIt"}
)
"""Coding schemes whose meanings are published; a hospital's own is free text (PS3.16 8)."""

_STRINGS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_UNPADDED = frozenset({"ST", "LT", "UT"})
"""VRs of one value, in which a backslash is a character (PS3.5 6.4)."""
_NUMBER = re.compile(rb"[0-9+\-.eE \\\0]*")
_CODE = re.compile(r"[\w .\-+/^~]{0,16}", re.ASCII)
_DUMMIES = {
    "AS": "000D", "DA": "19000101", "TM": "000000", "DT": "19000101000000", "DS": "0", "IS": "0",
    "PN": f"{REMOVED}^", "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0",
    "US": 0, "SS": 0, "UL": 0, "SL": 0, "FL": 0.0, "FD": 0.0,
}  # fmt: skip
_TIME_OF = {
    tag_for_keyword(entry[4]): time
    for entry in DicomDictionary.values()
    if entry[0] == "DA" and (time := tag_for_keyword(entry[4].replace("Date", "Time"))) is not None
}
"""The TM beside a DA: (0008,0020) Study Date has (0008,0030) Study Time."""


class Cleaner:
    """One file's worth: `dataset` is only read. Raises nothing: a malformed value is dropped or emptied."""

    def __init__(self, dataset: Dataset, plan: Plan, key: bytes) -> None:
        self._dataset, self._plan, self._key = dataset, plan, key
        self.patient = _patient(dataset)
        self.patient_id = pseudonym(self.patient, key)
        self._shift = Shift.of(self.patient, key)
        self._names = Names(*_names_in(dataset, plan.identifying))
        self._steps: dict[Step, Callable[[Dataset, int, Rule], object]] = {
            Step.UID: self._uids,
            Step.DATE: self._dates,
            Step.TIME: lambda ds, tag, _: _each(ds, tag, lambda text: shift_time(text, self._shift)),
            Step.DATETIME: lambda ds, tag, _: _each(ds, tag, lambda text: shift_datetime(text, self._shift)),
            Step.AGE: lambda ds, tag, _: _each(ds, tag, cap_age),
            Step.DESCRIPTION: self._description,
            Step.PATIENT_ID: self._patient_id,
            Step.PATIENT_NAME: lambda *_: f"{self.patient_id}^",
            Step.EMPTY: lambda ds, tag, rule: (
                Sequence() if rule.vr == "SQ" else "" if rule.vr in _STRINGS else None
            ),
            Step.DUMMY: self._dummy,
        }

    def clean(self) -> Dataset:
        return self._clean(self._dataset, self._plan.top, depth=0)

    def _clean(self, source: Dataset, rules: dict[int, Rule], depth: int) -> Dataset:
        target = Dataset()
        implicit, little = source.original_encoding
        private_codes = _is_coded_privately(source)
        for tag in source.keys():  # noqa: SIM118  iterating a Dataset parses its elements
            rule = rules.get(int(tag))
            if rule is None:
                continue
            if private_codes and rule.step is Step.KEEP_TEXT:
                element = _new(tag, rule.vr, _CODE_REMOVED.get(int(tag), REMOVED))
            else:
                element = self._element(source, int(tag), rule, depth)
            if element is None:
                continue
            target[tag] = element
            if element.is_raw:
                implicit = element.is_implicit_VR  # some files are not written as their transfer syntax says
        # Raw elements are read in the character set they were written in, and are written as they are.
        target._parent_encoding = source._parent_encoding
        target.set_original_encoding(implicit, little, source.original_character_set)
        return target

    def _element(
        self, source: Dataset, tag: int, rule: Rule, depth: int
    ) -> DataElement | RawDataElement | None:
        for step in (rule.step, rule.otherwise):
            if step is None:
                return None
            try:
                if step in _KEEPING:
                    if (kept := self._kept(source, tag, rule.vr, step)) is not None:
                        return kept
                elif step is Step.SEQUENCE:
                    return self._sequence(source, tag, depth)
                elif (value := self._steps[step](source, tag, rule)) is not None:
                    return _new(tag, rule.vr, value)
                elif step is Step.EMPTY:
                    return _new(tag, rule.vr, None)
            except Exception:  # noqa: S112  pydicom's errors at a malformed value are of many kinds
                continue
        return None

    def _kept(self, source: Dataset, tag: int, vr: str, step: Step) -> DataElement | RawDataElement | None:
        """The element as it is, or with the parts of its text replaced that name somebody."""
        element = source.get_item(tag)
        if element.VR == "UN" or (not element.is_raw and element.VR is None):
            element = source[tag]  # pydicom gives it the dictionary's VR
        if not element.is_raw:
            element = copy(element)  # whoever changes the answer must not change the source
        if element.VR is not None and element.VR not in vr and not {element.VR, vr} <= _STRINGS:
            return None  # text in a number's place was put there by hand
        if step is Step.KEEP:
            return element
        value = element.value
        if step is Step.KEEP_NUMBER:
            if element.is_raw and value is not None and _NUMBER.fullmatch(value) is None:
                return None
            return element
        if tag == _CHARACTER_SET:
            return element if _is_known_character_set(source[tag].value) else None
        texts = _texts(source, tag)
        checked = [text if self._may_stay(text, vr) else REMOVED for text in texts]
        return element if checked == texts else _new(tag, vr, checked if len(checked) != 1 else checked[0])

    def _may_stay(self, text: str, vr: str) -> bool:
        if vr == "CS" and _CODE.fullmatch(text.strip(" \0")) is None:
            return False
        return "�" not in text and not self._names.occur_in(text)

    def _sequence(self, source: Dataset, tag: int, depth: int) -> DataElement | None:
        if depth >= MAX_DEPTH:
            return None
        items = [self._clean(item, self._plan.nested, depth + 1) for item in source[tag].value]
        kept = [item for item in items if len(item)]
        return _new(tag, "SQ", Sequence(kept)) if kept or not items else None

    def _uids(self, source: Dataset, tag: int, _: Rule) -> str | list[str] | None:
        def replaced(uid: str) -> str:
            uid = uid.strip(" \0")
            return uid if uid in UID_dictionary or not uid else new_uid(uid, self._key)

        return _each(source, tag, replaced)

    def _dates(self, source: Dataset, tag: int, _: Rule) -> str | list[str] | None:
        time = _TIME_OF.get(tag)
        times = _texts(source, time) if time is not None and time in source else []
        moved = []
        for number, date in enumerate(_texts(source, tag)):
            text = shift_date(date, times[number] if number < len(times) else "", self._shift) if date else ""
            if text is None:
                return None
            moved.append(text)
        return moved[0] if len(moved) == 1 else moved

    def _description(self, source: Dataset, tag: int, rule: Rule) -> str | None:
        text = clean_description(" ".join(_texts(source, tag)), self._names)
        return text[: 16 if rule.vr == "SH" else 64].strip() or None

    def _patient_id(self, source: Dataset, tag: int, _: Rule) -> str:
        if source is self._dataset:
            return self.patient_id
        return pseudonym(" ".join(_texts(source, tag)).strip(), self._key)

    def _dummy(self, source: Dataset, tag: int, rule: Rule) -> object:
        if rule.vr == "SQ":
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = REMOVED, f"99{REMOVED}", REMOVED
            return Sequence([item])
        if rule.vr == "UI":
            return new_uid("\\".join(_texts(source, tag)), self._key)
        return _DUMMIES.get(rule.vr, REMOVED)


_KEEPING = frozenset({Step.KEEP, Step.KEEP_NUMBER, Step.KEEP_TEXT})
_CODE_REMOVED = {_SCHEME: f"99{REMOVED}"}


def _new(tag: int, vr: str, value: object) -> DataElement:
    return DataElement(tag, vr, value, validation_mode=IGNORE)


def _patient(dataset: Dataset) -> str:
    """Whose the file is: PatientID; without one no two studies can be told to be of one person."""
    for tag in (0x00100020, 0x0020000D, 0x00080018):
        try:
            if text := str(dataset[tag].value or "").strip():
                return text
        except Exception:  # noqa: S112
            continue
    return ""


def _each(source: Dataset, tag: int, change: Callable[[str], str | None]) -> str | list[str] | None:
    """Every value changed; None as soon as one cannot be. Empty values stay empty."""
    changed = [change(text) if text.strip(" \0") else "" for text in _texts(source, tag)]
    if None in changed:
        return None
    return changed[0] if len(changed) == 1 else changed


def _texts(source: Dataset, tag: int) -> list[str]:
    """The values of an element as text; its bytes are split only where no character can hold a backslash."""
    element = source.get_item(tag)
    if element.is_raw:
        raw = element.value or b""
        if raw.isascii() and b"\x1b" not in raw:
            text = raw.decode("ascii").rstrip(" \0")
            return [text] if dictionary_VR(tag) in _UNPADDED else text.split("\\")
        element = source[tag]
    value = element.value
    if value is None or element.VR == "SQ":
        return []
    values = value if element.VM > 1 and not isinstance(value, str | bytes) else [value]
    return [text.decode("latin-1") if isinstance(text, bytes) else str(text) for text in values]


def names_patient(dataset: Dataset, text: str) -> bool:
    """Whether `text` repeats a name or identifier of the patient, as `dataset` has them at any depth."""
    return bool(text) and Names(*_names_in(dataset, of_patient())).occur_in(text)


def _names_in(dataset: Dataset, tags: frozenset[int], depth: int = 0) -> tuple[list[str], list[str]]:
    """Person names and identifiers at any depth."""
    people, identifiers = [], []
    for tag in dataset.keys():  # noqa: SIM118
        try:
            if int(tag) in tags:
                texts = _texts(dataset, int(tag))
                (people if DicomDictionary[int(tag)][0] == "PN" else identifiers).extend(texts)
            elif depth < MAX_DEPTH and not tag.is_private and _is_sequence(dataset, int(tag)):
                for item in dataset[tag].value:
                    for all_found, found in zip(
                        (people, identifiers), _names_in(item, tags, depth + 1), strict=True
                    ):
                        all_found.extend(found)
        except Exception:  # noqa: S112
            continue
    return people, identifiers


def _is_sequence(dataset: Dataset, tag: int) -> bool:
    vr = dataset.get_item(tag).VR
    return vr == "SQ" or (vr in (None, "UN") and tag in DicomDictionary and DicomDictionary[tag][0] == "SQ")


def _is_coded_privately(item: Dataset) -> bool:
    if _SCHEME not in item:
        return False
    return "".join(_texts(item, _SCHEME)).strip() not in _PUBLIC_SCHEMES


def _is_known_character_set(value: object) -> bool:
    terms = [value] if isinstance(value, str) else list(value or [])
    return all(term in python_encoding for term in terms)

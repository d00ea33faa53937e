"""The hard set: files that hold every tag of Table E.1-1, each with a value of its own that must be gone.

Pairs of files are two studies of one patient. Nothing here knows how ours or any other tool works: the table
is read from dicom-anonymizer's package (edition 2026c), the classes of tags are told by VR and keyword.
"""

from __future__ import annotations

import datetime
import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

PERSONAL = ("name", "id", "address", "contact", "date")
"""The classes of which nothing may be left."""
SIDE_PX = 16

Path_ = tuple[tuple[int, int], ...]
"""Where an element stands: (tag of the sequence, number of the item), from outside in."""


@dataclass(frozen=True)
class Action:
    """One element and what must have become of it.

    rule: `gone` (`value` is nowhere in the file), `changed` (not `value` here), `kept` (still `value`),
        `uid` (replaced, the same everywhere), `age` (over 89 not as it was), `may stay` (an attribute that an
        option retains), `there` (`gone`, and the attribute still present: it is of Type 2).
    """

    path: Path_
    tag: int
    kind: str
    rule: str
    value: str | bytes


def table(peer: Path) -> dict[int, str]:
    """Tag to action code, as dicom-anonymizer's 2026c lists say; groups of files and commands left out."""
    found = next(peer.glob("**/dicom_anonymization_databases/dicomfields_2026c.py"))
    spec = importlib.util.spec_from_file_location("dicomfields_2026c", found)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    codes = {}
    for name in vars(module):
        if name.endswith("_TAGS") and name != "ALL_TAGS":
            for tag in getattr(module, name):
                group, element = tag[:2]
                if group > 4 and len(tag) == 2:
                    codes[(group << 16) + element] = name.removesuffix("_TAGS").replace("_", "/")
    return codes


_PATIENT = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        *(
            "PatientSex",
            "PatientSexNeutered",
            "PatientSize",
            "PatientWeight",
            "PregnancyStatus",
            "SmokingStatus",
        ),
        *(
            "EthnicGroup",
            "EthnicGroups",
            "EthnicGroupCodeSequence",
            "SexParametersForClinicalUseCategorySequence",
        ),
    )
)
"""Attributes that Retain Patient Characteristics lets stay: beside ages, which have a rule of their own."""
_TYPE_2 = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "AccessionNumber"),
        *("ReferringPhysicianName", "StudyID"),
    )
)
_KEPT = {
    "Modality": None, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "Manufacturer": "ACME",
    "SliceThickness": "2.5", "ManufacturerModelName": "Tomo 5", "PatientPosition": "HFS",
    "SeriesNumber": "3", "AcquisitionNumber": "2", "InstanceNumber": "7",
    "ImagePositionPatient": [-10, -20.5, 30], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "SliceLocation": "30.5", "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
    "Rows": SIDE_PX, "Columns": SIDE_PX, "PixelSpacing": [0.5, 0.25], "BitsAllocated": 16, "BitsStored": 12,
    "HighBit": 11, "PixelRepresentation": 0, "WindowCenter": "40", "WindowWidth": "400",
    "BodyPartExamined": "CHEST", "LossyImageCompression": "00", "RescaleIntercept": "-1024",
    "RescaleSlope": "1", "RescaleType": "HU",
}  # fmt: skip
_KEPT_CT = {"KVP": "120", "Exposure": "200", "XRayTubeCurrent": "300", "DistanceSourceToDetector": "1000"}
_KEPT_MR = {"MagneticFieldStrength": "1.5", "EchoTime": "20", "RepetitionTime": "500", "FlipAngle": "90"}
_CONTAINERS = (
    ("ContributingEquipmentSequence",),
    ("PerformedProtocolCodeSequence", "ProtocolContextSequence"),
    ("PerformedProtocolCodeSequence", "ProtocolContextSequence", "ContentItemModifierSequence"),
)
"""Sequences of CT and MR that the table does not name, so that a tool is to keep and to clean them."""
_CHARACTER_SETS = (None, "ISO_IR 100", "ISO_IR 192", "GB18030", ["", "ISO 2022 IR 87"])
_IDEOGRAPHS = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林郑山田中村小川上野石井木"


class Maker:
    """Makes the files of one patient after another from a seed."""

    def __init__(self, codes: dict[int, str], seed: int = 1, nested: int = 100) -> None:
        self._codes, self._random = codes, random.Random(seed)  # noqa: S311
        self._nested = nested
        self._nestable = sorted(tag for tag in codes if tag >> 16 not in (0x5000, 0x6000))

    def patients(self, count: int) -> Iterator[list[tuple[Dataset, list[Action]]]]:
        for number in range(count):
            yield self._patient(number)

    def _patient(self, number: int) -> list[tuple[Dataset, list[Action]]]:
        shared = {name: self._uid() for name in ("FrameOfReferenceUID", "ReferencedSOPInstanceUID")}
        charset = _CHARACTER_SETS[number % len(_CHARACTER_SETS)]
        shared["PatientID"], shared["PatientName"] = self._word(10), self._name(charset)
        first = datetime.datetime(1990, 1, 1) + datetime.timedelta(
            days=self._random.randrange(5000),
            hours=8 + self._random.randrange(10),
            minutes=self._random.randrange(60),
        )
        later = first + datetime.timedelta(days=self._random.randrange(1, 900))
        uids = [self._uid(), self._uid()]
        return [
            self._file(number, charset, shared, moment, uids[i], uids[1 - i])
            for i, moment in enumerate((first, later))
        ]

    def _file(
        self, number: int, charset: object, shared: dict, moment: datetime.datetime, uid: str, other: str
    ) -> tuple[Dataset, list[Action]]:
        ds, actions = Dataset(), []
        is_ct = number % 2 == 0
        ds.SOPClassUID = CTImageStorage if is_ct else MRImageStorage
        if charset:
            ds.SpecificCharacterSet = charset
        kept = _KEPT | (_KEPT_CT if is_ct else _KEPT_MR) | {"Modality": "CT" if is_ct else "MR"}
        if not is_ct:
            kept = {name: value for name, value in kept.items() if not name.startswith("Rescale")}
        for keyword, value in kept.items():
            setattr(ds, keyword, value)
            actions.append(Action((), tag_for_keyword(keyword), "kept", "kept", str(ds[keyword].value)))
        pixels = np.arange(SIDE_PX * SIDE_PX, dtype=np.uint16) * 3
        ds.PixelData = pixels.tobytes()
        actions.append(Action((), 0x7FE00010, "kept", "kept", pixels.tobytes()))
        fixed = {
            **{tag_for_keyword(name): value for name, value in shared.items()},
            0x00080018: uid,
            0x00080020: moment.strftime("%Y%m%d"),
            0x00080030: moment.strftime("%H%M%S"),
            0x0008002A: moment.strftime("%Y%m%d%H%M%S.250000"),
        }
        for tag in self._codes:
            self._add(ds, actions, (), tag, charset, fixed.get(tag))
        self._references(ds, actions, other)
        for keywords in _CONTAINERS:
            self._nest(ds, actions, keywords, charset)
        self._private(ds, actions)
        self._repeat(ds, actions, shared)
        self._file_meta(ds, actions, number)
        return ds, actions

    def _add(
        self,
        ds: Dataset,
        actions: list[Action],
        path: Path_,
        tag: int,
        charset: object,
        fixed: str | None = None,
    ) -> None:
        vr = dictionary_VR(tag) if tag in DicomDictionary or tag >> 16 in (0x5000, 0x6000) else "LO"
        vr = vr.split(" or ")[0]
        kind = _kind(tag, vr)
        if vr == "SQ":
            item = Dataset()
            ds.add_new(tag, vr, Sequence([item]))
            inner = (*path, (tag, 0))
            may_stay = tag in _PATIENT
            for child in (0x0040A123, 0x00080104, 0x00401102, 0x0040A121):
                if not (may_stay and child == 0x00080104):
                    self._add(item, actions, inner, child, charset)
            return
        value = fixed if fixed is not None else self._value(tag, vr, charset)
        ds.add_new(tag, vr, value)
        rule = "gone"
        if vr == "AS":
            rule = "age"
        elif tag in _PATIENT:
            rule = "may stay"
        elif kind == "uid":
            rule = "uid"
        elif vr in ("DA", "DS", "IS", "US", "SS", "UL", "SL", "FL", "FD") or (
            vr == "TM" and "." not in value
        ):
            rule = "changed"  # too short to be told from another value anywhere in the file
        elif not path and tag in _TYPE_2:
            rule = "there"
        actions.append(Action(path, tag, kind, rule, value if isinstance(value, bytes) else str(value)))

    def _value(self, tag: int, vr: str, charset: object) -> object:
        number = self._random.randrange
        day = datetime.date(1940, 1, 1) + datetime.timedelta(days=number(25000))
        clock = f"{number(24):02d}{number(60):02d}{number(60):02d}.{number(1, 10**6):06d}"
        match vr:
            case "PN":
                return self._name(charset)
            case "UI":
                return self._uid()
            case "DA":
                return day.strftime("%Y%m%d")
            case "TM":
                return clock
            case "DT":
                return day.strftime("%Y%m%d") + clock
            case "AS":
                return f"{number(20, 110):03d}Y"
            case "DS" | "IS":
                return str(number(10**5, 10**6))
            case "US" | "SS" | "UL" | "SL":
                return number(10**3, 3 * 10**4)
            case "FL" | "FD":
                return float(number(10**3, 10**6))
            case "OB" | "OW" | "UN":
                return self._random.randbytes(16)
            case "UR":
                return f"http://{self._word(12).lower()}.example/"
            case "CS" if tag == 0x00100040:
                return "F"
            case _:
                return self._word(12)

    def _references(self, ds: Dataset, actions: list[Action], other: str) -> None:
        """Both files point at each other: an answer may drop the reference, not break it."""
        for keyword in ("ReferencedImageSequence", "SourceImageSequence"):
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, other
            setattr(ds, keyword, Sequence([item]))
            path = ((tag_for_keyword(keyword), 0),)
            actions[:] = [action for action in actions if action.path[:1] != path]
            actions.append(Action(path, tag_for_keyword("ReferencedSOPInstanceUID"), "uid", "uid", other))

    def _nest(self, ds: Dataset, actions: list[Action], keywords: tuple[str, ...], charset: object) -> None:
        path: Path_ = ()
        for keyword in keywords:
            if keyword not in ds:
                item = Dataset()
                item.Manufacturer = "ACME"
                setattr(ds, keyword, Sequence([item]))
            ds = ds[keyword].value[0]
            path = (*path, (tag_for_keyword(keyword), 0))
        for tag in self._random.sample(self._nestable, self._nested):
            self._add(ds, actions, path, tag, charset)

    def _private(self, ds: Dataset, actions: list[Action]) -> None:
        places = [((), ds), (((tag_for_keyword("ContributingEquipmentSequence"), 0),), None)]
        for path, place in places:
            place = place if place is not None else ds.ContributingEquipmentSequence[0]
            for group in (0x0009, 0x0019, 0x0029, 0x0051, 0x0099):
                block = place.private_block(group, "ACME HEADER", create=True)
                for element, vr in enumerate(("LO", "PN", "DA", "UN", "SQ"), start=1):
                    value: object = self._value(0, vr, None) if vr != "SQ" else None
                    if vr == "SQ":
                        item = Dataset()
                        item.PatientName = value = self._name(None)
                        block.add_new(element, vr, Sequence([item]))
                    else:
                        block.add_new(element, vr, value)
                    rule = "changed" if vr == "DA" else "gone"
                    tag = block.get_tag(element)
                    actions.append(
                        Action(path, int(tag), "private", rule, value if vr == "UN" else str(value))
                    )

    def _repeat(self, ds: Dataset, actions: list[Action], shared: dict) -> None:
        """The patient's name and id where a machine's text belongs; judged like any other copy of them."""
        family = str(shared["PatientName"]).split("^")[0]
        ds.SoftwareVersions = ["V1", f"for {family}"]
        ds.AnatomicRegionSequence = [Dataset()]
        item = ds.AnatomicRegionSequence[0]
        item.CodeValue, item.CodingSchemeDesignator = "51185008", "SCT"
        item.CodeMeaning = f"Chest {shared['PatientID']}"
        ds.FilterType = shared["PatientID"][:10]
        for path, tag, value in (
            ((), 0x00181020, family),
            (((0x00082218, 0),), 0x00080104, shared["PatientID"]),
            ((), 0x00181160, shared["PatientID"]),
        ):
            actions.append(Action(path, tag, "repeated", "gone", value))

    def _file_meta(self, ds: Dataset, actions: list[Action], number: int) -> None:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if number % 4 == 3 else ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.SourceApplicationEntityTitle = self._word(12)
        ds.file_meta.PrivateInformationCreatorUID = "1.2.3"
        ds.file_meta.PrivateInformation = self._word(12).encode()
        ds.preamble = self._word(12).encode().ljust(128, b"\0")
        trailing = self._word(12).encode()
        ds.add_new(0xFFFCFFFC, "OB", trailing)
        for tag, value in (
            (0x00020016, ds.file_meta.SourceApplicationEntityTitle),
            (0x00020102, ds.file_meta.PrivateInformation),
            (0, ds.preamble.rstrip(b"\0")),
            (0xFFFCFFFC, trailing),
        ):
            actions.append(Action((), tag, "file", "gone", value))

    def _word(self, length: int) -> str:
        return "".join(self._random.choices("BCDFGHJKLMNPQRSTVWXZ", k=length))

    def _name(self, charset: object) -> str:
        if charset in (None, "ISO_IR 100"):
            accent = "É" if charset else ""
            return f"{accent}{self._word(8)}^{self._word(8)}"
        family, given = ("".join(self._random.choices(_IDEOGRAPHS, k=4)) for _ in range(2))
        return f"{self._word(8)}^{self._word(6)}={family}^{given}"

    def _uid(self) -> str:
        return f"1.2.826.0.1.99.{self._random.randrange(10**20, 10**21)}"


def _kind(tag: int, vr: str) -> str:
    keyword = keyword_for_tag(tag)
    if vr == "PN":
        return "name"
    if vr in ("DA", "TM", "DT"):
        return "date"
    if vr == "UI":
        return "uid"
    if any(part in keyword for part in ("Telephone", "Telecom", "Phone", "Contact")):
        return "contact"
    if any(part in keyword for part in ("Address", "Residence", "Country", "Region", "Location")):
        return "address"
    if keyword.endswith(("ID", "IDs", "Number", "Numbers", "Identifier", "Locator")) and vr != "SQ":
        return "id"
    if tag in _PATIENT or vr == "AS":
        return "patient"
    return "other"

"""The standard's tables as a plan: for each SOP class, what happens to each attribute.

standard.json holds Table E.1-1 of PS3.15 and the modules of the image IODs of PS3.3, each with its edition;
`python -m bench.deidentification.generate` writes it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from enum import Enum, auto
from importlib import resources

from pydicom.datadict import DicomDictionary, keyword_for_tag, tag_for_keyword

from hounsfield.dicom.deidentify.profile import Profile
from hounsfield.dicom.quarantine import Reason, Refused


class Step(Enum):
    """What happens to one attribute. Whatever has no step is dropped."""

    KEEP = auto()
    KEEP_NUMBER = auto()
    KEEP_TEXT = auto()
    SEQUENCE = auto()
    UID = auto()
    DATE = auto()
    TIME = auto()
    DATETIME = auto()
    AGE = auto()
    DESCRIPTION = auto()
    PATIENT_ID = auto()
    PATIENT_NAME = auto()
    EMPTY = auto()
    DUMMY = auto()


@dataclass(frozen=True)
class Rule:
    """`step`, and `otherwise` where the value is not what the step can work on; None drops the attribute."""

    step: Step
    otherwise: Step | None
    vr: str


@dataclass(frozen=True)
class Plan:
    """Rules by tag: for the dataset itself, and for the items of its sequences at any depth."""

    top: dict[int, Rule]
    nested: dict[int, Rule]
    identifying: frozenset[int]
    """Tags whose values name somebody, wherever they stand: no text that repeats them is kept."""


_ALWAYS_KEPT = (
    "ViewPosition PatientOrientation PositionerType DetectorType Grid FilterType PresentationIntentType "
    "PresentationLUTShape PixelIntensityRelationship PixelIntensityRelationshipSign ImagerPixelSpacing "
    "PixelSpacing DistanceSourceToDetector DistanceSourceToPatient VOILUTFunction RescaleIntercept "
    "RescaleSlope RescaleType WindowCenter WindowWidth ModalityLUTSequence VOILUTSequence "
    "PixelPaddingValue PixelPaddingRangeLimit LongitudinalTemporalInformationModified FloatPixelData "
    "DoubleFloatPixelData"
)
ALWAYS_KEPT = frozenset(_ALWAYS_KEPT.split())
"""How any radiograph was made, also where its IOD lacks it: CR files often carry what belongs to DX."""

_MACHINE_TEXT = (
    "AlgorithmName AlgorithmVersion ApplicationManufacturer ApplicationName ApplicationVersion "
    "AttenuationCorrectionMethod CardiacFramingType CodeMeaning CodeValue CodingSchemeDesignator "
    "CodingSchemeVersion CollimatorGridName ContrastBolusRoute ConvolutionKernel "
    "DetectorLinesOfResponseUsed DetectorManufacturerModelName DetectorManufacturerName FilterType "
    "GridAbsorbingMaterial GridSpacingMaterial ImageFilter ImagedNucleus LongCodeValue Manufacturer "
    "ManufacturerModelName ModalityLUTType MultiCoilElementName OpticalPathIdentifier PVCRejection "
    "PhosphorType PlateType PositionReferenceIndicator PulseSequenceName Radiopharmaceutical "
    "RadiopharmaceuticalRoute ReceiveCoilManufacturerName ReceiveCoilName ReconstructionMethod "
    "RescaleType ScatterCorrectionMethod SecondaryCaptureDeviceManufacturer "
    "SecondaryCaptureDeviceManufacturerModelName SecondaryCaptureDeviceSoftwareVersions "
    "SegmentAlgorithmName SequenceName SoftwareVersions StackID TransmitCoilManufacturerName "
    "TransmitCoilName TypeOfFilters"
)
MACHINE_TEXT = frozenset(_MACHINE_TEXT.split())
"""Text that a machine writes, not a hand. Other text is a description, whatever Table E.1-1 leaves unsaid."""

_NEVER_KEPT = (
    "EncryptedAttributesSequence MACParametersSequence HL7StructuredDocumentReferenceSequence "
    "PrivateDataElementCharacteristicsSequence ReferencedColorPaletteInstanceUID "
    "DigitalSignaturesSequence IconImageSequence"
)
NEVER_KEPT = frozenset(_NEVER_KEPT.split())
"""Sealed originals, signatures over what is gone, doors to private groups."""

_BYTES = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData"})
_NUMBERS = frozenset({"IS", "DS"})
_TEXT = frozenset({"LO", "SH", "ST", "LT", "UT", "UC"})
_BY_VR = {"DA": Step.DATE, "TM": Step.TIME, "DT": Step.DATETIME}
_NAMES = (
    *("Name", "Names", "ID", "IDs", "Identifier", "Locator", "Number", "Numbers", "Address", "AETitle"),
    *("Institution", "Organization", "Location", "Residence", "Telephone", "TelecomInformation"),
)


def plan_for(sop_class: str, profile: Profile) -> Plan:
    """Raises Refused for a SOP class that standard.json does not list: its attributes were never weighed."""
    if sop_class not in _standard()["sop_classes"]:
        raise Refused(
            Reason.SOP_CLASS_NOT_ALLOWED, "de-identification has no rules for the object's SOP class"
        )
    return _plan(sop_class, profile.options)


def edition() -> str:
    return _standard()["actions_edition"]


def sop_classes() -> frozenset[str]:
    """The SOP classes that have a plan."""
    return frozenset(_standard()["sop_classes"])


@functools.cache
def _standard() -> dict:
    text = resources.files("hounsfield.dicom.deidentify").joinpath("standard.json").read_text("utf-8")
    return json.loads(text)


@functools.cache
def _plan(sop_class: str, options: frozenset[str]) -> Plan:
    types: tuple[dict[int, int], dict[int, int]] = ({}, {})  # the strictest type of each tag: top, nested
    for module in _standard()["sop_classes"][sop_class]:
        for entry in _standard()["modules"][module].split():
            tag, _, strictest = entry.lstrip("+").partition(":")
            level = types[entry.startswith("+")]
            level[int(tag, 16)] = min(int(strictest), level.get(int(tag, 16), 3))
    for keyword in ALWAYS_KEPT:
        types[0].setdefault(tag_for_keyword(keyword), 3)
    top, nested = (
        {tag: rule for tag, type_ in level.items() if (rule := _rule(tag, type_, options)) is not None}
        for level in types
    )
    return Plan(top, nested, _identifying(options))


def _rule(tag: int, type_: int, options: frozenset[str]) -> Rule | None:
    if tag not in DicomDictionary or keyword_for_tag(tag) in NEVER_KEPT:
        return None
    vr = DicomDictionary[tag][0]
    action, chosen = _action(tag)
    if action is None:
        return _unlisted(tag, vr, type_, options)
    gone = _resolve(action, type_)
    step = _retained(tag, vr, {o: code for o, code in chosen.items() if o in options}, action)
    if step is None and gone is None:
        return None
    return Rule(step or gone, gone, vr)


def _retained(tag: int, vr: str, chosen: dict[str, str], action: str) -> Step | None:
    """What an option or the action itself makes of the value, where it is not simply taken away."""
    if tag == 0x00100020:
        return Step.PATIENT_ID
    if tag == 0x00100010:
        return Step.PATIENT_NAME
    if vr == "UI" and ("U" in action or "D" in action):
        return Step.UID
    if action == "X/Z/U*":
        return Step.SEQUENCE  # the UIDs in it are replaced, so it still points at what it pointed at
    if "dates" in chosen:
        return _BY_VR.get(vr)  # a time zone or a stamp in bytes cannot be moved
    if "K" in chosen.values():
        return Step.AGE if vr == "AS" else _kept(vr)
    if "descriptors" in chosen or (vr in _TEXT and chosen.get("patient") == "C"):
        return Step.SEQUENCE if vr == "SQ" else Step.DESCRIPTION if vr in _TEXT else None
    return None


def _unlisted(tag: int, vr: str, type_: int, options: frozenset[str]) -> Rule | None:
    """An attribute of the IOD of which Table E.1-1 says nothing, which means: keep (PS3.15 E.1.1)."""
    keyword = keyword_for_tag(tag)
    gone = _resolve("X/Z/D", type_)
    if vr in _TEXT and keyword not in MACHINE_TEXT:
        step = Step.DESCRIPTION if "descriptors" in options else gone
        return Rule(step, gone, vr) if step is not None else None
    if vr in ("UN", "UR", "OB", "PN", "AE", "DA", "DT", "TM", "AS"):
        return None if gone is None else Rule(gone, gone, vr)
    return Rule(Step.KEEP if keyword in _BYTES else _kept(vr), gone, vr)


def _kept(vr: str) -> Step:
    if vr in _NUMBERS:
        return Step.KEEP_NUMBER
    if vr in _TEXT or vr in ("CS", "AE"):
        return Step.KEEP_TEXT
    return {"SQ": Step.SEQUENCE, "UI": Step.UID, **_BY_VR}.get(vr, Step.KEEP)


def _action(tag: int) -> tuple[str | None, dict[str, str]]:
    """Code of the Basic Profile, and codes by option; (None, {}) for a tag that the table does not name."""
    words = _standard()["actions"].get(f"{tag:08X}", "").split()
    return (words[0] if words else None), dict(word.split("=") for word in words[1:])


def _resolve(action: str, type_: int) -> Step | None:
    """PS3.15 Table E.1-1a: of several codes the one that the attribute's type in the IOD allows."""
    codes = action.split("/")
    wanted = {1: "DZX", 2: "ZDX", 3: "XZD"}[type_]
    code = next((code for code in wanted if code in codes), "X")
    return {"D": Step.DUMMY, "Z": Step.EMPTY if type_ > 1 else Step.DUMMY, "X": None}[code]


@functools.cache
def of_patient() -> frozenset[int]:
    """Tags of group 0010 that name the patient."""
    return frozenset(tag for tag in _identifying(frozenset()) if tag >> 16 == 0x0010)


def _identifying(options: frozenset[str]) -> frozenset[int]:
    """Tags of Table E.1-1 that name a person, a place or a thing with one owner, and are not retained."""
    found = set()
    for entry in _standard()["actions"]:
        tag = int(entry, 16)
        if tag not in DicomDictionary:
            continue
        vr, keyword = DicomDictionary[tag][0], keyword_for_tag(tag)
        chosen = _action(tag)[1]
        if options & {o for o, code in chosen.items() if code == "K"} or "descriptors" in chosen:
            continue
        if vr == "PN" or (vr in {*_TEXT, "AE", "IS"} and keyword.endswith(_NAMES)):
            found.add(tag)
    return frozenset(found)

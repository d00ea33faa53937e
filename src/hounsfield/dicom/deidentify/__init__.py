"""Take the patient out of a dataset: the Basic Profile of PS3.15 Annex E, with options, keyed and closed.

Closed: an attribute passes only if the IOD of the SOP class has it, Table E.1-1 lets it and its value is
what its VR says. docs/adr/0010-deidentification.md says how, and what was measured.
"""

from __future__ import annotations

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hounsfield.dicom.deidentify.burned_in import clean_pixels
from hounsfield.dicom.deidentify.cleaner import Cleaner, names_patient
from hounsfield.dicom.deidentify.keys import create_key, key_from, load_key, new_uid, pseudonym
from hounsfield.dicom.deidentify.profile import BurnedIn, Look, Profile
from hounsfield.dicom.deidentify.standard import edition, plan_for, sop_classes
from hounsfield.dicom.deidentify.streams import clean_stream
from hounsfield.dicom.reading import age_years

__all__ = [
    "METHOD",
    "BurnedIn",
    "Look",
    "Profile",
    "create_key",
    "deidentify",
    "edition",
    "key_from",
    "load_key",
    "names_patient",
    "new_uid",
    "pseudonym",
    "sop_classes",
]

BASIC = Profile()
METHOD = "Hounsfield: PS3.15 Basic Profile, IOD attributes, keyed"

_EXPECTED = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientSex",
    "ReferringPhysicianName",
    "StudyDate",
    "StudyID",
    "StudyTime",
)
"""Type 2 in every image (PS3.3 C.7.1.1, C.7.2.1): empty where the source has none."""


def deidentify(dataset: Dataset, key: bytes, profile: Profile = BASIC) -> Dataset:
    """A new dataset with file meta information, ready to save; `dataset` is not changed.

    Identifiers become HMAC-SHA-256 pseudonyms under `key`, the same for the same input, so studies of one
    patient stay together and references between instances hold. Dates move back by 1 to 3650 days, times by
    less than an hour, the same for all of a patient. No private attribute, overlay, preamble or trailing
    byte is taken over.

    Raises Refused: SOP_CLASS_NOT_ALLOWED for an object whose attributes were never weighed, BURNED_IN_TEXT
    by the profile's policy, DECODE_FAILED for a stream that cannot be searched.
    """
    plan = plan_for(str(dataset.get("SOPClassUID", "")), profile)
    cleaner = Cleaner(dataset, plan, key)
    clean = cleaner.clean()
    clean.file_meta = _file_meta(dataset, clean)
    clean_stream(clean, clean.file_meta.TransferSyntaxUID)
    searched = clean_pixels(clean, profile)
    clean.PatientID, clean.PatientName = cleaner.patient_id, f"{cleaner.patient_id}^"
    for keyword in _EXPECTED:
        if keyword not in clean:
            setattr(clean, keyword, "")
    if profile.patient_characteristics and not clean.get("PatientAge"):
        age = age_years(dataset)  # the birth date is gone: keep what a study needs of it
        clean.PatientAge = "" if age is None else f"{int(age):03d}Y"
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD
    clean.DeidentificationMethodCodeSequence = profile.method_codes(searched)
    clean.LongitudinalTemporalInformationModified = "MODIFIED" if profile.modified_dates else "REMOVED"
    if searched:
        clean.BurnedInAnnotation = "NO"
    return clean


def _file_meta(source: Dataset, clean: Dataset) -> FileMetaDataset:
    """New, so that no application entity title or private information comes along."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID", "")
    old = getattr(source, "file_meta", None)
    syntax = old.get("TransferSyntaxUID") if old is not None else None
    if syntax is None:
        implicit = source.original_encoding[0]
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.TransferSyntaxUID = UID(str(syntax))
    return meta

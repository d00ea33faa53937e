"""The simulated machines of the sample set: from attenuation to a valid DX or CR file of one manufacturer."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import cv2
import numpy as np
import pydicom.uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

DX = uids.DigitalXRayImageStorageForPresentation
CR = uids.ComputedRadiographyImageStorage

WHITE = 1.45
"""Attenuation that is drawn white before a machine's own gain."""


@dataclass(frozen=True)
class Machine:
    """One invented manufacturer: what its images look like and how it writes them."""

    manufacturer: str
    model: str
    sop_class: str
    bits_stored: int
    photometric_interpretation: str
    transfer_syntax: str
    aspect: float  # columns / rows
    gain: float
    gamma: float
    noise: float
    slope: int  # Rescale Slope; only CR may have one other than 1


_PLAIN = uids.ExplicitVRLittleEndian
MACHINES = (
    Machine("SIMULATED Alder Imaging", "A-100", DX, 12, "MONOCHROME2", _PLAIN, 1.0, 0.92, 1.0, 0.022, 1),
    Machine("SIMULATED Birch Medical", "DR-2", DX, 14, "MONOCHROME1", _PLAIN, 0.86, 0.80, 0.9, 0.030, 1),
    Machine("SIMULATED Cedar CR", "CR-7", CR, 10, "MONOCHROME2", uids.RLELossless, 0.9, 0.95, 1.15, 0.045, 2),
    Machine(
        "SIMULATED Dogwood", "Flat", DX, 16, "MONOCHROME2", uids.JPEG2000Lossless, 1.0, 0.7, 1.05, 0.026, 1
    ),
)
MACHINE_SHARES = (0.42, 0.28, 0.18, 0.12)


@dataclass(frozen=True)
class Person:
    """An invented patient. Nobody: the names are trees and colours."""

    patient_id: str
    name: str
    sex: str
    birth_date: datetime.date

    def age_years(self, on: datetime.date) -> int:
        birthday_to_come = (on.month, on.day) < (self.birth_date.month, self.birth_date.day)
        return on.year - self.birth_date.year - birthday_to_come


@dataclass(frozen=True)
class Visit:
    """One study of a person."""

    study_uid: str
    series_uid: str
    accession_number: str
    at: datetime.datetime
    referring_physician: str
    institution: str
    station: str


def expose(rng: np.random.Generator, attenuation: np.ndarray, machine: Machine, marker: str) -> np.ndarray:
    """Stored pixel values, (rows, columns) uint16 below 2**bits_stored, of square `attenuation`.

    Cuts the picture to the machine's aspect, adds quantum noise (stronger where less light came
    through), draws the side marker `marker`, and applies gain and gamma.
    """
    side = attenuation.shape[0]
    columns = round(side * machine.aspect / 2) * 2
    cut = attenuation[:, (side - columns) // 2 : (side + columns) // 2]
    grain = rng.standard_normal(cut.shape, dtype=np.float32)
    noisy = cut + machine.noise * (0.6 + 0.6 * cut) * grain
    corner = (round(0.08 * columns), round(0.1 * side))
    letter = np.zeros(cut.shape, np.uint8)
    cv2.putText(letter, marker, corner, cv2.FONT_HERSHEY_SIMPLEX, side / 500, 255, 2, cv2.LINE_AA)
    noisy = np.maximum(noisy, letter.astype(np.float32) / 255 * WHITE)
    gain = machine.gain * rng.uniform(0.9, 1.05)
    light = np.clip(noisy / WHITE, 0, 1) ** machine.gamma * gain
    top = 2**machine.bits_stored - 1
    stored = np.round(np.clip(light, 0, 1) * top).astype(np.uint16)
    return top - stored if machine.photometric_interpretation == "MONOCHROME1" else stored


def dataset(
    pixels: np.ndarray, machine: Machine, person: Person, visit: Visit, view: str, sop_uid: str, number: int
) -> Dataset:
    """A complete DX For Presentation or CR dataset (PS3.3 A.26, A.2) of `pixels` as `expose` returns them."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = machine.sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = sop_uid
    ds.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    _patient_and_study(ds, machine, person, visit)
    ds.SOPClassUID, ds.SOPInstanceUID = machine.sop_class, sop_uid
    ds.Modality = "DX" if machine.sop_class == DX else "CR"
    ds.InstanceNumber = number
    ds.ImageType = ["ORIGINAL", "PRIMARY"] if ds.Modality == "CR" else ["ORIGINAL", "PRIMARY", ""]
    ds.ImageComments = "Simulated image, not a patient"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = view
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.KVP = "120" if view == "PA" else "90"
    _pixel_module(ds, pixels, machine)
    if ds.Modality == "DX":
        _dx_modules(ds, pixels, machine, view)
    else:
        ds.ImagerPixelSpacing = _spacing(pixels)
        ds.PatientOrientation = ["L", "F"]
        ds.WindowCenter, ds.WindowWidth = "1000", "2000"
    if machine.transfer_syntax in (uids.RLELossless, uids.JPEG2000Lossless):
        plugin = "gdcm" if machine.transfer_syntax == uids.RLELossless else "pylibjpeg"
        ds.compress(machine.transfer_syntax, encoding_plugin=plugin, generate_instance_uid=False)
    return ds


def _patient_and_study(ds: Dataset, machine: Machine, person: Person, visit: Visit) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID, ds.PatientSex = person.name, person.patient_id, person.sex
    ds.PatientBirthDate = f"{person.birth_date:%Y%m%d}"
    ds.PatientAge = f"{person.age_years(visit.at.date()):03d}Y"
    ds.PatientComments = f"{person.name} is simulated"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = visit.study_uid, visit.series_uid
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = f"{visit.at:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{visit.at:%H%M%S}"
    ds.AccessionNumber = ds.StudyID = visit.accession_number
    ds.StudyDescription = "Chest, simulated"
    ds.ReferringPhysicianName = visit.referring_physician
    ds.OperatorsName = "Operator^Simulated"
    ds.InstitutionName, ds.StationName = visit.institution, visit.station
    ds.SeriesNumber = 1
    ds.Manufacturer, ds.ManufacturerModelName = machine.manufacturer, machine.model
    ds.DeviceSerialNumber = f"SN-{visit.station}"
    ds.SoftwareVersions = "1.0"
    block = ds.private_block(0x0029, "SIMULATED PRIVATE", create=True)
    block.add_new(0x01, "LO", f"copy of {person.name}")


def _pixel_module(ds: Dataset, pixels: np.ndarray, machine: Machine) -> None:
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, machine.photometric_interpretation
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, machine.bits_stored, machine.bits_stored - 1
    ds.PixelRepresentation = 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", str(machine.slope), "US"
    ds.PixelData = pixels.astype("<u2").tobytes()


def _dx_modules(ds: Dataset, pixels: np.ndarray, machine: Machine, view: str) -> None:
    """DX Series, Anatomy Imaged, DX Image, DX Detector, DX Positioning and Acquisition Context."""
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = _code("51185008", "SCT", "Chest")
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    inverse = machine.photometric_interpretation == "MONOCHROME1"
    if inverse:
        ds.PixelIntensityRelationshipSign = 1
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.WindowCenter, ds.WindowWidth = str(2 ** (machine.bits_stored - 1)), str(2**machine.bits_stored)
    ds.DetectorType, ds.PositionerType = "DIRECT", "NONE"
    ds.ImagerPixelSpacing = _spacing(pixels)
    # PS3.3 C.8.11.5.1.4: rows run to the patient's left, columns to the feet, as a reader looks at it.
    ds.PatientOrientation = ["L", "F"]
    ds.ViewCodeSequence = (
        _code("399348003", "SCT", "Antero-posterior")
        if view == "AP"
        else _code("399348006", "SCT", "Postero-anterior")
    )
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence()
    ds.AcquisitionContextSequence = Sequence()


def _spacing(pixels: np.ndarray) -> list[str]:
    """A detector of 430 mm height, whatever the number of rows."""
    spacing_mm = f"{430 / pixels.shape[0]:.4f}"
    return [spacing_mm, spacing_mm]


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])

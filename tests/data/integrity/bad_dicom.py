"""Series of DICOM files, each spoilt in one way of the list of bad inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from planted import Planted
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES, SIDE = 6, 16
SPACING_MM, STEP_MM = 0.8, 2.5


def write_series(
    folder: Path, name: str, *, skip: int | None = None, shear_mm: float = 0.0, late_mm: float = 0.0, **tags: Any
) -> None:
    """The slices of a CT along the body; a tag that is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.random.default_rng(sum(map(ord, name))).integers(0, 2000, (SLICES, SIDE, SIDE)).astype(np.int16)
    for place in range(SLICES):
        if place != skip:
            late = late_mm if place == SLICES - 1 else 0.0
            position = {"ImagePositionPatient": [0.0, shear_mm * place, STEP_MM * place + late]}
            dataset = _slice(name, place, stored[place], **(position | tags))
            dataset.save_as(folder / f"{name}_{place}.dcm", enforce_file_format=True)


def _slice(name: str, place: int, stored: np.ndarray, **tags: Any) -> Dataset:
    dataset = Dataset()
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=[name, str(place)]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[name]),
        "StudyInstanceUID": "1.2.9",
        "FrameOfReferenceUID": "1.2.8",
        "PatientID": f"patient of {name}",
        "Modality": "CT",
        "SeriesNumber": 1,
        "InstanceNumber": place + 1,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": SIDE,
        "Columns": SIDE,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "PixelSpacing": [SPACING_MM, SPACING_MM],
        "SliceThickness": STEP_MM,
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "RescaleSlope": 1.0,
        "RescaleIntercept": -1024.0,
        "PixelData": stored.tobytes(),
    }
    for keyword, value in (values | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def dicom(root: Path) -> list[Planted]:
    for number in range(6):
        write_series(root / f"sound_{number}", f"sound_{number}")
    write_series(root / "two_series", "first")
    write_series(root / "two_series", "second", SeriesNumber=2)
    write_series(root / "gap", "gap", skip=3)
    write_series(root / "uneven", "uneven", late_mm=0.7)
    write_series(root / "tilted", "tilted", shear_mm=0.6)
    write_series(root / "no_slope", "no_slope", RescaleSlope=None, RescaleIntercept=None)
    write_series(root / "raw", "raw", RescaleIntercept=0.0)
    write_series(root / "wide", "wide", RescaleSlope=100.0)
    write_series(root / "metres", "metres", PixelSpacing=[8e-4, 8e-4], ImagePositionPatient=None)
    write_series(root / "zero", "zero", PixelSpacing=[0.8, 0.0])
    write_series(root / "negative", "negative", PixelSpacing=[-0.8, 0.8])
    write_series(root / "colour", "colour", PhotometricInterpretation="PALETTE COLOR")
    write_series(root / "cut", "cut")
    path = root / "cut" / "cut_2.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    return [
        Planted("22 two DICOM series in one folder", "two_series_series_1", "two_series"),
        Planted("22 two DICOM series in one folder", "two_series_series_2", "two_series"),
        Planted("23 missing slice", "gap", "slice_gap"),
        Planted("23 non-uniform slices", "uneven", "slice_gap"),
        Planted("23 gantry tilt", "tilted", "gantry_tilt"),
        Planted("23 slices without a place", "metres", "missing_tag"),
        Planted("24 rescale slope missing", "no_slope", "rescale_missing"),
        Planted("24 intercept not applied", "raw", "hounsfield_range"),
        Planted("24 CT outside the HU range", "wide", "hounsfield_range"),
        Planted("8 zero spacing", "zero", "unfit_spacing"),
        Planted("8 negative spacing", "negative", "unfit_spacing"),
        Planted("18 colours where grey is declared", "colour", "wrong_channels"),
        Planted("21 truncated file", "cut", "unreadable"),
    ]

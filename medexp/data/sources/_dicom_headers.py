"""What the headers of DICOM files say, read without their pixels.

Tags and their meaning: DICOM PS3.3 (https://dicom.nema.org/medical/dicom/current/output/html/part03.html).
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import UID, RTStructureSetStorage, SegmentationStorage

from medexp.core.faults import Fault
from medexp.data.sources._file_faults import unreadable

# What reading a file that is damaged or no DICOM at all can raise.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    RecursionError,
    RuntimeError,
    InvalidDicomError,
    struct.error,
    zlib.error,
)

ENDINGS = (".dcm", ".dicom", ".ima")
# The second is that of label maps, which pydicom does not name yet.
_SEGMENTATIONS = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")
# Pictures that have no place in a volume.
_PLANAR = frozenset({"CR", "DX", "ES", "IO", "MG", "OT", "PX", "RF", "RG", "RTIMAGE", "US", "XA", "XC"})
_KEYWORDS = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "SliceThickness",
    "ImagerPixelSpacing",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
)
_REFERENCE_KEYWORDS = (
    "SegmentSequence",
    "ReferencedSeriesSequence",
    "StructureSetROISequence",
    "ReferencedFrameOfReferenceSequence",
)


@dataclass(frozen=True)
class Header:
    """One image file.

    Attributes:
        path: The file.
        kind: Kind of object, such as "CT Image Storage".
        instance_uid: UID of the image.
        series_uid: UID of its series.
        modality: "CT", "MR", "DX" ...
        patient_id: The patient; empty where the file does not say.
        series_number: Number of the series within its study.
        instance_number: Number of the image within its series.
        image_type: What the image is, such as ("ORIGINAL", "PRIMARY", "AXIAL").
        shape: Rows and columns.
        frames: Images in the file.
        samples: Colours of a pixel.
        photometric: How values are to be shown, such as "MONOCHROME2".
        position: Middle of the first pixel in millimetres: left, posterior, superior.
        orientation: Directions of a row and of a column.
        spacing_mm: Distance between rows, and between columns.
        thickness_mm: Thickness of the slice.
        rescaled: Whether the file says how stored values become physical ones.
    """

    path: Path
    kind: str
    instance_uid: str
    series_uid: str
    modality: str
    patient_id: str
    series_number: int | None
    instance_number: int | None
    image_type: tuple[str, ...]
    shape: tuple[int, int] | None
    frames: int
    samples: int
    photometric: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    rescaled: bool

    @classmethod
    def of(cls, dataset: Dataset, path: Path) -> Header:
        """The header of a dataset; ValueError where a tag that names the image or its series is missing."""
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            if not dataset.get(keyword):
                raise ValueError(f"{keyword} is missing")
        shape = _integer(dataset, "Rows"), _integer(dataset, "Columns")
        thickness = _numbers(dataset, "SliceThickness", 1)
        return cls(
            path=path,
            kind=UID(dataset.get("SOPClassUID", "")).name,
            instance_uid=str(dataset.SOPInstanceUID),
            series_uid=str(dataset.SeriesInstanceUID),
            modality=str(dataset.get("Modality") or ""),
            patient_id=str(dataset.get("PatientID") or "").strip(),
            series_number=_integer(dataset, "SeriesNumber"),
            instance_number=_integer(dataset, "InstanceNumber"),
            image_type=_texts(dataset, "ImageType"),
            shape=None if shape[0] is None or shape[1] is None else (shape[0], shape[1]),
            frames=_integer(dataset, "NumberOfFrames") or 1,
            samples=_integer(dataset, "SamplesPerPixel") or 1,
            photometric=str(dataset.get("PhotometricInterpretation") or ""),
            position=_numbers(dataset, "ImagePositionPatient", 3),
            orientation=_numbers(dataset, "ImageOrientationPatient", 6),
            spacing_mm=_numbers(dataset, "PixelSpacing", 2) or _numbers(dataset, "ImagerPixelSpacing", 2),
            thickness_mm=None if thickness is None else thickness[0],
            rescaled=_numbers(dataset, "RescaleSlope", 1) is not None or "ModalityLUTSequence" in dataset,
        )

    @property
    def planar(self) -> bool:
        """Whether this is a picture without a place in a volume: a projection, a photograph, a screenshot."""
        return self.modality in _PLANAR or "Secondary Capture" in self.kind

    @property
    def localiser(self) -> bool:
        """Whether this is a scout, made to plan other images."""
        return "LOCALIZER" in self.image_type


@dataclass(frozen=True)
class Reference:
    """One annotation file.

    Attributes:
        path: The file.
        series: UIDs of the series that it annotates.
        instances: UIDs of the images that it says to annotate; empty where it does not say.
        names: Labels of its segments, or names of its regions of interest.
        structures: Whether it is a structure set, with contours, and no segmentation.
    """

    path: Path
    series: tuple[str, ...]
    instances: frozenset[str]
    names: tuple[str, ...]
    structures: bool


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        images: Headers of all images.
        references: All annotations.
        unreadable: A fault for each file that is named as DICOM and is none, by its path.
    """

    images: list[Header] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    unreadable: dict[Path, Fault] = field(default_factory=dict)


def scan(root: Path) -> Found:
    """Read the headers of all DICOM files of a folder and its subfolders, in the order of their paths."""
    found = Found()
    tags = _tags(_KEYWORDS)
    for path in _files(root):
        try:
            dataset = _read_header(path, tags)
            if dataset is not None:
                _add(found, dataset, path)
        except UNREADABLE as error:
            found.unreadable[path] = not_whole(path, error, case_id=None)
    return found


def _read_header(path: Path, tags: list[BaseTag]) -> Dataset | None:
    """Some tags of a file, or None where it is no DICOM and does not claim to be."""
    with path.open("rb") as stream, quiet():
        stream.seek(128)
        named = path.name.lower().endswith(ENDINGS)
        if stream.read(4) != b"DICM" and not named:
            return None
        stream.seek(0)
        # Files of old scanners have no preamble; what has none and is no DICOM either lacks its class.
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(tags), force=named)
    if not dataset.get("SOPClassUID"):
        if named and not dataset.file_meta.get("MediaStorageSOPClassUID"):
            raise ValueError("SOPClassUID is missing")
        return None
    return dataset


def quiet() -> warnings.catch_warnings:
    """A context without pydicom's warnings of values that break the standard and can be read nevertheless."""
    return warnings.catch_warnings(action="ignore")


def not_whole(path: Path, error: BaseException, *, case_id: str | None) -> Fault:
    """The fault of a file that cannot be read."""
    return unreadable(path, error, kind="a whole DICOM file", case_id=case_id)


def _files(root: Path) -> Iterator[Path]:
    """All visible files in a fixed order; links to folders are not followed, so that there is no loop."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _add(found: Found, dataset: Dataset, path: Path) -> None:
    with quiet():
        sop_class = UID(dataset.SOPClassUID)
        if sop_class in _SEGMENTATIONS or sop_class == RTStructureSetStorage:
            tags = _tags((*_REFERENCE_KEYWORDS, "SOPClassUID"))
            whole = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags), force=True)
            found.references.append(_reference_of(whole, path))
        elif "Image Storage" in sop_class.name:
            found.images.append(Header.of(dataset, path))


def _reference_of(dataset: Dataset, path: Path) -> Reference:
    series = [
        series
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
    ] + list(dataset.get("ReferencedSeriesSequence") or [])
    instances = [item for one in series for item in one.get("ReferencedInstanceSequence") or []]
    names = [segment.get("SegmentLabel") for segment in dataset.get("SegmentSequence") or []]
    names += [region.get("ROIName") for region in dataset.get("StructureSetROISequence") or []]
    return Reference(
        path=path,
        series=tuple(dict.fromkeys(str(one.SeriesInstanceUID) for one in series)),
        instances=frozenset(str(item.ReferencedSOPInstanceUID) for item in instances),
        names=tuple(dict.fromkeys(str(name).strip() for name in names if name)),
        structures=dataset.SOPClassUID == RTStructureSetStorage,
    )


def _tags(keywords: tuple[str, ...]) -> list[BaseTag]:
    return [BaseTag(tag) for tag in map(tag_for_keyword, keywords) if tag is not None]


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = dataset.get(keyword)
    return None if value is None or str(value).strip() == "" else int(value)


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = dataset.get(keyword) or ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None where they are missing or something else."""
    value = dataset.get(keyword)
    if value is None or str(value).strip() == "":
        return None
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    numbers = tuple(map(float, parts))
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None

"""From the files of one DICOM series to a volume: order, checks, grid and values.

Sources: DICOM PS3.3 C.7.6.2 for the place of a pixel in the patient; PS3.3 C.11.1 for rescaling; PS3.3 C.7.6.3 for
MONOCHROME1. The patient's axes run to the left, to the back and to the head; the affine's to the right, to the front
and to the head, as everywhere in this package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from jaxtyping import Float, Float32
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.data.sources._dicom_headers import UNREADABLE, Header, not_whole, quiet

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Modalities whose values are physical quantities: how they are to be shown does not change them.
_PHYSICAL = ("CT", "PT")
_DIRECTION_TOLERANCE = 1e-3  # of a cosine; headers hold six digits
_SAME_PLACE_MM = 1e-3


@dataclass(frozen=True)
class Demands:
    """What a series of slices must be like to make a volume.

    Attributes:
        min_slices: Fewest slices.
        gap_tolerance: How far a distance between neighbouring slices may be from the usual one, as a share of it.
        tilt_tolerance_deg: Largest angle between the line through the slices and their normal.
    """

    min_slices: int
    gap_tolerance: float
    tilt_tolerance_deg: float


def ordered(headers: Sequence[Header]) -> list[Header]:
    """The slices along their common normal; without positions, by their numbers."""
    normal = next((_normal(header) for header in headers if header.orientation), None)

    def place(header: Header) -> tuple[float, int, str]:
        along = 0.0 if normal is None or header.position is None else float(normal @ header.position)
        return round(along, 6), header.instance_number or 0, str(header.path)

    return sorted(headers, key=place)


def faults_of_volume(headers: Sequence[Header], demands: Demands, *, case_id: str) -> list[Fault]:
    """What keeps ordered slices from being a volume; a multi-frame file is asked for its values' scale only.

    Args:
        headers: The slices in their order.
        demands: What they must be like.
        case_id: The case, for the faults.

    Returns:
        All faults; those of the places only where every slice has one.
    """

    def fault(check: str, expected: str, found: str, remedy: str, file: Path | None = None) -> Fault:
        return Fault(check, expected, found, remedy, case_id, file or headers[0].path.parent)

    faults = [*_faults_of_values(headers, fault), *_faults_of_files(headers, fault)]
    if any(header.frames > 1 for header in headers):
        return faults
    if len(headers) < demands.min_slices:
        found = f"{len(headers)} in this series"
        remedy = "restore the others, or lower min_slices, or leave such series out with modalities"
        faults.append(fault("too_few_slices", f"at least {demands.min_slices} slices", found, remedy))
    faults += _faults_of_tags(headers, fault)
    if not any(one.check in ("missing_tag", "duplicate_instance") for one in faults):
        faults += _faults_of_grid(headers, fault) or _faults_of_places(headers, demands, fault)
    return faults


def faults_of_picture(header: Header, *, case_id: str) -> list[Fault]:
    """What keeps one file from being a 2D image."""

    def fault(check: str, expected: str, found: str, remedy: str, file: Path | None = None) -> Fault:
        return Fault(check, expected, found, remedy, case_id, file or header.path)

    faults = _faults_of_values([header], fault)
    if header.frames > 1:
        remedy = "save the frames as files of their own, or leave such series out with modalities"
        faults.append(fault("several_frames", "one frame", f"{header.frames}", remedy))
    if header.shape is None:
        faults.append(fault("missing_tag", "Rows and Columns", "neither or one of them", _RESTORE))
    if header.spacing_mm is not None and min(header.spacing_mm) <= 0:
        found = f"PixelSpacing {header.spacing_mm}"
        faults.append(fault("unfit_spacing", "distances above 0", found, "correct the header, or remove the tag"))
    return faults


_RESTORE = "restore the tags, or leave the series out"


def _faults_of_values(headers: Sequence[Header], fault: Callable[..., Fault]) -> list[Fault]:
    faults = []
    grey = ("MONOCHROME1", "MONOCHROME2", "")
    coloured = [header for header in headers if header.samples != 1 or header.photometric not in grey]
    if coloured:
        found = f"{coloured[0].samples} samples per pixel, {coloured[0].photometric}"
        remedy = "convert it to grey values, or leave such series out with modalities"
        faults.append(fault("wrong_channels", "one grey value per pixel", found, remedy, coloured[0].path))
    bare = [header for header in headers if header.modality == "CT" and header.frames == 1 and not header.rescaled]
    if bare:
        found = f"no RescaleSlope in {len(bare)} of {len(headers)} files"
        remedy = "export the series again with its modality transform; without it stored values are no Hounsfield units"
        faults.append(fault("rescale_missing", "a RescaleSlope, being a CT", found, remedy, bare[0].path))
    return faults


def _faults_of_files(headers: Sequence[Header], fault: Callable[..., Fault]) -> list[Fault]:
    faults = []
    counts = Counter(header.instance_uid for header in headers)
    copies = [header.path for header in headers if counts[header.instance_uid] > 1]
    if copies:
        found = f"the same image in {', '.join(map(str, copies[:4]))}"
        faults.append(fault("duplicate_instance", "each image once", found, "remove the copies", copies[0]))
    framed = [header for header in headers if header.frames > 1]
    if framed and len(headers) > 1:
        found = f"{len(headers)} files, {len(framed)} of several frames"
        remedy = "keep one file of several frames, or files of one frame each, in a series"
        faults.append(fault("mixed_frames", "one kind of file", found, remedy, framed[0].path))
    return faults


def _faults_of_tags(headers: Sequence[Header], fault: Callable[..., Fault]) -> list[Fault]:
    needed = {
        "Rows and Columns": "shape",
        "ImagePositionPatient": "position",
        "ImageOrientationPatient": "orientation",
        "PixelSpacing": "spacing_mm",
    }
    faults = []
    for tag, attribute in needed.items():
        lacking = [header.path for header in headers if getattr(header, attribute) is None]
        if lacking:
            found = f"none in {len(lacking)} of {len(headers)} files"
            faults.append(fault("missing_tag", tag, found, _RESTORE, lacking[0]))
    if len(headers) == 1 and headers[0].thickness_mm is None:
        faults.append(fault("missing_tag", "SliceThickness, being one slice", "none", _RESTORE, headers[0].path))
    return faults


def _faults_of_grid(headers: Sequence[Header], fault: Callable[..., Fault]) -> list[Fault]:
    first, faults = headers[0], []
    for check, name, attribute, tolerance in (
        ("mixed_shapes", "Rows and Columns", "shape", 0.0),
        ("mixed_spacings", "PixelSpacing", "spacing_mm", 1e-4),
        ("mixed_orientations", "ImageOrientationPatient", "orientation", _DIRECTION_TOLERANCE),
    ):
        values = np.array([getattr(header, attribute) for header in headers], dtype=np.float64)
        apart = np.flatnonzero(np.abs(values - values[0]).max(axis=1) > tolerance)
        if len(apart):
            other = headers[int(apart[0])]
            found = f"{_brief(values[0])} in {first.path.name} and {_brief(values[apart[0]])} in {other.path.name}"
            remedy = "these are several volumes under one series UID: give each a series of its own"
            faults.append(fault(check, f"one {name} for all slices", found, remedy, other.path))
    if min(first.spacing_mm or (0.0,)) <= 0 or not _is_frame(first):
        found = f"PixelSpacing {first.spacing_mm}, ImageOrientationPatient {first.orientation}"
        expected = "distances above 0 and two directions of length 1 at right angles"
        faults.append(fault("unfit_spacing", expected, found, "correct the header", first.path))
    return faults


def _faults_of_places(headers: Sequence[Header], demands: Demands, fault: Callable[..., Fault]) -> list[Fault]:
    if len(headers) < 2:
        return []
    positions, normal = np.array([header.position for header in headers]), _normal(headers[0])
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps))
    same = np.flatnonzero(steps < _SAME_PLACE_MM)
    if len(same):
        names = f"{headers[int(same[0])].path.name} and {headers[int(same[0]) + 1].path.name}"
        remedy = "these are copies, or several volumes under one series UID: give each a series of its own"
        found = f"{len(same)} slices at the place of another, {names} first"
        return [fault("duplicate_position", "each slice at a place of its own", found, remedy)]
    faults = []
    uneven = np.flatnonzero(np.abs(steps - usual) > demands.gap_tolerance * usual)
    if len(uneven):
        k = int(uneven[0])
        found = (
            f"{len(uneven)} other distances, the first {steps[k]:g} mm between {headers[k].path.name} and "
            f"{headers[k + 1].path.name}"
        )
        remedy = "restore the missing slices, or resample the series to even distances; gap_tolerance accepts less"
        faults.append(fault("slice_gap", f"slices {usual:g} mm apart", found, remedy))
    line = positions[-1] - positions[0]
    tilt = float(np.degrees(np.arccos(np.clip(line @ normal / np.linalg.norm(line), -1, 1))))
    if tilt > demands.tilt_tolerance_deg:
        expected = f"slices above one another within {demands.tilt_tolerance_deg:g} degrees"
        remedy = "the gantry was tilted: resample the series to a grid at right angles, or raise tilt_tolerance_deg"
        faults.append(fault("gantry_tilt", expected, f"an angle of {tilt:.2f} degrees", remedy))
    return faults


def read_volume(
    paths: Sequence[Path], demands: Demands, *, case_id: str
) -> tuple[Float32[np.ndarray, "x y z"], Geometry]:
    """Read a series.

    Args:
        paths: Its files, in any order.
        demands: What the slices must be like.
        case_id: The case, for the faults.

    Returns:
        Physical values along rows, columns and slices, and their grid in millimetres.

    Raises:
        DataError: A file is damaged, or the slices are no volume.
    """
    datasets = {path: _load(path, case_id) for path in paths}
    with quiet():
        headers = ordered([Header.of(dataset, path) for path, dataset in datasets.items()])
    faults = faults_of_volume(headers, demands, case_id=case_id)
    if faults:
        raise DataError.of(*faults)
    if headers[0].frames > 1:
        return _read_frames(headers[0], case_id)
    rows, columns = headers[0].shape or (0, 0)
    slices = np.empty((len(headers), rows, columns), dtype=np.float32)
    for number, header in enumerate(headers):
        slices[number] = _values(datasets.pop(header.path), header, case_id)
    volume = slices.transpose(2, 1, 0)
    return volume, Geometry(shape=volume.shape, affine=_affine(headers))


def read_picture(path: Path, *, case_id: str) -> tuple[Float32[np.ndarray, "rows columns"], Geometry, Header]:
    """Read a 2D image.

    Args:
        path: The file.
        case_id: The case, for the faults.

    Returns:
        Values, their grid (in pixels where the file does not say their distance), and the header.

    Raises:
        DataError: The file is damaged or no 2D image.
    """
    dataset = _load(path, case_id)
    with quiet():
        header = Header.of(dataset, path)
    faults = faults_of_picture(header, case_id=case_id)
    if faults:
        raise DataError.of(*faults)
    values = _values(dataset, header, case_id)
    if header.spacing_mm is None:
        return values, Geometry.from_spacing(values.shape, (1.0, 1.0), unit="px"), header
    return values, Geometry.from_spacing(values.shape, (header.spacing_mm[0], header.spacing_mm[1])), header


def _load(path: Path, case_id: str) -> Dataset:
    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            Header.of(dataset, path)
            return dataset
    except UNREADABLE as error:
        raise DataError.of(not_whole(path, error, case_id=case_id)) from error


def _values(dataset: Dataset, header: Header, case_id: str) -> Float32[np.ndarray, "rows columns"]:
    """Stored values, the other way round where high ones are to be shown dark, and rescaled."""
    try:
        with quiet():
            stored: np.ndarray[Any, Any] = dataset.pixel_array
            if header.photometric == "MONOCHROME1" and header.modality not in _PHYSICAL:
                highest = 2 ** int(dataset.BitsStored) - 1
                stored = (-1 if dataset.PixelRepresentation else highest) - stored.astype(np.int64)
            return np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)
    except UNREADABLE as error:
        fault = not_whole(header.path, error, case_id=case_id)
        if "Unable to dec" in str(error):  # pydicom's words where no decoder could do it
            remedy = "install pylibjpeg and its plugins, save the files without compression, or copy them again"
            fault = replace(
                fault, check="unknown_compression", expected="a compression that can be read", remedy=remedy
            )
        raise DataError.of(fault) from error


def _affine(headers: Sequence[Header]) -> Float[np.ndarray, "4 4"]:
    """From voxel index (column, row, slice) to millimetres to the right, to the front and to the head."""
    first, last = headers[0], headers[-1]
    orientation, spacing = np.array(first.orientation), first.spacing_mm or (1.0, 1.0)
    step = first.thickness_mm or 1.0
    if len(headers) > 1:
        step = float(_normal(first) @ (np.array(last.position) - np.array(first.position))) / (len(headers) - 1)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * spacing[1]
    affine[:3, 1] = orientation[3:] * spacing[0]
    affine[:3, 2] = _normal(first) * step
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _read_frames(header: Header, case_id: str) -> tuple[Float32[np.ndarray, "x y z"], Geometry]:
    """Read one file that holds all slices; highdicom sorts and scales its frames."""
    try:
        with quiet():
            volume = hd.imread(header.path).get_volume(
                dtype=np.float32,
                apply_real_world_transform=False,
                apply_modality_transform=True if header.modality == "CT" else None,
                apply_presentation_lut=header.modality not in _PHYSICAL,
            )
    except UNREADABLE as error:
        raise DataError.of(not_whole(header.path, error, case_id=case_id)) from error
    slices, affine = volume.array, volume.affine
    if np.linalg.det(affine[:3, [2, 1, 0]]) < 0:  # slices run against the normal
        affine = affine.copy()
        affine[:3, 3] += affine[:3, 0] * (len(slices) - 1)
        affine[:3, 0] *= -1
        slices = slices[::-1]
    voxels = slices.transpose(2, 1, 0)
    return voxels, Geometry(shape=voxels.shape, affine=LPS_TO_RAS @ affine[:, [2, 1, 0, 3]])


def _normal(header: Header) -> Float[np.ndarray, "3"]:
    orientation = np.array(header.orientation)
    return np.cross(orientation[:3], orientation[3:])


def _is_frame(header: Header) -> bool:
    """Whether the directions of rows and columns have length 1 and are at right angles."""
    row, column = np.array(header.orientation).reshape(2, 3)
    gram = [row @ row - 1, column @ column - 1, row @ column]
    return bool(np.abs(gram).max() <= 2 * _DIRECTION_TOLERANCE)


def _brief(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"

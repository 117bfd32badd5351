"""Segmentations (SEG) and structure sets (RTSTRUCT) painted onto the grid of the image that they annotate.

Sources: DICOM PS3.3 C.8.20 (segmentation) and C.8.8.6 (contours of regions of interest).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import highdicom as hd
import numpy as np
import pydicom
from jaxtyping import Bool, Float, Integer
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.data.sources._dicom_headers import UNREADABLE, not_whole, quiet
from medexp.data.sources._dicom_series import LPS_TO_RAS

# Kinds of contours that enclose something.
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@runtime_checkable
class _Painter(Protocol):
    """An opened annotation."""

    def paint(self, mask: Integer[np.ndarray, "*spatial"], name: str, value: int) -> None:
        """Give the voxels of the structures of this name a value."""
        ...


def mask_of_volume(
    paths: Sequence[Path],
    ids: Mapping[str, int],
    geometry: Geometry,
    *,
    tolerance_voxels: float,
    case_id: str,
) -> Integer[np.ndarray, "x y z"]:
    """Label ids on the grid of a volume.

    Args:
        paths: Annotations of the volume.
        ids: Label id of each name; where two overlap, the one that comes later is on top.
        geometry: Grid of the volume.
        tolerance_voxels: How far a voxel of the annotation, or the plane of a contour, may lie from the grid.
        case_id: The case, for the faults.

    Returns:
        The mask.

    Raises:
        DataError: A file is damaged, or does not lie on the grid.
    """
    grid = _Grid(geometry, tolerance_voxels)
    painters: list[_Painter] = []
    for path in paths:
        dataset = _open(path, case_id)
        if dataset.SOPClassUID == RTStructureSetStorage:
            painters.append(_Structures(dataset, grid, path, case_id))
        else:
            painters.append(_Segments(dataset, grid, path, case_id))
    return _painted(painters, ids, geometry.shape)


def mask_of_picture(
    paths: Sequence[Path], ids: Mapping[str, int], shape: tuple[int, int], *, instance_uid: str, case_id: str
) -> Integer[np.ndarray, "rows columns"]:
    """Label ids on a 2D image, from segmentations that name it as their source.

    Args:
        paths: Segmentations of the image.
        ids: Label id of each name; where two overlap, the one that comes later is on top.
        shape: Rows and columns of the image.
        instance_uid: UID of the image.
        case_id: The case, for the faults.

    Returns:
        The mask.

    Raises:
        DataError: A file is damaged, or has another shape.
    """
    painters = [_PictureSegments(_open(path, case_id), instance_uid, path, case_id) for path in paths]
    return _painted(painters, ids, shape)


def _open(path: Path, case_id: str) -> Dataset:
    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            if dataset.SOPClassUID == RTStructureSetStorage:
                return dataset
            _fill_thickness(dataset)
            return hd.seg.Segmentation.from_dataset(dataset, copy=False)
    except UNREADABLE as error:
        raise DataError.of(not_whole(path, error, case_id=case_id)) from error


def _fill_thickness(dataset: Dataset) -> None:
    """Give the pixels of a segmentation the thickness that highdicom asks for and a radiograph has not."""
    for group in dataset.get("SharedFunctionalGroupsSequence") or []:
        for measures in group.get("PixelMeasuresSequence") or []:
            if "SliceThickness" not in measures:
                measures.SliceThickness = 1.0


def _painted(painters: Sequence[_Painter], ids: Mapping[str, int], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8 if max(ids.values(), default=0) <= 255 else np.int32)
    for name, value in ids.items():
        for painter in painters:
            painter.paint(mask, name, value)
    return mask


class _Grid:
    """Where places in the patient lie on the grid of a volume."""

    def __init__(self, geometry: Geometry, tolerance_voxels: float) -> None:
        self.shape = geometry.shape
        self.tolerance = tolerance_voxels
        self.from_patient = np.linalg.inv(geometry.affine) @ LPS_TO_RAS

    def places(self, points_lps: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Voxel indices, not rounded, of points in the patient."""
        return points_lps @ self.from_patient[:3, :3].T + self.from_patient[:3, 3]

    def inside(self, indices: Integer[np.ndarray, "n 3"]) -> bool:
        """Whether all voxels lie on the grid."""
        return bool(((indices >= 0) & (indices < self.shape)).all())


class _Segments:
    """A segmentation whose frames have places in the patient; a fractional one counts from a half on."""

    def __init__(self, dataset: Dataset, grid: _Grid, path: Path, case_id: str) -> None:
        self.dataset = dataset
        self.grid = grid
        self.path = path
        self.case_id = case_id

    def paint(self, mask: Integer[np.ndarray, "x y z"], name: str, value: int) -> None:
        for number in _numbers_of(self.dataset, name):
            try:
                with quiet():
                    volume = self.dataset.get_volume(segment_numbers=[number])
            except UNREADABLE as error:
                raise DataError.of(not_whole(self.path, error, case_id=self.case_id)) from error
            matrix = self.grid.from_patient @ volume.affine
            for frame, marked in enumerate(volume.array[..., 0] >= 0.5):
                if marked.any():
                    mask[self._voxels(marked, frame, matrix)] = value

    def _voxels(
        self, marked: Bool[np.ndarray, "rows columns"], frame: int, matrix: Float[np.ndarray, "4 4"]
    ) -> tuple[np.ndarray, ...]:
        """Indices of the marked pixels of one frame on the grid of the volume."""
        pixels = np.argwhere(marked)
        exact = np.column_stack([np.full(len(pixels), frame), pixels]) @ matrix[:3, :3].T + matrix[:3, 3]
        nearest = np.rint(exact).astype(np.int64)
        apart = float(np.abs(exact - nearest).max())
        lengths = np.linalg.norm(matrix[:3, 1:3], axis=0)
        if apart > self.grid.tolerance or np.abs(lengths - 1).max() > 0.01 or not self.grid.inside(nearest):
            where = f"frame {frame} up to {apart:.3g} voxels off, pixels {lengths[0]:.4g} x {lengths[1]:.4g} voxels"
            found = where if self.grid.inside(nearest) else f"{where}, partly outside the image"
            raise DataError.of(_off_grid(self.path, self.case_id, found, self.grid))
        return tuple(nearest.T)


class _PictureSegments:
    """A segmentation whose frames name the image that they were drawn on."""

    def __init__(self, dataset: Dataset, instance_uid: str, path: Path, case_id: str) -> None:
        self.dataset = dataset
        self.instance_uid = instance_uid
        self.path = path
        self.case_id = case_id

    def paint(self, mask: Integer[np.ndarray, "rows columns"], name: str, value: int) -> None:
        for number in _numbers_of(self.dataset, name):
            try:
                with quiet():
                    frames = self.dataset.get_pixels_by_source_instance(
                        [self.instance_uid],
                        segment_numbers=[number],
                        ignore_spatial_locations=True,
                        assert_missing_frames_are_empty=True,
                    )
            except UNREADABLE as error:
                raise DataError.of(not_whole(self.path, error, case_id=self.case_id)) from error
            if frames.shape[1:3] != mask.shape:
                expected = f"the image's {mask.shape[0]} rows and {mask.shape[1]} columns"
                found = f"{frames.shape[1]} and {frames.shape[2]}"
                remedy = "check that it belongs to this image, or resample it"
                raise DataError.of(Fault("shape_mismatch", expected, found, remedy, self.case_id, self.path))
            mask[frames[0, ..., 0] >= 0.5] = value


class _Structures:
    """A structure set: closed contours, each in the plane of a slice.

    A voxel belongs to a region if its middle does. Contours of a region on one slice are combined by exclusive or, so
    that one inside another is a hole. Points and open lines enclose nothing.
    """

    def __init__(self, dataset: Dataset, grid: _Grid, path: Path, case_id: str) -> None:
        self.dataset = dataset
        self.grid = grid
        self.path = path
        self.case_id = case_id

    def paint(self, mask: Integer[np.ndarray, "x y z"], name: str, value: int) -> None:
        try:
            with quiet():
                contours = list(self._contours(name))
        except UNREADABLE as error:
            raise DataError.of(not_whole(self.path, error, case_id=self.case_id)) from error
        slices: dict[int, list[np.ndarray]] = defaultdict(list)
        for number, contour in enumerate(contours):
            slices[self._slice_of(contour, number, name)].append(contour[:, :2])
        for z, outlines in slices.items():
            mask[..., z][_enclosed(outlines, mask.shape[:2])] = value

    def _contours(self, name: str) -> Iterator[Float[np.ndarray, "n 3"]]:
        """Voxel indices of the corners of each closed contour."""
        numbers = {
            int(region.ROINumber)
            for region in self.dataset.StructureSetROISequence
            if str(region.get("ROIName") or "").strip() == name
        }
        for region in self.dataset.get("ROIContourSequence") or []:
            if int(region.ReferencedROINumber) not in numbers:
                continue
            for contour in region.get("ContourSequence") or []:
                if contour.ContourGeometricType in _CLOSED:
                    points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
                    yield self.grid.places(points)

    def _slice_of(self, contour: Float[np.ndarray, "n 3"], number: int, name: str) -> int:
        z = round(float(contour[:, 2].mean()))
        apart = float(np.abs(contour[:, 2] - z).max())
        if apart > self.grid.tolerance or not 0 <= z < self.grid.shape[2]:
            found = f"contour {number} of {name!r} at slice {contour[:, 2].mean():.3f} of {self.grid.shape[2]}"
            raise DataError.of(_off_grid(self.path, self.case_id, found, self.grid))
        return z


def _enclosed(outlines: Sequence[Float[np.ndarray, "_ 2"]], shape: tuple[int, ...]) -> Bool[np.ndarray, "x y"]:
    """Pixels whose middle an odd number of outlines encloses.

    A line of pixels changes between outside and inside wherever an edge crosses it. This takes a time that grows with
    edges and lines, and not with their product with the pixels, as asking each pixel does.

    Args:
        outlines: Corners in pixels; the last is joined to the first.
        shape: Pixels along both axes.

    Returns:
        The pixels.
    """
    changes = np.zeros((shape[0] + 1, shape[1]), dtype=np.int32)
    for outline in outlines:
        following = np.roll(outline, -1, axis=0)
        ends = np.sort([outline[:, 1], following[:, 1]], axis=0)
        first, behind = np.ceil(ends).clip(0, shape[1]).astype(np.int64)
        crossed = behind - first  # lines y with lower end <= y < upper end
        edge = np.repeat(np.arange(len(outline)), crossed)
        y = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
        start, step = outline[edge], (following - outline)[edge]
        x = start[:, 0] + (y - start[:, 1]) * step[:, 0] / step[:, 1]
        np.add.at(changes, (np.ceil(x).clip(0, shape[0]).astype(np.int64), y), 1)
    return np.cumsum(changes[:-1], axis=0) % 2 == 1


def _numbers_of(dataset: Dataset, name: str) -> list[int]:
    """Numbers of the segments of one label."""
    return [
        int(segment.SegmentNumber)
        for segment in dataset.SegmentSequence
        if str(segment.get("SegmentLabel") or "").strip() == name
    ]


def _off_grid(path: Path, case_id: str, found: str, grid: _Grid) -> Fault:
    return Fault(
        check="unfit_grid",
        expected=f"to lie on the image's grid of {grid.shape} voxels within {grid.tolerance} voxels",
        found=found,
        remedy="check that it belongs to this series, or resample it to the image's grid",
        case_id=case_id,
        file=path,
    )

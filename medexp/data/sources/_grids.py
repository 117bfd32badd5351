"""The grid of a label against that of its image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault, Severity
from medexp.core.geometry import Geometry
from medexp.data.sources._listed import check_choice
from medexp.data.sources._nifti import grid_offset_voxels

_ERROR, _WARN, _RESAMPLE = CHOICES = ("error", "warn", "resample_label")


@dataclass(frozen=True)
class GridRule:
    """What becomes of a label that does not lie on the grid of its image.

    Attributes:
        geometry: "error"; "warn", the label is taken voxel by voxel if it has the image's shape; or "resample_label",
            each voxel of the image gets the label nearest to it in the world, and background where there is none.
        tolerance_voxels: How far the grids may lie apart, at the most distant voxel.

    Raises:
        UsageError: A knob has an unfit value.
    """

    geometry: str
    tolerance_voxels: float

    def __post_init__(self) -> None:
        check_choice("geometry", self.geometry, CHOICES)
        if not self.tolerance_voxels >= 0:
            raise UsageError(f"dataset.source.grid_tolerance_voxels needs 0 or more, got {self.tolerance_voxels}")

    def apply(
        self,
        labels: Integer[np.ndarray, "*labels"],
        geometry: Geometry,
        image: Geometry,
        *,
        case_id: str,
        path: Path,
    ) -> tuple[Integer[np.ndarray, "*image"], tuple[Fault, ...]]:
        """Labels on the grid of the image, and what is to be told of them.

        Args:
            labels: Label ids.
            geometry: Their grid.
            image: The image's grid.
            case_id: The case.
            path: The file of the labels.

        Returns:
            The labels, and warnings.

        Raises:
            DataError: The grids differ and must not, or the label lies outside the image.
        """
        faults = check_same_grid(geometry, image, tolerance_voxels=self.tolerance_voxels, case_id=case_id, path=path)
        if not faults:
            return labels, ()
        resampled = self.geometry == _RESAMPLE and geometry.unit == image.unit == "mm"
        if self.geometry == _ERROR or (not resampled and geometry.shape != image.shape):
            raise DataError.of(*faults)
        remedy = "the label was resampled onto the image's grid" if resampled else "the label was taken as it is"
        warnings = tuple(replace(fault, remedy=remedy, severity=Severity.WARNING) for fault in faults)
        if not resampled:
            return labels, warnings
        placed = resample_nearest(labels, geometry, image)
        if labels.any() and not placed.any():
            expected, remedy = "labels within the image", "check that it belongs to this case"
            raise DataError.of(Fault("affine_mismatch", expected, "all of them outside", remedy, case_id, path))
        return placed, warnings


def check_same_grid(
    geometry: Geometry, image: Geometry, *, tolerance_voxels: float, case_id: str, path: Path
) -> tuple[Fault, ...]:
    """What differs between the grid of a file and the one of its image.

    Where only one of the two has a physical scale, as a mask in a PNG file of an image in a NIfTI file, shapes alone
    are compared.

    Args:
        geometry: The grid of the file.
        image: The image's grid.
        tolerance_voxels: How far they may lie apart, at the most distant voxel.
        case_id: The case.
        path: The file.

    Returns:
        The faults.
    """
    told = []
    if geometry.shape != image.shape:
        told.append(("shape_mismatch", f"shape {image.shape} as the image has", f"{geometry.shape}"))
    if geometry.unit == image.unit and geometry.spatial_dims == image.spatial_dims:
        told += _apart(geometry, image, tolerance_voxels)
    remedy = "check that it belongs to this case, correct its header, or set dataset.source.geometry=resample_label"
    return tuple(Fault(check, expected, found, remedy, case_id, path) for check, expected, found in told)


def _apart(geometry: Geometry, image: Geometry, tolerance_voxels: float) -> list[tuple[str, str, str]]:
    ratios = np.array(geometry.spacing_mm) / np.array(image.spacing_mm)
    drift = float((np.abs(ratios - 1) * np.maximum(np.array(image.shape) - 1, 1)).max())
    if drift > tolerance_voxels:
        found = f"{_rounded(geometry)}, which drifts {drift:.3g} voxels apart"
        return [("spacing_mismatch", f"the image's spacing {_rounded(image)}", found)]
    offset = grid_offset_voxels(image.shape, image.affine, geometry.affine)
    if offset <= tolerance_voxels:
        return []
    expected = f"the image's affine {image.affine.tolist()} within {tolerance_voxels} voxels"
    return [("affine_mismatch", expected, f"{geometry.affine.tolist()}, up to {offset:.3g} voxels away")]


def _rounded(geometry: Geometry) -> str:
    return f"({', '.join(f'{length:.6g}' for length in geometry.spacing_mm)})"


def resample_nearest(
    labels: Integer[np.ndarray, "*labels"], geometry: Geometry, onto: Geometry
) -> Integer[np.ndarray, "*image"]:
    """The label whose voxel is nearest to each voxel of another grid in the same world, 0 outside.

    Args:
        labels: Label ids.
        geometry: Their grid.
        onto: The other grid.

    Returns:
        Label ids of the same type on the other grid.
    """
    to_labels = np.linalg.solve(geometry.affine, onto.affine)
    return ndimage.affine_transform(
        labels,
        to_labels[:-1, :-1],
        offset=to_labels[:-1, -1],
        output_shape=onto.shape,
        order=0,
        mode="grid-constant",  # a voxel reaches half its length beyond its centre, at the border too
        prefilter=False,
    )

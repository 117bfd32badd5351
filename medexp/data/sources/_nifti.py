"""Reading NIfTI files with the checks that nibabel leaves to its user."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float, Integer, Num
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.data.sources._file_faults import examples, is_there, missing, not_whole, unreadable, unusable_grid

ENDINGS = (".nii.gz", ".nii")

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # codes of metres and micrometres; nibabel's affine is in the header's own unit
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)

Affine = Float[np.ndarray, "4 4"]


def stem(name: str) -> str | None:
    """File name without its NIfTI ending in either case of letters, or None where it has none."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
    return None if ending is None else name[: -len(ending)]


def read_nifti(
    path: Path, *, where: str, dtype: type | None, header_tolerance_voxels: float | None, least_axes: int = 3
) -> tuple[Num[np.ndarray, "..."], Affine]:
    """Read voxels, scaled as the header says, and the affine in millimetres.

    Args:
        path: The file.
        where: Case and role of the file, the start of every error message.
        dtype: Type of the voxels; None keeps the file's own where the header does not scale.
        header_tolerance_voxels: How far a voxel's place by sform and by qform may differ; None does not ask.
        least_axes: Fewest axes that the image may have.

    Returns:
        Voxels with the axes of the file, and the matrix from voxel index to millimetres.

    Raises:
        DataError: The file is missing, damaged, no NIfTI image of plain numbers, or unsure about its own grid.
    """
    if not is_there(path):
        raise refusal(where, missing(path))
    try:
        nifti = nib.load(path)
        _check_header(nifti, path, where, header_tolerance_voxels, least_axes)
        with np.errstate(over="ignore", invalid="ignore"):  # what leaves the range becomes inf, which is refused later
            voxels = np.asarray(nifti.dataobj, dtype=dtype)
    except UNREADABLE as error:
        raise refusal(where, unreadable(path, error, kind="a whole NIfTI image")) from error
    return voxels, _affine_mm(nifti)


def refusal(where: str, fault: Fault) -> DataError:
    """The error of a file; the message starts with case and role."""
    error = DataError(f"{where}: {fault}")
    error.faults = (fault,)
    return error


def _affine_mm(nifti: Any) -> Affine:
    affine = np.array(nifti.affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(nifti.header["xyzt_units"]) & 7, 1.0)
    return affine


def _check_header(nifti: Any, path: Path, where: str, tolerance_voxels: float | None, least_axes: int) -> None:
    """Refuse an image that has not enough axes of plain numbers, or is unsure of its place in the world."""
    if nifti.get_data_dtype().kind not in "iufb":
        raise refusal(
            where,
            Fault(
                check="wrong_channels",
                expected="one plain number per voxel",
                found=f"type {nifti.get_data_dtype()} (colour or complex)",
                remedy="convert it to grey values, one channel per file",
                file=path,
            ),
        )
    if len(nifti.shape) < least_axes:
        raise refusal(
            where,
            Fault(
                check="wrong_dimensions",
                expected=f"shape ({', '.join('xyz'[:least_axes])})",
                found=f"{nifti.shape}",
                remedy="give a slice a third axis of 1",
                file=path,
            ),
        )
    if tolerance_voxels is not None:
        _check_forms(nifti, path, where, tolerance_voxels)


def _check_forms(nifti: Any, path: Path, where: str, tolerance_voxels: float) -> None:
    """Refuse a header that states no place in the world, or two different ones."""
    sform, sform_code = nifti.get_sform(coded=True)
    qform, qform_code = nifti.get_qform(coded=True)
    if sform_code == 0 and qform_code == 0:
        expected, found = "sform_code or qform_code above 0", "0 for both"
    elif sform_code == 0 or qform_code == 0:
        return
    else:
        offset = grid_offset_voxels((*nifti.shape, 1)[:3], sform, qform)
        if offset <= tolerance_voxels:
            return
        expected = f"sform and qform that agree within {tolerance_voxels} voxels"
        found = f"up to {offset:.3g} voxels apart"
    remedy = "correct the header, or accept nibabel's choice (sform before qform) with check_headers=false"
    raise refusal(where, Fault("unsure_grid", expected, found, remedy, file=path))


def grid_offset_voxels(
    shape: tuple[int, ...], affine: Float[np.ndarray, "rows rows"], other: Float[np.ndarray, "rows rows"]
) -> float:
    """Largest distance along an axis, in voxels of the first grid, between where two affines put the same voxel.

    The distance is linear in the voxel index, so the grid's corners hold its maximum. It is inf for a singular affine.
    """
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))], dtype=float)
    try:
        moved = np.linalg.solve(affine, other @ corners.T)
    except np.linalg.LinAlgError:
        return float("inf")
    return float(np.abs(moved - corners.T).max())


def geometry_of(shape: tuple[int, ...], affine: Affine, *, path: Path, where: str) -> Geometry:
    """The grid of a volume; DataError with case and file where the affine is singular or not finite."""
    try:
        return Geometry(shape=tuple(shape), affine=affine)
    except DataError as error:
        raise refusal(where, unusable_grid(error, path)) from error


def check_finite(voxels: Float[np.ndarray, "..."], *, path: Path, where: str) -> None:
    """Refuse an image with NaN or infinite values."""
    finite = np.isfinite(voxels)
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), voxels.shape))
        raise refusal(
            where,
            Fault(
                check="not_finite",
                expected="finite values",
                found=f"{voxels.size - int(finite.sum())} of {voxels.size} that are NaN or beyond float32, the first "
                f"at voxel {first}",
                remedy="replace them in the file",
                file=path,
            ),
        )


def label_ids(
    voxels: Num[np.ndarray, "*spatial"], declared: Collection[int], *, path: Path, where: str
) -> Integer[np.ndarray, "*spatial"]:
    """The mask as integers; labels are often stored as floating point numbers.

    DataError where a value is not a whole number, or no declared id.
    """
    broken = not_whole(voxels, path)
    if broken is not None:
        raise refusal(where, broken)
    known = np.isin(voxels, sorted(declared))
    if not known.all():
        found = examples(voxels[~known])
        hint = "it looks like a mask saved as 0 and 255: save it as 0 and 1" if found == "255" else ""
        raise refusal(
            where,
            Fault(
                check="undeclared_label",
                expected=f"the label ids {sorted(declared)}",
                found=f"also {found} ({int((~known).sum())} voxels)",
                remedy=hint or "declare them in dataset.json, or correct the file",
                file=path,
            ),
        )
    return voxels.astype(np.uint8 if max(declared) <= 255 else np.int32)

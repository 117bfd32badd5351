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
from medexp.core.geometry import Geometry

ENDINGS = (".nii.gz", ".nii")

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # codes of metres and micrometres; nibabel's affine is in the header's own unit
_UNREADABLE = (
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
    path: Path, *, where: str, dtype: type | None, header_tolerance_voxels: float | None
) -> tuple[Num[np.ndarray, "..."], Affine]:
    """Read voxels, scaled as the header says, and the affine in millimetres.

    Args:
        path: The file.
        where: Case and role of the file, the start of every error message.
        dtype: Type of the voxels; None keeps the file's own where the header does not scale.
        header_tolerance_voxels: How far a voxel's place by sform and by qform may differ; None does not ask.

    Returns:
        Voxels with the axes of the file, and the matrix from voxel index to millimetres.

    Raises:
        DataError: The file is missing, damaged, no NIfTI image of plain numbers, or unsure about its own grid.
    """
    if not path.is_file():
        raise DataError(f"{where}: {path} is missing; restore the file, or take the case out of the dataset")
    try:
        nifti = nib.load(path)
        _check_header(nifti, path, where, header_tolerance_voxels)
        with np.errstate(over="ignore", invalid="ignore"):  # what leaves the range becomes inf, which is refused later
            voxels = np.asarray(nifti.dataobj, dtype=dtype)
    except _UNREADABLE as error:
        raise DataError(
            f"{where}: {path} should be a NIfTI image, but reading it failed ({type(error).__name__}: {error}); it may "
            f"be truncated or something else under this name: copy or download it again"
        ) from error
    return voxels, _affine_mm(nifti)


def _affine_mm(nifti: Any) -> Affine:
    affine = np.array(nifti.affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(nifti.header["xyzt_units"]) & 7, 1.0)
    return affine


def _check_header(nifti: Any, path: Path, where: str, tolerance_voxels: float | None) -> None:
    """Refuse an image that has not three axes of plain numbers, or is unsure of its place in the world."""
    if nifti.get_data_dtype().kind not in "iufb":
        raise DataError(
            f"{where}: {path} needs one plain number per voxel, got type {nifti.get_data_dtype()} (colour or complex); "
            f"convert it to grey values, one channel per file"
        )
    if len(nifti.shape) < 3:
        raise DataError(f"{where}: {path} needs shape (x, y, z), got {nifti.shape}; give a slice a third axis of 1")
    if tolerance_voxels is not None:
        _check_forms(nifti, path, where, tolerance_voxels)


def _check_forms(nifti: Any, path: Path, where: str, tolerance_voxels: float) -> None:
    """Refuse a header that states no place in the world, or two different ones."""
    remedy = "correct the header, or accept nibabel's choice (sform before qform) with check_headers=false"
    sform, sform_code = nifti.get_sform(coded=True)
    qform, qform_code = nifti.get_qform(coded=True)
    if sform_code == 0 and qform_code == 0:
        raise DataError(f"{where}: {path} needs sform_code or qform_code above 0, got 0 for both; {remedy}")
    if sform_code == 0 or qform_code == 0:
        return
    offset = grid_offset_voxels(nifti.shape[:3], sform, qform)
    if not offset <= tolerance_voxels:
        raise DataError(
            f"{where}: sform and qform of {path} need to agree within {tolerance_voxels} voxels, got up to "
            f"{offset:.3g} voxels apart; {remedy}"
        )


def grid_offset_voxels(shape: tuple[int, ...], affine: Affine, other: Affine) -> float:
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
        raise DataError(f"{where}: {path}: {error}") from error


def check_finite(voxels: Float[np.ndarray, "..."], *, path: Path, where: str) -> None:
    """Refuse an image with NaN or infinite values."""
    finite = np.isfinite(voxels)
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), voxels.shape))
        raise DataError(
            f"{where}: {path} needs finite values, got {voxels.size - int(finite.sum())} of {voxels.size} that are NaN "
            f"or beyond float32, the first at voxel {first}; replace them in the file"
        )


def label_ids(
    voxels: Num[np.ndarray, "*spatial"], declared: Collection[int], *, path: Path, where: str
) -> Integer[np.ndarray, "*spatial"]:
    """The mask as integers; labels are often stored as floating point numbers.

    DataError where a value is not a whole number, or no declared id.
    """
    if voxels.dtype.kind == "f":
        broken = ~np.isfinite(voxels) | (voxels != np.rint(voxels))
        if broken.any():
            raise DataError(
                f"{where}: {path} needs whole numbers, got {_examples(voxels[broken])} ({int(broken.sum())} voxels); "
                f"labels may have been resampled with interpolation: make them again with nearest neighbour"
            )
    known = np.isin(voxels, sorted(declared))
    if not known.all():
        found = _examples(voxels[~known])
        hint = "; it looks like a mask saved as 0 and 255: save it as 0 and 1" if found == "255" else ""
        raise DataError(
            f"{where}: {path} needs the label ids {sorted(declared)}, got also {found} ({int((~known).sum())} voxels)"
            f"{hint or '; declare them in dataset.json, or correct the file'}"
        )
    return voxels.astype(np.uint8 if max(declared) <= 255 else np.int32)


def _examples(values: np.ndarray, count: int = 5) -> str:
    distinct = np.unique(values)
    return ", ".join(f"{value:g}" for value in distinct[:count].tolist()) + (", ..." if len(distinct) > count else "")

"""The one reader of image and label files: NIfTI, NRRD, MetaImage, PNG, TIFF, JPEG, BMP and GIF."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Integer, Num, Shaped
from PIL.Image import DecompressionBombError

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.data.sources import _itk, _nifti
from medexp.data.sources._file_faults import is_there, missing, not_whole, unreadable, unusable_grid
from medexp.data.sources._nifti import Affine
from medexp.data.sources._pictures import PICTURES, Picture, read_picture

ENDINGS: tuple[str, ...] = (*_nifti.ENDINGS, *_itk.ENDINGS, *PICTURES)

# How far a voxel's place by a NIfTI file's sform and by its qform may differ.
HEADER_TOLERANCE_VOXELS = 0.05

_UNREADABLE = (
    *_nifti.UNREADABLE,
    SyntaxError,  # of Pillow
    RuntimeError,  # of SimpleITK
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    struct.error,
    DecompressionBombError,
)


def stem(name: str) -> str | None:
    """File name without an ending that is read, in either case of letters, or None where it has none."""
    ending = ending_of(name)
    return None if ending is None else name[: -len(ending)]


def ending_of(name: str) -> str | None:
    """The ending by which a file is read, in lower case; None where there is none."""
    lower = name.lower()
    return next((ending for ending in ENDINGS if lower.endswith(ending)), None)


def read_image(
    path: Path,
    *,
    case_id: str,
    spatial_dims: int,
    header_tolerance_voxels: float | None = HEADER_TOLERANCE_VOXELS,
) -> tuple[Float32[np.ndarray, "channels *spatial"], Geometry]:
    """Read an image.

    Axes are (x, y) or (x, y, z) in NIfTI, NRRD and MetaImage files, whose world is in millimetres to the right,
    front and head, and (rows, columns) or (pages, rows, columns) in pictures, whose world is in pixels. A further axis
    holds channels, as colours do.

    Args:
        path: The file.
        case_id: The case, for errors.
        spatial_dims: 2 or 3; a volume of one slice is an image of two axes.
        header_tolerance_voxels: How far a voxel's place by a NIfTI file's sform and by its qform may differ; None does
            not ask.

    Returns:
        Values and grid.

    Raises:
        DataError: The file is missing, damaged, something else than its name says, of another number of axes, a
            picture with a table of colours or with a transparency, or unsure about its own grid.
    """
    picture, geometry = _read(path, case_id, spatial_dims, header_tolerance_voxels)
    if picture.indexed:
        raise _refused(
            "wrong_channels",
            path,
            case_id,
            expected="grey values or colours",
            found="places in a table of colours (a palette)",
            remedy="save the picture as grey or RGB",
        )
    values = picture.values
    if picture.inverted and values.dtype.kind == "u":
        values = 2**picture.bits - 1 - values
    with np.errstate(over="ignore"):
        return np.require(values, np.float32, "W"), geometry


def read_labels(
    path: Path,
    *,
    case_id: str,
    spatial_dims: int,
    header_tolerance_voxels: float | None = HEADER_TOLERANCE_VOXELS,
) -> tuple[Integer[np.ndarray, "*spatial"], Geometry]:
    """Read label ids or instance ids, with the axes that `read_image` gives; of a palette picture the indices.

    Args:
        path: The file.
        case_id: The case, for errors.
        spatial_dims: 2 or 3.
        header_tolerance_voxels: As for `read_image`.

    Returns:
        Ids (8 bits without sign, else 32 or 64 with sign), and grid.

    Raises:
        DataError: As `read_image`; the file is compressed with loss, has several channels that differ, or values that
            are no whole numbers.
    """
    picture, geometry = _read(path, case_id, spatial_dims, header_tolerance_voxels)
    if picture.lossy:
        raise _refused(
            "lossy_mask",
            path,
            case_id,
            expected="a format that keeps every value",
            found="JPEG compression, which changes labels at borders",
            remedy="make it again from its source as PNG, TIFF or NIfTI",
        )
    values = picture.values
    if len(values) > 1 and not (values == values[:1]).all():
        raise _refused(
            "wrong_channels",
            path,
            case_id,
            expected="one label id per voxel",
            found=f"{len(values)} channels that differ",
            remedy="save the label ids themselves, as grey values or as a palette picture",
        )
    broken = not_whole(values[0], path, case_id=case_id)
    if broken is not None:
        raise DataError.of(broken)
    return _as_integers(values[0]), geometry


def _read(path: Path, case_id: str, spatial_dims: int, tolerance_voxels: float | None) -> tuple[Picture, Geometry]:
    ending = ending_of(path.name)
    if ending is None:
        raise _refused(
            "unreadable",
            path,
            case_id,
            expected=f"one of the endings {', '.join(ENDINGS)}",
            found=f"{path.suffix!r}",
            remedy="convert the file",
        )
    if not is_there(path):
        raise DataError.of(missing(path, case_id=case_id))
    try:
        if ending in PICTURES:
            return _picture(path, case_id, spatial_dims)
        return _volume(path, case_id, spatial_dims, tolerance_voxels)
    except DataError as error:
        raise DataError.of(*(replace(fault, case_id=case_id) for fault in error.faults)) from error
    except _UNREADABLE as error:
        raise DataError.of(unreadable(path, error, kind=f"a whole {ending} file", case_id=case_id)) from error


def _picture(path: Path, case_id: str, spatial_dims: int) -> tuple[Picture, Geometry]:
    picture = read_picture(path, case_id=case_id)
    shape = picture.values.shape[1:]
    if len(shape) != spatial_dims:
        raise _wrong_axes(shape, path, case_id, spatial_dims)
    return picture, Geometry.from_spacing(shape, (1.0,) * spatial_dims, unit="px")


def _volume(path: Path, case_id: str, spatial_dims: int, tolerance: float | None) -> tuple[Picture, Geometry]:
    if path.name.lower().endswith(_nifti.ENDINGS):
        voxels, affine = _nifti.read_nifti(
            path, where=f"case {case_id}", dtype=None, header_tolerance_voxels=tolerance, least_axes=spatial_dims
        )
    else:
        voxels, affine = _itk.read_itk(path, case_id=case_id, least_axes=spatial_dims)
    values = _channels_first(voxels, path, case_id, spatial_dims)
    try:
        geometry = Geometry(shape=values.shape[1:], affine=affine if spatial_dims == 3 else _in_plane(affine))
    except DataError as error:
        raise DataError.of(unusable_grid(error, path, case_id=case_id)) from error
    return Picture(values=values), geometry


def _channels_first(
    voxels: Num[np.ndarray, "..."], path: Path, case_id: str, spatial_dims: int
) -> Num[np.ndarray, "channels *spatial"]:
    """Channels lie behind the third axis of a file, which has a length of 1 in an image of two axes."""
    flat = spatial_dims == 2
    behind = [length for length in voxels.shape[3:] if length > 1]
    if len(behind) > 1 or (flat and voxels.shape[2:3] not in ((), (1,))):
        raise _wrong_axes(voxels.shape, path, case_id, spatial_dims)
    values = voxels.reshape(*voxels.shape[:spatial_dims], *behind)
    return np.moveaxis(values, -1, 0) if behind else values[None]


def _in_plane(affine: Affine) -> Float[np.ndarray, "3 3"]:
    """The grid of a slice: its place in the plane where that is axial, else its spacing alone."""
    spacing = np.linalg.norm(affine[:3, :2], axis=0)
    if np.abs(affine[2, :2]).max() <= 1e-6 * spacing.max():
        return affine[np.ix_([0, 1, 3], [0, 1, 3])]
    return np.diag([*spacing, 1.0])


def _as_integers(values: Shaped[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "*spatial"]:
    """The smallest of the types that torch can work with."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low >= 0 and high <= np.iinfo(np.uint8).max:
        return values.astype(np.uint8)
    fits = low >= np.iinfo(np.int32).min and high <= np.iinfo(np.int32).max
    return values.astype(np.int32 if fits else np.int64)


def _wrong_axes(shape: tuple[int, ...], path: Path, case_id: str, spatial_dims: int) -> DataError:
    return _refused(
        "wrong_dimensions",
        path,
        case_id,
        expected=f"{spatial_dims} spatial axes",
        found=f"shape {shape}",
        remedy=f"choose a dataset of {3 if spatial_dims == 2 else 2} dimensions, or split or stack the images",
    )


def _refused(check: str, path: Path, case_id: str, *, expected: str, found: str, remedy: str) -> DataError:
    return DataError.of(Fault(check, expected, found, remedy, case_id=case_id, file=path))

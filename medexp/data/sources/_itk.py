"""Reading NRRD and MetaImage files into the axes and the world of NIfTI."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import SimpleITK
from jaxtyping import Num

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.data.sources._file_faults import is_there
from medexp.data.sources._nifti import Affine

# Headers whose voxels lie in a file of their own.
DETACHED = (".nhdr", ".mhd")
_READERS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
ENDINGS = tuple(_READERS)

# World axes of ITK run to the left and to the back, those of NIfTI to the right and to the front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DATA_FILE = re.compile(rb"\s*(?:ElementDataFile\s*[=:]|data ?file:)(.*)", re.IGNORECASE | re.DOTALL)


def read_itk(path: Path, *, case_id: str, least_axes: int) -> tuple[Num[np.ndarray, "..."], Affine]:
    """Read voxels and the affine.

    Args:
        path: The file.
        case_id: The case, for errors.
        least_axes: Fewest axes that the image may have.

    Returns:
        Voxels with the axes (x, y, z) and, where there are several values a voxel, an axis for them behind; z has the
        length 1 in a 2D image. The matrix from voxel index to millimetres to the right, front and head.

    Raises:
        DataError: The voxels lie in a file that its header does not name plainly, or the image has not enough axes.
        ValueError: The voxels are complex numbers.
    """
    _check_data_file(path, case_id)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_READERS[path.suffix.lower()])
    reader.SetFileName(str(path))
    image = reader.Execute()
    if image.GetDimension() < least_axes:
        expected, found = f"{least_axes} axes", f"shape {image.GetSize()}"
        remedy = "give a slice a third axis of 1"
        raise DataError.of(Fault("wrong_dimensions", expected, found, remedy, case_id=case_id, file=path))
    voxels = SimpleITK.GetArrayFromImage(image)
    if voxels.dtype.kind not in "iuf":
        raise ValueError(f"voxels are of type {voxels.dtype}: convert them to plain numbers")
    vector = image.GetNumberOfComponentsPerPixel() > 1
    axes = [*reversed(range(image.GetDimension())), *([image.GetDimension()] if vector else [])]
    voxels = voxels.transpose(axes)
    if image.GetDimension() == 2:
        voxels = np.expand_dims(voxels, 2)
    return voxels, _affine(image)


def data_file(path: Path) -> Path | None:
    """The file that holds the voxels of a header; None where they lie in the same file, or the header is unfit."""
    named = _named_data_file(path) if path.name.lower().endswith(DETACHED) and is_there(path) else None
    return path.with_name(named) if named is not None and _is_plain_name(named) else None


def _affine(image: SimpleITK.Image) -> Affine:
    """Of a series of volumes that of the first."""
    dims = image.GetDimension()
    spatial = min(dims, 3)
    direction = np.array(image.GetDirection()).reshape(dims, dims)
    affine = np.eye(4)
    affine[:spatial, :spatial] = (direction * np.array(image.GetSpacing()))[:spatial, :spatial]
    affine[:spatial, 3] = image.GetOrigin()[:spatial]
    return _LPS_TO_RAS @ affine


def _named_data_file(path: Path) -> str | None:
    """What a header says of the file that holds the voxels; None where it says nothing, or that they follow."""
    is_nrrd = path.name.lower().endswith((".nrrd", ".nhdr"))
    with path.open("rb") as stream:
        for line in stream:
            if is_nrrd and not line.strip():
                return None
            if named := _DATA_FILE.fullmatch(line):
                text = named[1].strip().decode("utf-8", errors="replace")
                return None if text.upper() == "LOCAL" else text
    return None


def _is_plain_name(named: str) -> bool:
    return PurePosixPath(named).name == PureWindowsPath(named).name == named and named != "LIST" and "%" not in named


def _check_data_file(path: Path, case_id: str) -> None:
    """Refuse a header that names voxels elsewhere, or in a file that is not looked for.

    The content of a case is known by its files, so voxels that only a header names could change unseen.
    """
    named = _named_data_file(path)
    if named is None:
        return
    detached = path.name.lower().endswith(DETACHED)
    if not _is_plain_name(named):
        check, expected = "path_traversal", "a header that names one file beside it"
        remedy = "convert it to a single file, such as .nrrd or .mha"
    elif not detached:
        check, expected = "unreadable", "to hold its own voxels"
        remedy = f"rename it to {' or '.join(DETACHED)}, or convert it to a single file"
    elif not is_there(path.with_name(named)):
        check, expected = "missing_file", "the file that its header names beside it"
        remedy = "that file is missing: restore it, or take the case out of the dataset"
    else:
        return
    found = f"a header that names {named!r}"
    raise DataError.of(Fault(check, expected, found, remedy, case_id=case_id, file=path))

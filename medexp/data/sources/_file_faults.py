"""Faults of a file that is missing, damaged, or holds what a label or a grid cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Num

from medexp.core.faults import Fault

_GUISES = {
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"\x89png": "a PNG file",
    b"\xff\xd8\xff": "a JPEG file",
    b"pk\x03\x04": "a ZIP archive",
}


def is_there(path: Path) -> bool:
    """Whether a path leads to a file; one that the system refuses, as it is too long, does not."""
    try:
        return path.is_file()
    except OSError:
        return False


def missing(path: Path, *, case_id: str | None = None) -> Fault:
    """The fault of a file that is not there."""
    return Fault(
        check="missing_file",
        expected="to be there",
        found="nothing: it is missing",
        remedy="restore the file, or take the case out of the dataset",
        case_id=case_id,
        file=path,
    )


def unreadable(path: Path, error: BaseException, *, kind: str, case_id: str | None = None) -> Fault:
    """The fault of a file that is not what its name says."""
    reason = " ".join(str(error).split()) or "no reason given"
    return Fault(
        check="unreadable",
        expected=f"to be {kind}",
        found=f"{_guise(path)}: reading it failed ({type(error).__name__}: {reason})",
        remedy="it may be truncated or something else under this name: copy or download it again",
        case_id=case_id,
        file=path,
    )


def _guise(path: Path) -> str:
    """What a file is by its first bytes, where that is one of the usual mistakes."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64).lstrip().lower()
    except OSError:
        return "a file that cannot be opened"
    if not start:
        return "an empty file"
    return next((guise for magic, guise in _GUISES.items() if start.startswith(magic)), "other content")


def unusable_grid(error: Exception, path: Path, *, case_id: str | None = None) -> Fault:
    """The fault of a header whose grid is none."""
    return Fault(
        check="singular_affine",
        expected="a grid in the world",
        found=f"none: {error}",
        remedy="correct the header",
        case_id=case_id,
        file=path,
    )


def not_whole(values: Num[np.ndarray, "..."], path: Path, *, case_id: str | None = None) -> Fault | None:
    """The fault of labels that are no whole numbers of up to 64 bits; None where all are."""
    if values.dtype.kind == "f":
        broken = ~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) >= 2.0**63)
    else:
        broken = values > np.iinfo(np.int64).max
    if not broken.any():
        return None
    return Fault(
        check="non_integer_label",
        expected="whole numbers",
        found=f"{examples(values[broken])} ({int(broken.sum())} voxels)",
        remedy="labels may have been resampled with interpolation: make them again with nearest neighbour",
        case_id=case_id,
        file=path,
    )


def examples(values: np.ndarray, count: int = 5) -> str:
    """Some of the distinct values, in words."""
    distinct = np.unique(values)
    return ", ".join(f"{value:g}" for value in distinct[:count].tolist()) + (", ..." if len(distinct) > count else "")

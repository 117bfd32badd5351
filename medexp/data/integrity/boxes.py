"""Checks of the boxes and points of one case."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from medexp.core.faults import Fault
from medexp.core.types import Case
from medexp.data.integrity.checks import fault
from medexp.data.integrity.demands import Demands
from medexp.data.integrity.files import reference_file
from medexp.data.integrity.measurement import Measurement

# Annotation tools round and count pixels in different ways.
_TOLERANCE = 1.0
_NAMED = 3


def box_faults(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Boxes that end before they start, have no extent, leave the image, or are in other units.

    Args:
        case: The case.
        seen: Its measurement.
        demands: What the dataset declares.

    Yields:
        The faults, one of a kind.
    """
    dims = len(seen.shape)
    if seen.objects is None or not seen.objects.boxes or len(seen.objects.boxes[0]) != 2 * dims:
        return
    boxes = np.array(seen.objects.boxes)
    finite = np.isfinite(boxes).all(axis=1)
    yield from _told(case, "box_not_finite", boxes, ~finite, "finite ends", "correct or remove them")
    boxes = boxes[finite]
    low, high, size = boxes[:, :dims], boxes[:, dims:], np.array(seen.shape, dtype=float)
    reversed_ = (high < low).any(axis=1)
    remedy = _if_sizes(low, high, size) or "exchange the ends, or remove the box"
    yield from _told(case, "box_order", boxes, reversed_, "boxes whose ends follow their starts", remedy)
    yield from _told(
        case,
        "box_without_extent",
        boxes,
        _flat(low, high),
        "boxes with an extent along each axis",
        "correct or remove it",
    )
    outside = ((low < -_TOLERANCE) | (high > size + _TOLERANCE)).any(axis=1) & ~reversed_
    if outside.any() and _fit_in_mm(low, high, seen):
        remedy = "divide by the spacing; boxes are counted in voxels"
        yield from _told(case, "boxes_in_mm", boxes, outside, f"boxes in voxels of {seen.shape}", remedy)
    else:
        remedy = _if_ends(low, high, size) or "cut it at the border, or check that it belongs to this image"
        yield from _told(case, "box_outside", boxes, outside, f"boxes inside {seen.shape}", remedy)


def _told(
    case: Case,
    check: str,
    boxes: Float[np.ndarray, "n corners"],
    wrong: Bool[np.ndarray, "n"],
    expected: str,
    remedy: str,
) -> Iterator[Fault]:
    if not wrong.any():
        return
    examples = ", ".join(str([round(value, 2) for value in box]) for box in boxes[wrong][:_NAMED].tolist())
    more = ", ..." if int(wrong.sum()) > _NAMED else ""
    yield fault(
        check,
        case=case,
        file=reference_file(case),
        expected=expected,
        found=f"{int(wrong.sum())} of {len(wrong)} that are not: {examples}{more}",
        remedy=remedy,
    )


def _flat(low: Float[np.ndarray, "n dims"], high: Float[np.ndarray, "n dims"]) -> Bool[np.ndarray, "n"]:
    """Boxes that are flat along some axis; where none of a case has any extent, they are points."""
    flat = high == low
    return flat.any(axis=1) & (not flat.all())


def _if_sizes(
    low: Float[np.ndarray, "n dims"], high: Float[np.ndarray, "n dims"], size: Float[np.ndarray, "dims"]
) -> str | None:
    """A remedy if all boxes lie in the image once their ends are taken for sizes."""
    fit = (high > 0).all() and (low >= -_TOLERANCE).all() and (low + high <= size + _TOLERANCE).all()
    return "they look like x, y, width, height read as x1, y1, x2, y2: read them as that" if fit else None


def _if_ends(
    low: Float[np.ndarray, "n dims"], high: Float[np.ndarray, "n dims"], size: Float[np.ndarray, "dims"]
) -> str | None:
    """A remedy if all boxes lie in the image once their extents are taken for ends."""
    ends = high - low
    fit = (low >= -_TOLERANCE).all() and (ends >= low).all() and (ends <= size + _TOLERANCE).all()
    return "they look like x1, y1, x2, y2 read as x, y, width, height: read them as that" if fit else None


def _fit_in_mm(low: Float[np.ndarray, "n dims"], high: Float[np.ndarray, "n dims"], seen: Measurement) -> bool:
    """Whether all boxes lie in the image once they are taken for millimetres, from its first voxel or in its world."""
    affine = np.array(seen.affine)
    scale = np.linalg.norm(affine[:-1, :-1], axis=0)
    if seen.unit != "mm" or np.allclose(affine, np.eye(len(affine))):
        return False
    inverse = np.linalg.inv(affine)
    in_world = np.stack([ends @ inverse[:-1, :-1].T + inverse[:-1, -1] for ends in (low, high)])
    readings = (np.stack([low, high]) / scale, in_world)
    size = np.array(seen.shape)
    return any(bool(((ends >= -_TOLERANCE) & (ends <= size + _TOLERANCE)).all()) for ends in readings)

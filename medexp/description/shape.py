"""Lengths and surfaces of single objects, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull


def diameters_mm(area: Bool[np.ndarray, "rows columns"], spacing_mm: Sequence[float]) -> tuple[float, float]:
    """The longest diameter of an area, and the longest chord at a right angle to it.

    Both are taken of the convex hull of the outline, which runs half-way between the centres of voxels inside and
    outside. These are the two diameters of a lesion on an axial slice in E. A. Eisenhauer et al., New response
    evaluation criteria in solid tumours (RECIST 1.1), European Journal of Cancer 45 (2009).

    Args:
        area: At least one voxel.
        spacing_mm: Distance between voxels along each axis.

    Returns:
        The longest diameter and the perpendicular one.
    """
    hull = _hull_mm(area, spacing_mm)
    offsets = hull[:, None] - hull[None]
    lengths = np.linalg.norm(offsets, axis=-1)
    first, second = np.unravel_index(np.argmax(lengths), lengths.shape)
    along = offsets[first, second] / lengths[first, second]
    across = np.array([-along[1], along[0]])
    return float(lengths[first, second]), _longest_chord(hull @ along, hull @ across)


def _hull_mm(area: Bool[np.ndarray, "rows columns"], spacing_mm: Sequence[float]) -> Float[np.ndarray, "corners 2"]:
    """Corners of the convex hull of the outline, in order around it."""
    places = np.argwhere(area).astype(np.float64)
    faces = np.concatenate([places + step for step in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))])
    points = np.unique(faces, axis=0) * np.asarray(spacing_mm)
    corners: np.ndarray = points[ConvexHull(points).vertices]
    return corners


def _longest_chord(along: Float[np.ndarray, "corners"], across: Float[np.ndarray, "corners"]) -> float:
    """The longest chord of a convex polygon along one of two axes; it passes through a corner."""
    lowest, highest = int(np.argmin(along)), int(np.argmax(along))
    order = np.roll(np.arange(len(along)), -lowest)
    turn = int(np.flatnonzero(order == highest)[0])
    one, other = order[: turn + 1], np.concatenate([order[turn:], order[:1]])[::-1]
    at = np.sort(along)
    chords = np.interp(at, along[one], across[one]) - np.interp(at, along[other], across[other])
    return float(np.abs(chords).max())


def surface_mm(shape: Bool[np.ndarray, "*spatial"], spacing_mm: Sequence[float]) -> float:
    """The length of an area's outline in mm, or the area of a volume's surface in mm2, holes included.

    By Crofton's formula, which counts how often lines in several directions cross the surface, as SimpleITK has it (G.
    Lehmann and D. Legland, Efficient n-dimensional surface estimation using Crofton formula and run-length encoding,
    Insight Journal 2012); unlike the area of voxel faces or of marching cubes on a mask it is nearly unbiased for round
    objects.

    Args:
        shape: At least one voxel, in 2D or 3D.
        spacing_mm: Distance between voxels along each axis.

    Returns:
        The length or area.
    """
    image = sitk.GetImageFromArray(np.pad(shape, 1).astype(np.uint8))
    image.SetSpacing([float(length) for length in reversed(spacing_mm)])
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(image)
    return float(shapes.GetPerimeter(1))

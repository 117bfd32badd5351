"""Distances between the surfaces of two masks.

MONAI 1.6.1 gives the same values (the tests compare them), but takes 2.5 s for a small object in a volume of 512 x 512
x 150, since it converts and crops the whole of it, and 24 s in 200 x 200 x 60 where the prediction is noise, as it is
early in training, since it searches a tree for each surface voxel; exact distance transforms take 0.03 s and 0.3 s.
"""

from __future__ import annotations

from importlib.metadata import version

import edt
import numpy as np
from jaxtyping import Bool, Float

LIBRARIES = f"edt {version('edt')}"


def surface_distances(
    prediction: Bool[np.ndarray, "*spatial"], reference: Bool[np.ndarray, "*spatial"], spacing: tuple[float, ...]
) -> tuple[Float[np.ndarray, "predicted"], Float[np.ndarray, "annotated"]]:
    """Distance from each surface voxel of one mask to the nearest surface voxel of the other.

    Args:
        prediction: Mask with at least one voxel.
        reference: Mask with at least one voxel.
        spacing: Distance between neighbouring voxels along each axis.

    Returns:
        Distances from the prediction's surface and from the reference's surface, between voxel centres, in the unit of
        `spacing`.
    """
    box = _bounding_box(prediction | reference)
    predicted, annotated = _surface(prediction[box]), _surface(reference[box])
    return _distance_to(annotated, spacing)[predicted], _distance_to(predicted, spacing)[annotated]


def _bounding_box(mask: Bool[np.ndarray, "*spatial"]) -> tuple[slice, ...]:
    """The smallest box that holds all true voxels; surfaces lie within, and so do all distances between them."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def _surface(mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    """Voxels of the mask with a face neighbour outside it; what lies beyond the array is outside."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            shifted = tuple(
                slice(start if other == axis else 1, (start if other == axis else 1) + size)
                for other, size in enumerate(mask.shape)
            )
            inside &= padded[shifted]
    return mask & ~inside


def _distance_to(surface: Bool[np.ndarray, "*spatial"], spacing: tuple[float, ...]) -> Float[np.ndarray, "*spatial"]:
    return edt.edt(np.ascontiguousarray(~surface), anisotropy=spacing, parallel=1)

"""Masks of single classes back into the layer that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Integer

from medexp.core.geometry import bounding_box
from medexp.post_processing._neighbourhood import distances_to

Box = tuple[slice, ...]


def box_around(mask: Bool[np.ndarray, "*spatial"], margin: Sequence[int]) -> Box:
    """The smallest box that holds what is true, with a margin along each axis as far as the image reaches."""
    start, stop = bounding_box(mask)
    return tuple(
        slice(max(0, first - more), min(size, end + more))
        for first, end, more, size in zip(start, stop, margin, mask.shape, strict=True)
    )


def claim_background(
    layer: Integer[np.ndarray, "*spatial"],
    wanted: Mapping[int, tuple[Box, Bool[np.ndarray, "*part"]]],
    spacing_mm: Sequence[float],
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of a layer in which background becomes the class that wants it.

    A class never takes a voxel of another one. Where several want a voxel, it goes to the one that has the nearest
    voxel in the layer; of classes equally near to the first.

    Args:
        layer: Class values.
        wanted: By value, the voxels that the class wants, as a mask of a box.
        spacing_mm: Distance between neighbouring voxels along each axis.

    Returns:
        The new layer.
    """
    claims = np.zeros(layer.shape, dtype=np.uint8)
    free = layer == 0
    for box, mask in wanted.values():
        claims[box] += mask & free[box]
    new = layer.copy()
    for value, (box, mask) in wanted.items():
        new[box][mask & (claims[box] == 1)] = value
    if claims.max(initial=0) > 1:
        _settle(new, layer, wanted, claims > 1, spacing_mm)
    return new


def _settle(
    new: Integer[np.ndarray, "*spatial"],
    layer: Integer[np.ndarray, "*spatial"],
    wanted: Mapping[int, tuple[Box, Bool[np.ndarray, "*part"]]],
    disputed: Bool[np.ndarray, "*spatial"],
    spacing_mm: Sequence[float],
) -> None:
    """Write into the new layer what the voxels become that several classes want."""
    nearest_mm = np.full(layer.shape, np.inf, dtype=np.float32)
    for value, (box, mask) in wanted.items():
        distance_mm = distances_to(layer[box] == value, spacing_mm)
        won = mask & disputed[box] & (distance_mm < nearest_mm[box])
        new[box][won] = value
        nearest_mm[box][won] = distance_mm[won]

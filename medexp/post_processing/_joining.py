"""Objects that are too small, joined to the neighbour that they touch most."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer


def joined(
    numbers: Integer[np.ndarray, "*spatial"], min_voxels: int, spacing_mm: Sequence[float]
) -> Integer[np.ndarray, "*spatial"]:
    """Join each object that is too small to the one with which it shares the largest area of faces.

    The smallest object comes first, of equal ones that with the lower number; what has become large enough is left
    alone. An object that touches none over a face stays as it is.

    Args:
        numbers: Number of the object of each voxel, 0 where there is none.
        min_voxels: Smallest object that is left alone.
        spacing_mm: Distance of neighbouring voxels along each axis.

    Returns:
        Numbers in which a joined object has that of the one it was joined to.
    """
    voxels = dict(enumerate(np.bincount(numbers.ravel()).tolist()))
    touching = _contacts(numbers, spacing_mm)
    new = np.arange(len(voxels), dtype=numbers.dtype)
    small = [(count, number) for number, count in voxels.items() if 0 < count < min_voxels and number in touching]
    heapq.heapify(small)
    while small:
        count, number = heapq.heappop(small)
        if voxels.get(number) != count or not touching[number]:
            continue  # it was joined to another, or has grown since
        into = max(touching[number], key=lambda other: (touching[number][other], -other))
        _move(touching, number, into)
        voxels[into] += voxels.pop(number)
        new[new == number] = into
        if voxels[into] < min_voxels:
            heapq.heappush(small, (voxels[into], into))
    return new[numbers]


def _contacts(numbers: Integer[np.ndarray, "*spatial"], spacing_mm: Sequence[float]) -> dict[int, dict[int, float]]:
    """By object, the area (in 2D the length) of the faces that it shares with each other object."""
    found: dict[int, dict[int, float]] = {}
    width = int(numbers.max(initial=0)) + 1
    for axis, spacing in enumerate(spacing_mm):
        first, second = (np.moveaxis(numbers, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        is_contact = (first != second) & (first > 0) & (second > 0)
        pairs = np.sort(np.stack([first[is_contact], second[is_contact]]).astype(np.int64), axis=0)
        keys, faces = np.unique(pairs[0] * width + pairs[1], return_counts=True)
        area = float(np.prod(spacing_mm)) / spacing
        for one, other, count in zip((keys // width).tolist(), (keys % width).tolist(), faces.tolist(), strict=True):
            for own, beside in ((one, other), (other, one)):
                areas = found.setdefault(own, {})
                areas[beside] = areas.get(beside, 0.0) + area * count
    return found


def _move(touching: dict[int, dict[int, float]], number: int, into: int) -> None:
    """Give the contacts of an object to another one."""
    for other, area in touching.pop(number).items():
        del touching[other][number]
        if other != into:
            touching[into][other] = touching[into].get(other, 0.0) + area
            touching[other][into] = touching[other].get(into, 0.0) + area

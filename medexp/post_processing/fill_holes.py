"""Fill the holes of classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import find_components, most_voxels_of
from medexp.post_processing._knobs import NEIGHBOURS, check_connectivity, check_names, check_volume
from medexp.post_processing._masks import with_layers


class FillHoles:
    """Give background that a class encloses to this class.

    A hole is a connected part of the background from which no path leads to the image's border without crossing the
    class; other classes may lie inside and stay. Of several classes that enclose a part the innermost gets it: the one
    that encloses the fewest voxels with it.

    Args:
        connectivity: Of the voxels of a hole: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they
            may share a corner only (8 in 2D, 26 in 3D), so that a hole leaks through a diagonal gap.
        max_volume_mm3: Largest hole that is filled, in mm3; in 2D mm2, and pixels where `Geometry.unit` is "px"; None
            fills all.
        classes: Names of the classes to work on; None for all. The others' holes stay.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.MASK

    def __init__(
        self,
        *,
        connectivity: str = "faces",
        max_volume_mm3: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.connectivity = check_connectivity(connectivity, "fill_holes")
        self.max_volume_mm3 = (
            None if max_volume_mm3 is None else check_volume(max_volume_mm3, "fill_holes.max_volume_mm3")
        )
        self.classes = check_names(classes, "fill_holes")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Fill the holes.

        Args:
            prediction: What an earlier step gave, with a mask.

        Returns:
            The prediction with another mask of the same shape and type.

        Raises:
            UsageError: There is no mask, or `classes` names one that the prediction does not have.
        """
        most = most_voxels_of(self.max_volume_mm3, prediction.geometry)
        return with_layers(
            prediction, self.classes, "fill_holes", lambda layer, values: filled(layer, values, self.connectivity, most)
        )


def filled(
    layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], connectivity: str, max_voxels: float = math.inf
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of a layer in which the holes of some classes have their value.

    Args:
        layer: Class values.
        values: The classes to work on.
        connectivity: Which voxels of a hole are neighbours.
        max_voxels: Size of the largest hole that is filled.

    Returns:
        The new layer.
    """
    new = np.array(layer, order="C")
    # Background is numbered like a class, so that one pass tells holes and what lies beside them.
    wide = layer if layer.max(initial=0) < np.iinfo(layer.dtype).max else layer.astype(np.int64)
    parts = find_components(wide + wide.dtype.type(1), connectivity)
    of_class = parts.values.astype(np.int64) - 1
    open_parts = _at_border(parts.numbers, len(parts.voxels))
    holes = np.flatnonzero((of_class == 0) & ~open_parts & (parts.voxels <= max_voxels))
    if not len(holes):
        return new
    owner = np.zeros(len(parts.voxels), dtype=layer.dtype)
    beside = _neighbours(parts.numbers, connectivity)
    for hole in holes.tolist():
        owner[hole] = _owner(hole, values, beside, of_class, open_parts, parts.voxels)
    places = parts.places(owner > 0)
    new.ravel()[places] = owner[parts.numbers.ravel()[places]]
    return new


def _at_border(numbers: Integer[np.ndarray, "*spatial"], count: int) -> Bool[np.ndarray, "parts"]:
    """Which parts touch the border of the image."""
    found = np.zeros(count, dtype=bool)
    for axis in range(numbers.ndim):
        for end in (0, -1):
            found[np.take(numbers, end, axis=axis)] = True
    return found


def _neighbours(numbers: Integer[np.ndarray, "*spatial"], connectivity: str) -> dict[int, list[int]]:
    """By number of a part, the parts beside it."""
    edges = [_edges(numbers, offset) for offset in _half_of_the_offsets(numbers.ndim, connectivity)]
    beside: dict[int, list[int]] = {}
    for first, second in np.unique(np.concatenate(edges), axis=0).tolist():
        beside.setdefault(first, []).append(second)
        beside.setdefault(second, []).append(first)
    return beside


def _edges(numbers: Integer[np.ndarray, "*spatial"], offset: tuple[int, ...]) -> Integer[np.ndarray, "edges 2"]:
    """Pairs of different parts of which one has a voxel at an offset from one of the other's; each pair once."""
    here, there = (
        numbers[tuple(slice(max(0, sign * step), min(0, sign * step) or None) for step in offset)] for sign in (-1, 1)
    )
    differ = here != there
    first, second = here[differ].astype(np.int64), there[differ].astype(np.int64)
    codes = np.unique((np.minimum(first, second) << 32) | np.maximum(first, second))
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def _half_of_the_offsets(dims: int, connectivity: str) -> list[tuple[int, ...]]:
    """Of each two opposite neighbours of a voxel one."""
    farthest = 1 if NEIGHBOURS[connectivity][dims] == 2 * dims else dims
    return [
        offset
        for offset in itertools.product((0, 1, -1), repeat=dims)
        if 0 < sum(map(abs, offset)) <= farthest and next(step for step in offset if step) > 0
    ]


def _owner(
    hole: int,
    values: Sequence[int],
    beside: Mapping[int, Sequence[int]],
    of_class: Integer[np.ndarray, "parts"],
    open_parts: Bool[np.ndarray, "parts"],
    voxels: Integer[np.ndarray, "parts"],
) -> int:
    """The class that encloses a hole, the innermost of several, or 0."""
    owner, fewest = 0, math.inf
    for value in values:
        reached, waiting = {hole}, [hole]
        while waiting and not any(open_parts[part] for part in waiting):
            around = {part for one in waiting for part in beside[one] if of_class[part] != value}
            waiting = list(around - reached)
            reached |= around
        size = math.inf if waiting else int(voxels[list(reached)].sum())
        if size < fewest:
            owner, fewest = value, size
    return owner

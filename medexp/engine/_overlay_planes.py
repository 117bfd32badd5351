"""Which planes of a case a picture shows, and where voxels and places lie in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from medexp.core.geometry import Geometry, orient_to_world
from medexp.core.objects import Objects
from medexp.core.types import Kind, Prediction

_MAX_PIXELS = 2048


@dataclass(frozen=True)
class Plane:
    """A cut through the image as it is shown: rows run down, columns to the right.

    Attributes:
        axis: The image axis that is cut; None for a picture, which is shown whole.
        index: Where on that axis.
        rows: The image axis that runs down or up.
        columns: The image axis that runs to the right or left.
        flip_rows: True where `rows` runs up.
        flip_columns: True where `columns` runs to the left.
    """

    axis: int | None
    index: int
    rows: int
    columns: int
    flip_rows: bool
    flip_columns: bool

    def cut(self, array: Shaped[np.ndarray, "*lead_and_spatial"], *, lead: int) -> np.ndarray:
        """The plane of an array with `lead` axes before the spatial ones; a view.

        Of a plane that is larger than any paper shows it is every n-th pixel.
        """
        if self.axis is not None:
            array = array.take(self.index, axis=lead + self.axis)
        if self.rows > self.columns:
            array = array.swapaxes(-1, -2)
        array = array[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        rows, columns = (_step(length) for length in array.shape[-2:])
        return array[..., ::rows, ::columns]

    def pixels(self, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of what `cut` gives."""
        rows, columns = (len(range(0, n, _step(n))) for n in (geometry.shape[self.rows], geometry.shape[self.columns]))
        return rows, columns

    def size_mm(self, geometry: Geometry) -> tuple[float, float]:
        """Height and width."""
        height, width = (geometry.shape[axis] * geometry.spacing_mm[axis] for axis in (self.rows, self.columns))
        return height, width

    def crosses(self, objects: Objects) -> Bool[np.ndarray, "n"]:
        """Which objects the plane meets."""
        if self.axis is None:
            return np.ones(len(objects), dtype=bool)
        first, stop = _voxels_met(objects)
        met: np.ndarray = (first[:, self.axis] <= self.index) & (self.index < stop[:, self.axis])
        return met

    def place(self, objects: Objects, geometry: Geometry) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
        """Where boxes lie in the picture.

        Args:
            objects: Boxes in voxels of the image, of which voxel i covers [i, i + 1).
            geometry: The image's grid.

        Returns:
            Of each box the corner at the upper left and the one at the lower right, as x and y in millimetres (pixels
            where there are none) from the upper left corner of the picture.
        """
        corners = []
        for axis, flip in ((self.columns, self.flip_columns), (self.rows, self.flip_rows)):
            ends = objects.low[:, axis], objects.high[:, axis]
            low, high = (geometry.shape[axis] - ends[1], geometry.shape[axis] - ends[0]) if flip else ends
            corners.append(np.stack([low, high]) * geometry.spacing_mm[axis])
        upper_left, lower_right = np.stack(corners, axis=-1)
        return upper_left, lower_right


def _step(length: int) -> int:
    return math.ceil(length / _MAX_PIXELS)


def planes_of(geometry: Geometry, prediction: Prediction, reference: Prediction | None) -> list[Plane]:
    """The picture whole, or three planes of a volume, each where the reference (else the prediction) has most.

    Args:
        geometry: The image's grid.
        prediction: What was predicted.
        reference: Its reference, or None.

    Returns:
        One plane, or one for each axis.
    """
    if geometry.spatial_dims == 2:
        return [_plane(geometry, None, 0)]
    foreground = None if reference is None else _foreground(reference, geometry.shape)
    if foreground is None or not foreground.any():
        foreground = _foreground(prediction, geometry.shape)
    return [_plane(geometry, axis, _fullest_slice(foreground, axis)) for axis in range(3)]


def _plane(geometry: Geometry, axis: int | None, index: int) -> Plane:
    remaining = [other for other in range(geometry.spatial_dims) if other != axis]
    if geometry.unit == "px":
        return Plane(axis, index, rows=remaining[0], columns=remaining[1], flip_rows=False, flip_columns=False)
    permutation, flipped = orient_to_world(geometry)
    columns, rows = (other for other in permutation if other in remaining)
    reversed_axes = {permutation[world_axis] for world_axis in flipped}
    return Plane(
        axis,
        index,
        rows=rows,
        columns=columns,
        flip_rows=rows not in reversed_axes,
        flip_columns=columns in reversed_axes,
    )


def _foreground(shown: Prediction, shape: tuple[int, ...]) -> Bool[np.ndarray, "*spatial"]:
    """Voxels that belong to a class, an object or a box, or where the density is at least half its highest."""
    found = np.zeros(shape, dtype=bool)
    for layer, voxels in enumerate(shown.mask if shown.mask is not None else ()):
        values = [structure.value for structure in shown.classes if structure.layer == layer]
        found |= np.isin(voxels, values)
    if shown.instances is not None:
        found |= shown.instances > 0
    elif shown.objects is not None:
        for box in _boxes_of_voxels(shown.objects):
            found[box] = True
    density = shown.maps.get(Kind.DENSITY)
    if density is not None and (total := density.sum(axis=0)).any():
        found |= total >= total.max() / 2
    return found


def _boxes_of_voxels(objects: Objects) -> Iterator[tuple[slice, ...]]:
    for first, stop in zip(*_voxels_met(objects), strict=True):
        yield tuple(slice(max(low, 0), max(high, 0)) for low, high in zip(first, stop, strict=True))


def _voxels_met(objects: Objects) -> tuple[Integer[np.ndarray, "n dims"], Integer[np.ndarray, "n dims"]]:
    """First voxel that each box touches along each axis, and the one after the last; of a place the one it lies in."""
    first = np.floor(objects.low).astype(np.int64)
    return first, np.maximum(np.ceil(objects.high).astype(np.int64), first + 1)


def _fullest_slice(foreground: Bool[np.ndarray, "x y z"], axis: int) -> int:
    """Index of the slice with most foreground; of equal ones the middle, so that a box is not cut at its face."""
    counts = np.count_nonzero(foreground, axis=tuple(other for other in range(3) if other != axis))
    fullest = np.flatnonzero(counts == counts.max())
    return int(fullest[len(fullest) // 2])

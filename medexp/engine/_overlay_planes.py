"""Which planes of a case a picture shows, and where voxels and places lie in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry, orient_to_world
from medexp.core.objects import Objects
from medexp.core.types import Kind, Prediction

LAYOUTS = ("planes", "montage", "slice")
_MAX_PIXELS = 2048
# The ends of the world's axes, which point to the patient's right, front and head.
_FORWARD, _BACKWARD = "RAS", "LPI"


@dataclass(frozen=True)
class Cuts:
    """Which planes of a volume are shown; a picture is shown whole.

    Attributes:
        layout: "planes": one along each axis; "slice": one; "montage": several along one axis.
        slices: How many a montage has at most.
        axis: The image axis that a slice or a montage cuts; None for the one of the widest voxels (of several the one
            nearest to the patient's long axis, without millimetres the first).
        index: Where a slice is cut; None where most foreground is.

    Raises:
        UsageError: A value has no meaning.
    """

    layout: str = "planes"
    slices: int = 12
    axis: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout needs {' or '.join(LAYOUTS)}, got {self.layout!r}")
        if self.slices < 1:
            raise UsageError(f"slices needs a whole number from 1 on, got {self.slices}")
        if self.axis not in (None, 0, 1, 2):
            raise UsageError(f"axis needs 0, 1 or 2, got {self.axis}")
        if self.axis is not None and self.layout == "planes":
            raise UsageError("axis needs layout slice or montage; layout planes shows all axes")
        if self.index is not None and self.layout != "slice":
            raise UsageError(f"index needs layout slice, got layout {self.layout}")


PLANES = Cuts()


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

    def letters(self, geometry: Geometry) -> tuple[str, str, str, str] | None:
        """Where left, right, lower and upper edge lie in the patient (L, R, P, A, I, S); None where nobody knows.

        Each axis has the letters of the world's axis that it is nearest to.
        """
        if geometry.spatial_dims != 3 or not geometry.oriented:
            return None
        permutation, _ = orient_to_world(geometry)
        across, up = permutation.index(self.columns), permutation.index(self.rows)
        return _BACKWARD[across], _FORWARD[across], _BACKWARD[up], _FORWARD[up]

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


def planes_of(geometry: Geometry, shown: Sequence[Prediction], cuts: Cuts = PLANES) -> list[Plane]:
    """The picture whole, or planes of a volume; a single plane along an axis lies where most foreground is.

    Args:
        geometry: The image's grid.
        shown: What is drawn over it; the first that has foreground decides where the planes lie.
        cuts: Which planes.

    Returns:
        The planes.

    Raises:
        UsageError: The image has no slice of that index.
    """
    if geometry.spatial_dims == 2:
        return [plane_at(geometry, None, 0)]
    if cuts.layout == "slice" and cuts.index is not None:
        return [_slice_at(geometry, widest_axis(geometry, cuts), cuts.index)]
    foreground = _first_foreground(geometry, shown)
    if cuts.layout == "planes":
        return [plane_at(geometry, axis, _fullest_slice(foreground, axis)) for axis in range(3)]
    axis = widest_axis(geometry, cuts)
    if cuts.layout == "slice":
        return [plane_at(geometry, axis, _fullest_slice(foreground, axis))]
    return [plane_at(geometry, axis, index) for index in _spread(foreground, axis, cuts.slices)]


def _first_foreground(geometry: Geometry, shown: Sequence[Prediction]) -> Bool[np.ndarray, "*spatial"]:
    found = np.zeros(geometry.shape, dtype=bool)
    for one in shown:
        found = _foreground(one, geometry.shape)
        if found.any():
            break
    return found


def widest_axis(geometry: Geometry, cuts: Cuts = PLANES) -> int:
    """The axis of a volume that a slice cuts, see `Cuts`."""
    if cuts.axis is not None:
        return cuts.axis
    order = [0, 1, 2] if geometry.unit == "px" else list(reversed(orient_to_world(geometry)[0]))
    return max(order, key=lambda axis: round(geometry.spacing_mm[axis], 3))


def _slice_at(geometry: Geometry, axis: int, index: int) -> Plane:
    if not 0 <= index < geometry.shape[axis]:
        raise UsageError(f"index needs a value from 0 to {geometry.shape[axis] - 1} on axis {axis}, got {index}")
    return plane_at(geometry, axis, index)


def _spread(foreground: Bool[np.ndarray, "x y z"], axis: int, count: int) -> list[int]:
    """Indices that are spread evenly over the slices with foreground, or over all where there is none."""
    along = np.flatnonzero(foreground.any(axis=tuple(other for other in range(3) if other != axis)))
    first, last = (int(along[0]), int(along[-1])) if len(along) else (0, foreground.shape[axis] - 1)
    places = np.linspace(first, last, min(count, last - first + 1))
    return [int(place) for place in np.round(places)]


def plane_at(geometry: Geometry, axis: int | None, index: int) -> Plane:
    """A plane across an image axis, turned as the world has it; the picture whole where no axis is cut."""
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

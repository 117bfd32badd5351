"""Where a patch lies in an image: on its voxels, or turned, scaled and deformed between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Integer

from medexp.core.objects import Objects
from medexp.data.augmentation.drawn import Drawn
from medexp.data.augmentation.elastic import ElasticField
from medexp.data.augmentation.resampling import interpolate, interpolate_along_axes, nearest, read_window

# Places along each axis of a box by which a deformed box is bounded.
_PLACES_OF_BOX = 5


@runtime_checkable
class Cut(Protocol):
    """A patch of an image, which reads only the voxels that it needs; outside the image lie zeros."""

    def intensities(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float32[np.ndarray, "channels *patch"]:
        """Intensities in the patch, in memory of their own."""
        ...

    def ids(self, labels: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "*patch"]:
        """Label ids or instance ids in the patch."""
        ...

    def objects(self, objects: Objects) -> Objects:
        """Boxes and places in the patch's voxels, also those that lie beside it."""
        ...


def cut_of(
    shape: tuple[int, ...],
    *,
    center: Sequence[float],
    patch_size: tuple[int, ...],
    drawn: Drawn,
    spacing_mm: Sequence[float],
) -> Cut:
    """The cut around a centre.

    Args:
        shape: Spatial shape of the image.
        center: Centre of the patch in voxels.
        patch_size: Spatial shape of the patch.
        drawn: Random parameters of the sample.
        spacing_mm: Spacing of the image's grid.

    Returns:
        The cut; a patch that needs no resampling is laid on whole voxels.
    """
    size, middle = np.array(patch_size), np.array(center, dtype=np.float64)
    if drawn.keeps_grid:
        start = np.floor(middle - (size - 1) / 2 + 0.5).astype(int)
        return _CutOnVoxels(tuple(start.tolist()), patch_size, drawn.axes_flipped)
    spacing = np.array(spacing_mm, dtype=np.float64)
    field = None
    if drawn.elastic_mm:
        field = ElasticField.drawn(
            seed=drawn.elastic_seed,
            largest_mm=drawn.elastic_mm,
            spacing_mm=drawn.elastic_spacing_mm,
            half_mm=tuple((size - 1) / 2 * spacing),
        )
    return _CutBetweenVoxels(shape, middle, patch_size, drawn.axes_flipped, spacing, drawn.matrix_mm(len(size)), field)


@dataclass(frozen=True, eq=False)
class _CutOnVoxels:
    """A patch whose voxels are those of the image.

    Attributes:
        start: First voxel of the patch.
        patch_size: Spatial shape of the patch.
        axes_flipped: Axes that are reversed.
    """

    start: tuple[int, ...]
    patch_size: tuple[int, ...]
    axes_flipped: tuple[int, ...]

    def intensities(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float32[np.ndarray, "channels *patch"]:
        """Intensities in the patch, in memory of their own."""
        return read_window(pixels, self.start, self.patch_size, np.float32, self.axes_flipped)

    def ids(self, labels: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "*patch"]:
        """Label ids or instance ids in the patch."""
        return read_window(labels[None], self.start, self.patch_size, labels.dtype, self.axes_flipped)[0]

    def objects(self, objects: Objects) -> Objects:
        """Boxes and places in the patch's voxels, also those that lie beside it."""
        size = np.array(self.patch_size, dtype=np.float64)
        sign = np.array([-1.0 if axis in self.axes_flipped else 1.0 for axis in range(len(size))])
        return objects.moved(np.diag(sign), np.where(sign < 0, size, 0.0) - sign * np.array(self.start))


@dataclass(frozen=True, eq=False)
class _CutBetweenVoxels:
    """A patch that is turned, scaled or deformed, and is read between the voxels of the image.

    Attributes:
        shape: Spatial shape of the image.
        center: Centre of the patch in voxels of the image.
        patch_size: Spatial shape of the patch.
        axes_flipped: Axes that are reversed.
        spacing: Spacing of the image's grid in millimetres.
        matrix_mm: From offsets in the patch to offsets in the image, both in millimetres.
        field: Displacements in the patch, which come before the matrix; None for none.
    """

    shape: tuple[int, ...]
    center: np.ndarray
    patch_size: tuple[int, ...]
    axes_flipped: tuple[int, ...]
    spacing: np.ndarray
    matrix_mm: np.ndarray
    field: ElasticField | None

    def intensities(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float32[np.ndarray, "channels *patch"]:
        """Intensities in the patch, in memory of their own."""
        if self._is_beside:
            return np.zeros((pixels.shape[0], *self.patch_size), dtype=np.float32)
        window = read_window(pixels, *self._window, np.float32)
        if not self._is_straight:
            return interpolate(window, self._places)
        return interpolate_along_axes(window, self._places_along_axes)

    def ids(self, labels: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "*patch"]:
        """Label ids or instance ids in the patch."""
        if self._is_beside:
            return np.zeros(self.patch_size, dtype=labels.dtype)
        window = read_window(labels[None], *self._window, labels.dtype)[0]
        if not self._is_straight:
            return nearest(window, self._places)
        return window[np.ix_(*(np.rint(places).astype(int) for places in self._places_along_axes))]

    def objects(self, objects: Objects) -> Objects:
        """Boxes and places in the patch's voxels, also those that lie beside it."""
        if self.field is None:
            origin = self._in_patch(np.zeros((1, len(self.patch_size))))[0]
            columns = self._in_patch(np.eye(len(self.patch_size))) - origin
            return objects.moved(columns.T, origin)
        parts = np.array(list(product(np.linspace(0, 1, _PLACES_OF_BOX), repeat=len(self.patch_size))))
        places = objects.low[:, None] * (1 - parts) + objects.high[:, None] * parts
        moved = self._in_patch(places.reshape(-1, places.shape[-1])).reshape(places.shape)
        return replace(objects, boxes=np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1))

    def _in_patch(self, places: Float[np.ndarray, "n dims"]) -> Float[np.ndarray, "n dims"]:
        """Places in the patch's voxels, from places in the image (voxel i covers [i, i + 1))."""
        offsets_mm = (places - 0.5 - self.center) * self.spacing @ np.linalg.inv(self.matrix_mm).T
        if self.field is not None:
            offsets_mm = self.field.undone(offsets_mm)
        size = np.array(self.patch_size, dtype=np.float64)
        found = offsets_mm / self.spacing + size / 2
        for axis in self.axes_flipped:
            found[:, axis] = size[axis] - found[:, axis]
        return found

    @property
    def _to_voxels(self) -> np.ndarray:
        """From offsets in the patch in millimetres to offsets in the image in voxels."""
        return self.matrix_mm / self.spacing[:, None]

    @cached_property
    def _window(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First voxel and shape of what the patch needs of the image, with two voxels of zeros where it leaves it."""
        half_mm = (np.array(self.patch_size) - 1) / 2 * self.spacing
        if self.field is not None:
            half_mm = half_mm + np.abs(self.field.control).max()
        reach = np.abs(self._to_voxels) @ half_mm
        start = np.maximum(np.floor(self.center - reach), -1).astype(int)
        stop = np.minimum(np.floor(self.center + reach) + 3, np.array(self.shape) + 2).astype(int)
        return tuple(start.tolist()), tuple((stop - start).tolist())

    @property
    def _is_beside(self) -> bool:
        """Whether the patch shows nothing of the image."""
        return min(self._window[1]) < 3

    @property
    def _is_straight(self) -> bool:
        """Whether the axes of the patch run along those of the image, so that one after the other can be read."""
        return self.field is None and not self.matrix_mm[~np.eye(len(self.patch_size), dtype=bool)].any()

    @cached_property
    def _offsets_mm(self) -> list[Float[np.ndarray, "_"]]:
        """Offsets of the patch's voxels from its centre, along each axis."""
        offsets = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(self.patch_size, self.spacing, strict=True)]
        return [np.flip(offset) if axis in self.axes_flipped else offset for axis, offset in enumerate(offsets)]

    @property
    def _places_along_axes(self) -> list[Float[np.ndarray, "_"]]:
        """Coordinates in the window of a patch whose axes run along those of the image."""
        start, size = self._window
        scale = np.diag(self._to_voxels)
        places = [
            offsets * scale[axis] + self.center[axis] - start[axis] for axis, offsets in enumerate(self._offsets_mm)
        ]
        return [np.clip(place, 0, n - 2) for place, n in zip(places, size, strict=True)]

    @cached_property
    def _places(self) -> list[Float32[np.ndarray, "*patch"]]:
        """Coordinates of the patch's voxels in the window, along each axis; those beside it are drawn to its edge."""
        start, size = self._window
        displaced = None if self.field is None else self.field.along(self._to_voxels).on_grid(self._offsets_mm)
        places = []
        for axis, row in enumerate(self._to_voxels):
            columns = [weight * offsets for weight, offsets in zip(row, self._offsets_mm, strict=True)]
            columns[0] += self.center[axis] - start[axis]
            place = _outer_sum([column.astype(np.float32) for column in columns])
            if displaced is not None:
                place += displaced[axis]
            places.append(np.clip(place, 0, size[axis] - 2, out=place))
        return places


def _outer_sum(columns: Sequence[Float32[np.ndarray, "_"]]) -> Float32[np.ndarray, "*patch"]:
    """The sum of one number of each column, for all combinations."""
    total: np.ndarray = columns[0]
    for column in columns[1:]:
        total = total[..., None] + column
    return total

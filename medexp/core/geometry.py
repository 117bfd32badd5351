"""Where the voxels of an array lie in the world, and how one grid lies on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped

from medexp.core.errors import DataError

Unit = Literal["mm", "px"]


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of an image.

    Attributes:
        shape: Voxels along each spatial axis.
        affine: Homogeneous matrix of shape (d + 1, d + 1) from voxel index to world coordinates.
        unit: Unit of the world: millimetres, or pixels for a picture without a physical scale.
        oriented: Whether the world's axes point to the patient's right, front and head (RAS).
    """

    shape: tuple[int, ...]
    affine: Float[np.ndarray, "rows rows"]
    unit: Unit = "mm"
    oriented: bool = True

    def __post_init__(self) -> None:
        expected = len(self.shape) + 1
        if self.affine.shape != (expected, expected):
            raise DataError(
                f"affine of a {len(self.shape)}D image needs shape {(expected, expected)}, got {self.affine.shape}"
            )
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(self.affine[:-1, :-1])) < 1e-12:
            raise DataError(f"affine is singular or not finite: {self.affine.tolist()}; check the image header")

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis (pixels where `unit` is "px")."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel (area in 2D; 1 pixel where `unit` is "px")."""
        return float(abs(np.linalg.det(self.affine[:-1, :-1])))

    @classmethod
    def from_spacing(cls, shape: tuple[int, ...], spacing_mm: tuple[float, ...], *, unit: Unit = "mm") -> Geometry:
        """A grid whose first voxel lies at the origin of a world along its axes; nothing is known of the patient's."""
        if len(spacing_mm) != len(shape):
            raise DataError(f"spacing_mm needs {len(shape)} values for shape {shape}, got {spacing_mm}")
        return cls(shape=tuple(shape), affine=np.diag([*map(float, spacing_mm), 1.0]), unit=unit, oriented=False)


@dataclass(frozen=True)
class Placement:
    """How a network's grid was made from an image's grid, so that it can be undone.

    A part of the image is kept, its axes are permuted, some are flipped, and the result is resized to `resized_shape`;
    both grids cover the field of view of what was kept.

    Attributes:
        image_shape: Spatial shape on the image's own grid.
        permutation: `permutation[i]` is the image axis that became axis i.
        flipped: Axes (after the permutation) that were reversed.
        resized_shape: Spatial shape on the network's grid.
        start: First voxel that was kept along each axis of the image; 0 unless given.
        stop: The voxel behind the last one that was kept; the image's end unless given.
    """

    image_shape: tuple[int, ...]
    permutation: tuple[int, ...]
    flipped: tuple[int, ...]
    resized_shape: tuple[int, ...]
    start: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", self.start or (0,) * len(self.image_shape))
        object.__setattr__(self, "stop", self.stop or self.image_shape)
        if not all(
            0 <= first < end <= size for first, end, size in zip(self.start, self.stop, self.image_shape, strict=True)
        ):
            raise ValueError(
                f"what is kept of {self.image_shape} needs 0 <= start < stop <= shape, got {self.start}..{self.stop}"
            )

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> Placement:
        """The placement of a grid on itself."""
        return cls(image_shape=shape, permutation=tuple(range(len(shape))), flipped=(), resized_shape=shape)

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """Spatial shape of what was kept, on the image's own axes."""
        return tuple(end - first for first, end in zip(self.start, self.stop, strict=True))

    @property
    def is_cropped(self) -> bool:
        """Whether a part of the image was left out."""
        return self.kept_shape != self.image_shape

    @property
    def oriented_shape(self) -> tuple[int, ...]:
        """Spatial shape of what was kept after permutation, before resizing."""
        return tuple(self.kept_shape[axis] for axis in self.permutation)

    def orient(self, array: np.ndarray) -> np.ndarray:
        """Crop, permute and flip the last axes of an array from the image's grid; a view where possible."""
        lead = array.ndim - len(self.permutation)
        kept = array[self._kept]
        moved = kept.transpose(*range(lead), *(lead + axis for axis in self.permutation))
        return np.flip(moved, axis=tuple(lead + axis for axis in self.flipped)) if self.flipped else moved

    def unorient(
        self, array: np.ndarray, *, outside: float | Float[np.ndarray, "channels"] = 0.0
    ) -> Shaped[np.ndarray, "..."]:
        """Undo `orient`.

        Args:
            array: Values on the oriented grid.
            outside: Value of the voxels that were not kept, the same in each channel or one for each.

        Returns:
            Values on the image's own grid; a view where nothing was left out.
        """
        lead = array.ndim - len(self.permutation)
        if self.flipped:
            array = np.flip(array, axis=tuple(lead + axis for axis in self.flipped))
        inverse = np.argsort(self.permutation)
        kept = array.transpose(*range(lead), *(lead + int(axis) for axis in inverse))
        if not self.is_cropped:
            return kept
        whole = np.empty((*array.shape[:lead], *self.image_shape), dtype=array.dtype)
        whole[...] = np.reshape(outside, (*np.shape(outside), *[1] * len(self.permutation)))
        whole[self._kept] = kept
        return whole

    def to_network(self) -> tuple[Float[np.ndarray, "dims dims"], Float[np.ndarray, "dims"]]:
        """Matrix and offset that bring places from the image's grid to the network's (voxel i covers [i, i + 1))."""
        scale = np.array(self.resized_shape) / np.array(self.oriented_shape)
        sign = np.array([-1.0 if axis in self.flipped else 1.0 for axis in range(len(self.permutation))])
        matrix = (scale * sign)[:, None] * np.eye(len(self.permutation))[list(self.permutation)]
        offset = np.where(sign < 0, np.array(self.resized_shape, dtype=np.float64), 0.0)
        return matrix, offset - matrix @ np.array(self.start, dtype=np.float64)

    def to_image(self) -> tuple[Float[np.ndarray, "dims dims"], Float[np.ndarray, "dims"]]:
        """Matrix and offset that undo `to_network`."""
        matrix, offset = self.to_network()
        inverse = np.linalg.inv(matrix)
        return inverse, -inverse @ offset

    @property
    def _kept(self) -> tuple[Any, ...]:
        """Index of what was kept in an array whose last axes are the image's."""
        return (..., *(slice(first, end) for first, end in zip(self.start, self.stop, strict=True)))


def orient_to_world(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Permutation and flips that bring the axes of a grid closest to the axes of its world, each increasing."""
    direction = geometry.affine[:-1, :-1] / np.asarray(geometry.spacing_mm)
    permutation: list[int] = []
    remaining = list(range(geometry.spatial_dims))
    for world_axis in range(geometry.spatial_dims):
        best = max(remaining, key=lambda axis: abs(direction[world_axis, axis]))
        permutation.append(best)
        remaining.remove(best)
    flipped = tuple(i for i, axis in enumerate(permutation) if direction[i, axis] < 0)
    return tuple(permutation), flipped


def resized_shape(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], target_spacing_mm: tuple[float, ...]
) -> tuple[int, ...]:
    """Number of voxels that cover the same field of view at another spacing, at least one along each axis."""
    return tuple(
        max(1, round(n * have / want)) for n, have, want in zip(shape, spacing_mm, target_spacing_mm, strict=True)
    )


def bounding_box(
    inside: Bool[np.ndarray, "*spatial"],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel, and the one behind the last, of what is true along each axis; the whole grid where nothing is."""
    start, stop = [], []
    for axis in range(inside.ndim):
        along = np.flatnonzero(inside.any(axis=tuple(other for other in range(inside.ndim) if other != axis)))
        start.append(int(along[0]) if len(along) else 0)
        stop.append(int(along[-1]) + 1 if len(along) else inside.shape[axis])
    return tuple(start), tuple(stop)

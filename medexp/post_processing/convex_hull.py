"""Convex hulls of classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from scipy.spatial import ConvexHull as Hull

from medexp.core.types import Kind, Prediction
from medexp.post_processing._classes import Box, box_around, claim_background
from medexp.post_processing._components import numbered
from medexp.post_processing._knobs import check_connectivity, check_flag, check_names
from medexp.post_processing._masks import with_layers

_TOLERANCE_VOXELS = 1e-9


class ConvexHull:
    """Let each class, or each of its components, take the background inside its convex hull.

    The hull is that of the points half a voxel beside each voxel's centre along each axis, and holds the voxels whose
    centre lies in it. Only background is taken; a voxel in the hulls of two classes goes to the nearer class, of two
    equally near to the first.

    Args:
        per_component: False takes the hull of all voxels of a class, true that of each connected component.
        connectivity: Of the voxels of a component: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners",
            they may share a corner only (8 in 2D, 26 in 3D).
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.MASK

    def __init__(
        self, *, per_component: bool = False, connectivity: str = "corners", classes: Sequence[str] | None = None
    ) -> None:
        self.per_component = check_flag(per_component, "convex_hull.per_component")
        self.connectivity = check_connectivity(connectivity, "convex_hull")
        self.classes = check_names(classes, "convex_hull")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Fill the hulls.

        Args:
            prediction: What an earlier step gave, with a mask.

        Returns:
            The prediction with another mask of the same shape and type.

        Raises:
            UsageError: There is no mask, or `classes` names one that the prediction does not have.
        """
        spacing_mm = prediction.geometry.spacing_mm
        return with_layers(
            prediction,
            self.classes,
            "convex_hull",
            lambda layer, values: claim_background(layer, self._wanted(layer, values), spacing_mm),
        )

    def _wanted(
        self, layer: Integer[np.ndarray, "*spatial"], values: Sequence[int]
    ) -> dict[int, tuple[Box, Bool[np.ndarray, "*part"]]]:
        wanted = {}
        for value in values:
            own = layer == value
            if own.any():
                box = box_around(own, [0] * own.ndim)
                hull = np.zeros(own[box].shape, dtype=bool)
                for part, mask in self._parts(own[box]):
                    hull[part] |= hull_of(mask)
                wanted[value] = (box, hull)
        return wanted

    def _parts(self, own: Bool[np.ndarray, "*part"]) -> Iterator[tuple[Box, Bool[np.ndarray, "*smaller"]]]:
        """What is taken the hull of, each as a box and a mask of it."""
        if not self.per_component:
            yield tuple(slice(0, size) for size in own.shape), own
            return
        numbers = numbered(np.ascontiguousarray(own), self.connectivity).astype(np.int32)
        for number, box in enumerate(ndimage.find_objects(numbers), start=1):
            yield box, numbers[box] == number


def hull_of(mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    """The convex hull of a mask that is not empty."""
    ends = mask.copy()
    for axis in range(mask.ndim):
        ends &= _first_and_last(mask, axis)
    points = np.argwhere(ends).astype(np.float64)
    halves = np.concatenate([np.eye(mask.ndim), -np.eye(mask.ndim)]) / 2
    planes = np.unique(Hull((points[:, None] + halves).reshape(-1, mask.ndim)).equations, axis=0)
    low, high = _chords(planes, mask.shape)
    along = np.arange(mask.shape[-1])
    inside = (along >= low[:, None] - _TOLERANCE_VOXELS) & (along <= high[:, None] + _TOLERANCE_VOXELS)
    return inside.reshape(mask.shape)


def _first_and_last(mask: Bool[np.ndarray, "*spatial"], axis: int) -> Bool[np.ndarray, "*spatial"]:
    """The first and the last true voxel of each line along an axis; only they can be corners of the hull."""
    moved = np.moveaxis(mask, axis, -1)
    found = np.zeros_like(moved)
    lines = np.nonzero(moved.any(axis=-1))
    found[(*lines, moved[lines].argmax(axis=-1))] = True
    found[(*lines, moved.shape[-1] - 1 - moved[lines][:, ::-1].argmax(axis=-1))] = True
    return np.moveaxis(found, -1, axis)


def _chords(
    planes: Float[np.ndarray, "planes axes_and_offset"], shape: tuple[int, ...]
) -> tuple[Float[np.ndarray, "lines"], Float[np.ndarray, "lines"]]:
    """Where each line of voxels along the last axis enters a hull and leaves it; it leaves first where it misses it."""
    lines = np.array(list(itertools.product(*map(range, shape[:-1]))), dtype=np.float64)
    low, high = np.full(len(lines), -np.inf), np.full(len(lines), np.inf)
    for plane in planes:
        outside, slope = lines @ plane[:-2] + plane[-1], plane[-2]
        if abs(slope) <= _TOLERANCE_VOXELS:
            high[outside > _TOLERANCE_VOXELS] = -np.inf
        elif slope > 0:
            np.minimum(high, -outside / slope, out=high)
        else:
            np.maximum(low, -outside / slope, out=low)
    return low, high

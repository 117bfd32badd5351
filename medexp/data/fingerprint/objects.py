"""The sizes of what is annotated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Float, Integer

from medexp.core.types import Annotation

# Of more objects of a class in a case, so many that are evenly spaced by size stand for all of them.
_KEPT_OBJECTS = 500

# Volume in mm3, then extent in mm along each axis.
Sizes = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ClassSummary:
    """What a case shows of a class.

    Attributes:
        volume_mm3: Volume in the mask (area in 2D; in pixels where there is no scale); NaN where there are boxes only.
        n_objects: Number of objects: instances, boxes, else connected parts of the mask (touching at a corner is
            enough).
        objects: Volume and extents of each, smallest first; a few that stand for all where they are many.
    """

    volume_mm3: float
    n_objects: int
    objects: Sizes


def classes_of(
    annotation: Annotation, spacing_mm: tuple[float, ...], *, ignored_label: int | None = None
) -> dict[int, ClassSummary]:
    """What is annotated, by label id.

    Args:
        annotation: On a grid.
        spacing_mm: Distance between its voxels along each axis.
        ignored_label: Label id of voxels that nobody annotated.

    Returns:
        The classes that occur; the background does not count.
    """
    voxel = math.prod(spacing_mm)
    rows = list(_objects(annotation, np.array(spacing_mm)))
    volumes = _volumes(annotation, voxel, rows)
    found = {}
    for label in sorted((volumes.keys() | {label for label, _ in rows}) - {0, ignored_label}):
        of_label = sorted((sizes for own, sizes in rows if own == label), key=lambda sizes: sizes[0])
        found[label] = ClassSummary(volumes.get(label, math.nan), len(of_label), _thinned(of_label))
    return found


def _volumes(annotation: Annotation, voxel_mm3: float, rows: list[tuple[int, tuple[float, ...]]]) -> dict[int, float]:
    if annotation.mask is not None:
        labels, counts = np.unique(annotation.mask, return_counts=True)
        return {int(label): float(count) * voxel_mm3 for label, count in zip(labels, counts, strict=True)}
    if annotation.instances is None:
        return {}
    return {label: sum(sizes[0] for own, sizes in rows if own == label) for label, _ in rows}


def _objects(annotation: Annotation, spacing: Float[np.ndarray, "dims"]) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Label id and sizes of each object."""
    objects = annotation.objects
    if objects is not None:
        extents = (objects.high - objects.low) * spacing
        volumes = extents.prod(axis=1)
        if annotation.instances is not None:
            counts = np.bincount(annotation.instances.reshape(-1), minlength=len(objects) + 1)[1:]
            volumes = counts * spacing.prod()
        for label, volume, extent in zip(objects.labels.tolist(), volumes.tolist(), extents.tolist(), strict=True):
            yield label, (volume, *extent)
    elif annotation.mask is not None:
        yield from _connected_parts(annotation.mask, spacing)


def _connected_parts(
    mask: Integer[np.ndarray, "*spatial"], spacing: Float[np.ndarray, "dims"]
) -> Iterator[tuple[int, tuple[float, ...]]]:
    parts = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26 if mask.ndim == 3 else 8)
    label_of = np.zeros(int(parts.max()) + 1, dtype=np.int64)
    label_of[parts.reshape(-1)] = mask.reshape(-1)
    found = cc3d.statistics(parts)
    for part in range(1, len(label_of)):
        extent = np.array([axis.stop - axis.start for axis in found["bounding_boxes"][part]]) * spacing
        yield int(label_of[part]), (float(found["voxel_counts"][part] * spacing.prod()), *extent.tolist())


def _thinned(rows: list[tuple[float, ...]]) -> Sizes:
    if len(rows) <= _KEPT_OBJECTS:
        return tuple(rows)
    places = np.linspace(0, len(rows) - 1, _KEPT_OBJECTS).round().astype(int)
    return tuple(rows[place] for place in places)

"""What can be said of each object of an image: class, score, place, size, shape and intensities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import find_objects
from skimage.measure import label as label_components

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Prediction
from medexp.description.shape import diameters_mm, surface_mm

_STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": np.mean,
    "sd": np.std,
    "min": np.min,
    "median": np.median,
    "max": np.max,
}


def describe(
    prediction: Prediction, *, channels: Sequence[str] = (), slice_axis: int | None = None
) -> list[dict[str, Any]]:
    """A row for each object of a prediction or a reference.

    Objects are its instances, else its boxes and points, else the connected parts (by their faces) of each class of
    its mask. A row has

    - `case_id`, `object` (a number from 1 on), `class`, `score`;
    - `center_0`, ...: the centre in the world (of instances the centre of mass, of boxes their middle), in mm;
    - `box_low_0`, ..., `box_high_0`, ...: the bounding box in voxels, as in `Objects`;
    - `size`: the volume in mm3, in 2D the area in mm2, of boxes that of the box;
    - `voxels`, `surface` (mm2, in 2D the length of the outline in mm);
    - `longest_diameter` and `perpendicular_diameter` in mm, as in RECIST 1.1; of a volume in the slice where the
      longest one is longest, whose number is `diameter_slice`;
    - `slice_axis`, `first_slice`, `last_slice` of a volume;
    - `CHANNEL_mean`, `_sd`, `_min`, `_median` and `_max` of the intensities inside, where there are pixels.

    Lengths are in pixels where the image has no physical scale. What a box cannot tell is left out.

    Args:
        prediction: With instances, objects or a mask.
        channels: Names of the channels of its pixels.
        slice_axis: Axis along which a volume is sliced; None for the axis of the widest voxels, of several the last.

    Returns:
        The rows.

    Raises:
        DataError: There is nothing to describe.
        UsageError: There is no such axis.
    """
    geometry = prediction.geometry
    axis = _slice_axis(geometry, slice_axis)
    if prediction.instances is None and prediction.objects is not None:
        return _boxes(prediction)
    rows: list[dict[str, Any]] = []
    for instances, names, scores in _instances_of(prediction):
        for number, box in enumerate(find_objects(instances)):
            if box is None:
                continue
            inside = instances[box] == number + 1
            start = np.array([side.start for side in box])
            rows.append(
                {
                    "case_id": prediction.case_id,
                    "object": len(rows) + 1,
                    "class": names[number],
                    "score": float(scores[number]),
                    **_place(inside, start, geometry),
                    **_size(inside, start, geometry, axis),
                    **_intensities(inside, box, prediction, channels),
                }
            )
    return rows


def _slice_axis(geometry: Geometry, asked: int | None) -> int | None:
    if geometry.spatial_dims == 2:
        return None
    if asked is None:
        spacing = np.round(geometry.spacing_mm, 6)
        return int(np.flatnonzero(spacing == spacing.max())[-1])
    if not 0 <= asked < geometry.spatial_dims:
        raise UsageError(f"slice_axis needs a number from 0 to {geometry.spatial_dims - 1}, got {asked}")
    return asked


def _instances_of(
    prediction: Prediction,
) -> list[tuple[Integer[np.ndarray, "*spatial"], Sequence[str], Sequence[float]]]:
    """Maps of numbers of objects, with the name of the class and the score of each number from 1 on."""
    if prediction.instances is not None and prediction.objects is not None:
        names = [_name_of(value, prediction) for value in prediction.objects.labels.tolist()]
        return [(prediction.instances, names, prediction.objects.scores.tolist())]
    if prediction.mask is None:
        raise DataError(
            f"case {prediction.case_id} has neither instances nor objects nor a mask; nothing can be described"
        )
    found: list[tuple[Integer[np.ndarray, "*spatial"], Sequence[str], Sequence[float]]] = []
    for structure in prediction.classes:
        parts, count = label_components(prediction.binary(structure), connectivity=1, return_num=True)
        found.append((parts, [structure.name] * count, [1.0] * count))
    return found


def _name_of(value: int, prediction: Prediction) -> str:
    return next(structure.name for structure in prediction.classes if structure.value == value)


def _boxes(prediction: Prediction) -> list[dict[str, Any]]:
    objects, geometry = prediction.objects, prediction.geometry
    assert objects is not None
    return [
        {
            "case_id": prediction.case_id,
            "object": number,
            "class": _name_of(int(label), prediction),
            "score": float(score),
            **_numbered("center", _in_world((low + high) / 2 - 0.5, geometry)),
            **_numbered("box_low", low),
            **_numbered("box_high", high),
            "size": float(np.prod(high - low) * geometry.voxel_volume_mm3),
        }
        for number, (low, high, label, score) in enumerate(
            zip(objects.low, objects.high, objects.labels, objects.scores, strict=True), start=1
        )
    ]


def _place(
    inside: Bool[np.ndarray, "*spatial"], start: Integer[np.ndarray, "dims"], geometry: Geometry
) -> dict[str, float]:
    center = np.argwhere(inside).mean(axis=0) + start
    return {
        **_numbered("center", _in_world(center, geometry)),
        **_numbered("box_low", start),
        **_numbered("box_high", start + inside.shape),
    }


def _size(
    inside: Bool[np.ndarray, "*spatial"], start: Integer[np.ndarray, "dims"], geometry: Geometry, axis: int | None
) -> dict[str, float | int]:
    voxels = int(np.count_nonzero(inside))
    found: dict[str, float | int] = {
        "size": voxels * geometry.voxel_volume_mm3,
        "voxels": voxels,
        "surface": surface_mm(inside, geometry.spacing_mm),
    }
    if axis is None:
        longest, perpendicular = diameters_mm(inside, geometry.spacing_mm)
        return {**found, "longest_diameter": longest, "perpendicular_diameter": perpendicular}
    within = [length for place, length in enumerate(geometry.spacing_mm) if place != axis]
    slices = np.moveaxis(inside, axis, 0)
    measured = {place: diameters_mm(area, within) for place, area in enumerate(slices) if area.any()}
    at = max(measured, key=lambda place: measured[place][0])
    return {
        **found,
        "longest_diameter": measured[at][0],
        "perpendicular_diameter": measured[at][1],
        "diameter_slice": int(start[axis]) + at,
        "slice_axis": axis,
        "first_slice": int(start[axis]) + min(measured),
        "last_slice": int(start[axis]) + max(measured),
    }


def _intensities(
    inside: Bool[np.ndarray, "*spatial"], box: tuple[slice, ...], prediction: Prediction, channels: Sequence[str]
) -> dict[str, float]:
    if prediction.pixels is None:
        return {}
    names = channels or [f"channel_{number}" for number in range(len(prediction.pixels))]
    return {
        f"{name}_{statistic}": float(compute(pixels[box][inside]))
        for name, pixels in zip(names, prediction.pixels, strict=True)
        for statistic, compute in _STATISTICS.items()
    }


def _in_world(index: Float[np.ndarray, "dims"], geometry: Geometry) -> Float[np.ndarray, "dims"]:
    """World coordinates of a place in voxel indices, where whole numbers are the centres of voxels."""
    world: np.ndarray = geometry.affine[:-1, :-1] @ index + geometry.affine[:-1, -1]
    return world


def _numbered(name: str, values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {f"{name}_{axis}": float(value) for axis, value in enumerate(values)}

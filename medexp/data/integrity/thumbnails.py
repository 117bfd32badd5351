"""Small pictures of cases with the borders of their annotation, for the page."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from matplotlib.image import imsave

from medexp.core.objects import Objects
from medexp.core.types import Annotation, Image

_SIDE = 240
_SAMPLES = 1_000_000
# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = np.array(
    [[86, 180, 233], [230, 159, 0], [0, 158, 115], [240, 228, 66], [213, 94, 0], [204, 121, 167], [0, 114, 178]],
    dtype=np.uint8,
)


def thumbnail(image: Image) -> bytes:
    """A PNG of one plane of a case, its longer side 240 pixels long.

    A volume is cut across its longest voxels, where it has most foreground, else in the middle. Grey values run from
    the 1st to the 99th percentile. Borders of masks and instances, boxes and points are drawn over it.

    Args:
        image: The case, with pixels of shape (channels, *spatial) in 2D or 3D.

    Returns:
        The file's content.
    """
    axis, place = _plane(image)
    axes = [a for a in range(image.geometry.spatial_dims) if a != axis]
    rows, columns = (_places(image, a, axes) for a in axes)
    picture = _picture(_cut(image.pixels, axis, place)[:, rows[:, None], columns])
    annotation = image.annotation or Annotation()
    for layer in (annotation.mask, annotation.instances):
        if layer is not None:
            _draw_borders(picture, _cut(layer, axis, place)[rows[:, None], columns])
    if annotation.objects is not None and annotation.instances is None:
        scale = [len(where) / image.geometry.shape[a] for a, where in zip(axes, (rows, columns), strict=True)]
        _draw_boxes(picture, _met(annotation.objects, axis, place), axes, scale)
    # A volume's first axis runs to the right and its second upwards; a picture's first axis runs downwards.
    upright = np.ascontiguousarray(np.rot90(picture)) if axis is not None else picture
    stream = io.BytesIO()
    imsave(stream, upright, format="png")
    return stream.getvalue()


def _plane(image: Image) -> tuple[int | None, int]:
    """Axis and place at which a volume is cut; no axis for a picture."""
    if image.geometry.spatial_dims == 2:
        return None, 0
    spacing = image.geometry.spacing_mm
    axis = max(range(3), key=lambda a: (round(spacing[a], 3), a))
    layer = None if image.annotation is None else image.annotation.mask
    if layer is None and image.annotation is not None:
        layer = image.annotation.instances
    if layer is not None and (layer > 0).any():
        others = tuple(a for a in range(3) if a != axis)
        return axis, int(np.argmax((layer > 0).sum(axis=others)))
    if image.annotation is not None and image.annotation.objects is not None and len(image.annotation.objects):
        return axis, int(np.clip(image.annotation.objects.centers[0, axis], 0, image.geometry.shape[axis] - 1))
    return axis, image.geometry.shape[axis] // 2


def _cut(array: np.ndarray, axis: int | None, place: int) -> np.ndarray:
    return array if axis is None else np.take(array, place, axis=axis - 3)


def _places(image: Image, axis: int, axes: list[int]) -> Integer[np.ndarray, "pixels"]:
    """Which voxel along an axis each pixel of the thumbnail shows."""
    lengths = [image.geometry.shape[a] * image.geometry.spacing_mm[a] for a in axes]
    n = image.geometry.shape[axis]
    pixels = max(1, round(_SIDE * n * image.geometry.spacing_mm[axis] / max(lengths)))
    return ((np.arange(pixels) + 0.5) * n / pixels).astype(np.int64)


def _picture(channels: Float[np.ndarray, "channels rows columns"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Three channels in colour, of another number the first in grey."""
    shown = channels if len(channels) == 3 else channels[[0, 0, 0]]
    values = shown[np.isfinite(shown)]
    values = values[:: max(1, values.size // _SAMPLES)]
    low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 1.0)
    scaled = (np.nan_to_num(shown, nan=low, posinf=high, neginf=low) - low) / (high - low if high > low else 1.0)
    return np.ascontiguousarray(np.moveaxis((np.clip(scaled, 0, 1) * 255).astype(np.uint8), 0, -1))


def _draw_borders(picture: UInt8[np.ndarray, "rows columns 3"], labels: Integer[np.ndarray, "rows columns"]) -> None:
    """Colour the pixels of each label that touch another one."""
    border = _differs(labels) & (labels != 0)
    picture[border] = _COLOURS[labels[border] % len(_COLOURS)]


def _differs(labels: Integer[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    padded = np.pad(labels, 1, mode="edge")
    moved = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.any([labels != other for other in moved], axis=0)


def _met(objects: Objects, axis: int | None, place: int) -> Objects:
    """The objects that meet a plane; all where there is none."""
    finite = np.isfinite(objects.boxes).all(axis=1)
    if axis is None:
        return objects.select(finite)
    return objects.select(finite & (objects.low[:, axis] < place + 1) & (objects.high[:, axis] >= place))


def _draw_boxes(
    picture: UInt8[np.ndarray, "rows columns 3"], objects: Objects, axes: list[int], scale: list[float]
) -> None:
    """Draw the outline of each box as far as it lies in the picture; a point is a small square."""
    size = np.array(picture.shape[:2])
    for low, high, label in zip(objects.low[:, axes], objects.high[:, axes], objects.labels, strict=True):
        ends = np.stack([np.minimum(low, high), np.maximum(low, high)]) * scale
        if (ends[0] == ends[1]).all():
            ends += [[-2], [2]]
        (top, left), (bottom, right) = np.clip(np.floor(ends), 0, size - 1).astype(int)
        colour = _COLOURS[label % len(_COLOURS)]
        picture[top : bottom + 1, [left, right]] = colour
        picture[[top, bottom], left : right + 1] = colour

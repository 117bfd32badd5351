"""Values between voxels and the nearest voxels, read by index; the same whatever the number of threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Integer

from medexp.data._mapped import announce

# Whole numbers up to here are exact in fp32.
_EXACT = 2**24

Places = Sequence[Float32[np.ndarray, "*patch"]]


def read_window(
    array: np.ndarray, start: Sequence[int], size: Sequence[int], dtype: Any, axes_flipped: tuple[int, ...] = ()
) -> np.ndarray:
    """Copy a window of the last axes, with zeros where it leaves the array.

    Args:
        array: Channels and spatial axes, possibly memory-mapped.
        start: First voxel of the window.
        size: Its shape.
        dtype: Type of the copy.
        axes_flipped: Spatial axes that are reversed.

    Returns:
        A new array of shape (channels, *size).
    """
    ends = [
        (max(first, 0), min(first + n, total)) for first, n, total in zip(start, size, array.shape[1:], strict=True)
    ]
    is_inside = [high - low for low, high in ends] == list(size)
    window = (np.empty if is_inside else np.zeros)((array.shape[0], *size), dtype=dtype)
    if all(low < high for low, high in ends):
        source = tuple(slice(low, high) for low, high in ends)
        announce(array, (slice(0, array.shape[0]), *source))
        target = tuple(slice(low - first, high - first) for (low, high), first in zip(ends, start, strict=True))
        # The copy into a reversed view reverses, at no cost.
        np.flip(window, tuple(axis + 1 for axis in axes_flipped))[:, *target] = array[:, *source]
    return window


def interpolate(window: Float32[np.ndarray, "channels *window"], places: Places) -> Float32[np.ndarray, "channels ..."]:
    """Linear interpolation between the voxels around each place.

    torch's `grid_sample` takes 2.5 times as long for a patch and its labels, in batches too, and scipy's
    `affine_transform` 3.5 times (64 voxels along each axis, one thread).

    Args:
        window: Intensities.
        places: Coordinates along each axis, from the first voxel of the window to the last but one; all of the patch's
            shape.

    Returns:
        Intensities at the places.
    """
    shape = window.shape[1:]
    lower = [np.floor(place) for place in places]
    index = _flat(lower, shape)
    fractions = [np.subtract(place, low, out=low) for place, low in zip(places, lower, strict=True)]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    steps = [
        sum(step for step, up in zip(strides, ups, strict=True) if up) for ups in product((0, 1), repeat=len(shape))
    ]
    result = np.empty((window.shape[0], *places[0].shape), dtype=np.float32)
    for channel, values in zip(window, result, strict=True):
        flat = channel.reshape(-1)
        # Corners differ along the last axis first, so neighbours in the list are joined first along that axis.
        corners = [flat[step:].take(index, mode="clip") for step in steps]
        for fraction in reversed(fractions):
            corners = [_between(low, high, fraction) for low, high in zip(corners[::2], corners[1::2], strict=True)]
        values[...] = corners[0]
    return result


def _between(low: np.ndarray, high: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Values at a fraction of the way between two, in the memory of the higher ones."""
    high -= low
    high *= fraction
    high += low
    return high


def nearest(window: Integer[np.ndarray, "*window"], places: Places) -> Integer[np.ndarray, "..."]:
    """The value of the voxel that is nearest to each place.

    Args:
        window: Ids of any integer type.
        places: Coordinates along each axis, in voxels of the window and inside it; all of the patch's shape.

    Returns:
        Ids at the places.
    """
    return window.reshape(-1).take(_flat([np.rint(place) for place in places], window.shape), mode="clip")


def _flat(places: Sequence[np.ndarray], shape: tuple[int, ...]) -> Integer[np.ndarray, "*patch"]:
    """Indices of whole places in the flattened array."""
    index = places[0].astype(np.float32 if math.prod(shape) < _EXACT else np.float64)
    for place, n in zip(places[1:], shape[1:], strict=True):
        np.multiply(index, n, out=index)
        np.add(index, place, out=index)
    return index.astype(np.intp)


def interpolate_along_axes(
    array: Float32[np.ndarray, "*leading_and_spatial"], places: Sequence[Float[np.ndarray, "_"]]
) -> Float32[np.ndarray, "..."]:
    """Linear interpolation at all combinations of places along the last axes, one axis after the other.

    Args:
        array: Intensities.
        places: Coordinates along each of the last axes, in voxels; beyond the first and the last lie their values.

    Returns:
        An array with one voxel a place along each of these axes.
    """
    lead = array.ndim - len(places)
    # Whole blocks of memory are read along the first axis, so it comes when the array is at its largest.
    grows = math.prod(map(len, places)) > math.prod(array.shape[lead:])
    for axis in reversed(range(len(places))) if grows else range(len(places)):
        array = _interpolate_axis(array, places[axis], lead + axis)
    return array


def _interpolate_axis(array: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    last = array.shape[axis] - 1
    inside = np.clip(places, 0, last)
    lower = np.minimum(np.floor(inside), max(last - 1, 0)).astype(np.intp)
    fraction = (inside - lower).astype(np.float32).reshape([-1 if axis == i else 1 for i in range(array.ndim)])
    return _between(array.take(lower, axis), array.take(np.minimum(lower + 1, last), axis), fraction)

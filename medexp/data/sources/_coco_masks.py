"""Segmentations of COCO as voxels: polygons, and run-length encoded masks.

Source: the format (https://cocodataset.org/#format-data) and maskApi.c of its reference implementation. Runs go down
the columns and begin with background. Nothing in a segmentation is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as mask_api
from jaxtyping import Integer

from medexp.data.sources._instances import Voxels

# How far a corner may leave the image; annotation tools round and count pixels in different ways.
_TOLERANCE = 1.0
_FEWEST_NUMBERS = 6
_LARGEST = 2**31


class UnfitSegmentationError(ValueError):
    """A segmentation that says nothing about this image; the message follows "got"."""


def voxels_of(segmentation: Any, shape: tuple[int, int]) -> Voxels:
    """The voxels of an object, exactly those that the reference implementation finds.

    Args:
        segmentation: Polygons as lists x1, y1, x2, y2, ...; or a mapping with size and counts, where counts are numbers
            or a text that compresses them.
        shape: Rows and columns of the image.

    Returns:
        Places in the image, the columns running fastest, in rising order.

    Raises:
        UnfitSegmentationError: The segmentation is malformed, of another size, or leaves the image.
    """
    if isinstance(segmentation, Mapping):
        return _inside_runs(_runs(segmentation, shape), shape)
    if not isinstance(segmentation, list) or not segmentation:
        raise UnfitSegmentationError("neither polygons nor runs")
    polygons = [_checked(polygon, shape) for polygon in segmentation]
    encoded = mask_api.frPyObjects(polygons, *shape)
    parts = [_inside_runs(_decompressed(one["counts"]), shape) for one in encoded]
    return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))


def _checked(polygon: Any, shape: tuple[int, int]) -> list[float]:
    """The corners of a polygon; the reference implementation cuts it at the border of the image."""
    numbers = polygon if isinstance(polygon, list) else []
    if len(numbers) < _FEWEST_NUMBERS or len(numbers) % 2 or not all(map(is_number, numbers)):
        raise UnfitSegmentationError("a polygon that is no list of three or more corners x, y")
    corners = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    limits = np.array([shape[1], shape[0]]) + _TOLERANCE
    outside = ((corners < -_TOLERANCE) | (corners > limits)).any(axis=1)
    if outside.any():
        x, y = corners[outside][0]
        raise UnfitSegmentationError(f"a polygon with a corner at x={x:g}, y={y:g}")
    return corners.reshape(-1).tolist()


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file can be a place in an image."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _runs(rle: Mapping[str, Any], shape: tuple[int, int]) -> Integer[np.ndarray, "runs"]:
    """The lengths of the runs, which add up to the image."""
    if rle.get("size") != [*shape]:
        raise UnfitSegmentationError(f"runs for an image of size {rle.get('size')}")
    counts = rle.get("counts")
    if isinstance(counts, str):
        runs = _decompressed(counts.encode("utf-8", errors="surrogatepass"))
    elif isinstance(counts, list) and all(type(count) is int and 0 <= count <= math.prod(shape) for count in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise UnfitSegmentationError("runs whose lengths are no whole numbers")
    if (runs < 0).any() or runs.sum() != math.prod(shape):
        raise UnfitSegmentationError(f"runs of {runs.sum()} pixels together")
    return runs


def _decompressed(counts: bytes) -> Integer[np.ndarray, "runs"]:
    """The numbers of a text that has 5 bits of a number in each letter, the lowest first.

    The sixth bit says that the number goes on, and the highest bit of the last letter is its sign. From the fourth on,
    numbers are differences from the one before the last.
    """
    letters = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - ord("0")
    if not len(letters) or letters.min() < 0 or letters.max() >= 2**6 or letters[-1] & 0x20:
        raise UnfitSegmentationError("runs whose text cannot be decoded")
    ends = np.flatnonzero((letters & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits, more than any image needs
        raise UnfitSegmentationError("runs whose text cannot be decoded")
    shifts = 5 * (np.arange(len(letters)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((letters & 0x1F) << shifts, starts)
    numbers -= np.where(letters[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def _inside_runs(runs: Integer[np.ndarray, "runs"], shape: tuple[int, int]) -> Voxels:
    """The places in every second run, from down the columns to along the rows."""
    ends = np.cumsum(runs)
    lengths, stops = runs[1::2], ends[1::2]
    shift = stops - np.cumsum(lengths)  # from the place in the object to that in the image
    down = np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
    return np.sort(down % shape[0] * shape[1] + down // shape[0])

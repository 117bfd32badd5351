"""Instances of a large image from instances of its tiles, without seams and one tile in memory at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from medexp.core.errors import DataError, UsageError


@runtime_checkable
class Voxels(Protocol):
    """What ids are written to, part by part: an array of numpy, zarr, HDF5."""

    dtype: Any

    def __getitem__(self, part: Any) -> Any:
        """Read a part."""

    def __setitem__(self, part: Any, values: Any) -> None:
        """Write a part."""


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Attributes:
        extent: What is looked at.
        core: The part of it that this tile alone decides on; the cores of all tiles make up the image.
        index: Number of the tile along each axis.
        near: Numbers along each axis of the tiles whose cores it looks into, its own among them.
    """

    extent: tuple[slice, ...]
    core: tuple[slice, ...]
    index: tuple[int, ...]
    near: tuple[range, ...]


def tiles_of(shape: Sequence[int], *, size: Sequence[int], overlap: Sequence[int]) -> list[Tile]:
    """Tiles of one size that cover an image, each of which shares voxels with the next one along every axis.

    Tiles lie as evenly as they can; two neighbours share at least `overlap` voxels, and their cores meet in the middle
    of what they share.

    Args:
        shape: Voxels of the image along each axis.
        size: Voxels of a tile; where the image is smaller, the tile is as large as the image.
        overlap: Least number of voxels that neighbours share.

    Returns:
        The tiles, the last axis fastest.

    Raises:
        UsageError: The numbers do not fit each other.
    """
    if not len(shape) == len(size) == len(overlap):
        raise UsageError(f"tiles need a size and an overlap for each axis of {tuple(shape)}, got {size} and {overlap}")
    if not all(2 <= shared < extent for shared, extent in zip(overlap, size, strict=True)):
        raise UsageError(f"tiles of {tuple(size)} need an overlap from 2 to below their size, got {tuple(overlap)}")
    axes = [_along(*each) for each in zip(shape, size, overlap, strict=True)]
    return [Tile(*map(tuple, zip(*parts, strict=True))) for parts in product(*axes)]


def stitch(found: Iterable[tuple[Tile, Integer[np.ndarray, "*tile"]]], out: Voxels, *, min_iou: float = 0.5) -> int:
    """Join the instances of tiles where they are the same object, and number them through.

    Each tile writes its core. Where it looks into cores that were written before, an instance of this tile and one of
    those are the same object if their IoU there is at least `min_iou`; an object may pass through any number of tiles.
    In memory are a tile, its place in `out`, and a number for each object.

    Args:
        found: Tiles of one image, each once, in any order, with ids of its own from 1 on; 0 where there is no object.
        out: Gets the ids 1 to n; holds whole numbers that are large enough for the objects of all tiles together.
        min_iou: Voxels that both share over those that either has, among the voxels that both tiles saw.

    Returns:
        The number n of objects.

    Raises:
        UsageError: `min_iou` is not above 0 and up to 1.
        DataError: A tile has another shape than its extent, or there are more objects than `out` can hold.
    """
    if not 0 < min_iou <= 1:
        raise UsageError(f"min_iou of tiles needs a value above 0 and up to 1, got {min_iou}")
    last, same = 0, [np.zeros((0, 2), dtype=np.int64)]
    written: dict[tuple[int, ...], Tile] = {}
    largest = np.iinfo(out.dtype).max
    for tile, instances in found:
        expected = tuple(side.stop - side.start for side in tile.extent)
        if instances.shape != expected:
            raise DataError(f"tile {tile.index} needs shape {expected}, got {instances.shape}")
        numbers = np.where(instances > 0, instances.astype(np.int64) + last, 0)
        last += int(instances.max(initial=0))
        if last > largest:
            raise DataError(f"the tiles have over {largest} objects, more than {out.dtype} holds; write to int64")
        before = np.asarray(out[tile.extent])
        for index in product(*tile.near):
            # Core by core: two tiles before may have numbered the same object, which is compared with each of them.
            if index in written:
                seen = _within(written[index].core, tile.extent)
                same.append(_same(numbers[seen].ravel(), before[seen].ravel(), min_iou))
        out[tile.core] = numbers[_within(tile.core, tile.extent)].astype(out.dtype)
        written[tile.index] = tile
    return _number_through(out, list(written.values()), np.concatenate(same), last)


def _within(part: tuple[slice, ...], extent: tuple[slice, ...]) -> tuple[slice, ...]:
    """The place of a part in an extent, as far as it lies there."""
    return tuple(
        slice(max(side.start - whole.start, 0), max(min(side.stop, whole.stop) - whole.start, 0))
        for side, whole in zip(part, extent, strict=True)
    )


def _along(length: int, size: int, overlap: int) -> list[tuple[slice, slice, int, range]]:
    """Extent, core, number and numbers near it of each tile along one axis."""
    size = min(size, length)
    count = 1 if size == length else -(-(length - overlap) // (size - overlap))
    starts = np.linspace(0, length - size, count).round().astype(int).tolist()
    meets = [(start + size + following) // 2 for start, following in pairwise(starts)]
    begins, ends = [0, *meets], [*meets, length]
    return [
        (
            slice(start, start + size),
            slice(begin, end),
            number,
            range(bisect_right(ends, start), bisect_left(begins, start + size)),
        )
        for number, (start, begin, end) in enumerate(zip(starts, begins, ends, strict=True))
    ]


def _same(
    numbers: Integer[np.ndarray, "seen"], before: Integer[np.ndarray, "seen"], min_iou: float
) -> Integer[np.ndarray, "pairs 2"]:
    """Pairs of ids that are one object, among the voxels that were seen twice."""
    pairs, shared = np.unique(np.stack([numbers, before.astype(np.int64)]), axis=1, return_counts=True)
    own, of_own = np.unique(pairs[0], return_inverse=True)
    earlier, of_earlier = np.unique(pairs[1], return_inverse=True)
    either = np.bincount(of_own, shared, minlength=len(own))[of_own] - shared
    either += np.bincount(of_earlier, shared, minlength=len(earlier))[of_earlier]
    is_same = (pairs > 0).all(axis=0) & (shared >= min_iou * either)
    chosen: np.ndarray = pairs[:, is_same].T
    return chosen


def _number_through(out: Voxels, tiles: Sequence[Tile], same: Integer[np.ndarray, "pairs 2"], last: int) -> int:
    """Give all ids that are one object one number, numbered from 1 in the order of their first id."""
    graph = coo_matrix((np.ones(len(same)), (same[:, 0], same[:, 1])), shape=(last + 1, last + 1))
    _, groups = connected_components(graph, directed=False)
    occurs = np.zeros(last + 1, dtype=bool)
    for tile in tiles:
        occurs[np.unique(out[tile.core])] = True
    # Only an id that was written is an object: what a tile saw in another's core alone is that one's to decide.
    kept = np.flatnonzero(occurs[1:]) + 1
    _, first, number = np.unique(groups[kept], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    new = np.zeros(last + 1, dtype=np.int64)
    new[kept] = rank[number]
    for tile in tiles:
        out[tile.core] = new[np.asarray(out[tile.core])].astype(out.dtype)
    return len(first)

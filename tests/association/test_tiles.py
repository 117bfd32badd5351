from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from medexp.association.tiles import Tile, stitch, tiles_of
from medexp.core.errors import DataError, UsageError


def truth(shape: tuple[int, ...], seed: int, *, sigma: float = 1.5) -> np.ndarray:
    """Objects of all sizes, many of which touch: a random surface cut into a random Voronoi mosaic."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros(shape, bool)
    seeds[tuple(rng.integers(0, n, 25) for n in shape)] = True
    _, nearest = ndimage.distance_transform_edt(~seeds, return_indices=True)
    mosaic = np.ravel_multi_index(tuple(nearest), shape)
    foreground = ndimage.gaussian_filter(rng.normal(size=shape), sigma) > -0.02
    parts = np.zeros(shape, np.int32)
    for value in np.unique(mosaic):
        labels, _ = ndimage.label(foreground & (mosaic == value))
        parts[labels > 0] = labels[labels > 0] + parts.max()
    return parts


def seen_by(tile: Tile, instances: np.ndarray, seed: int) -> np.ndarray:
    """What a perfect network finds in a tile: its objects, with numbers of its own."""
    part = instances[tile.extent]
    ids = np.unique(part[part > 0])
    numbers = np.zeros(instances.max() + 1, np.int32)
    numbers[ids] = np.random.default_rng(seed).permutation(len(ids)) + 1
    return numbers[part]


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(pairs[0]) == len(np.unique(one)) == len(np.unique(other)) and 0 not in pairs[:, 1:]


@pytest.mark.parametrize(
    ("shape", "size", "overlap"),
    [((70, 53), (24, 20), (8, 6)), ((26, 30, 21), (14, 12, 21), (6, 4, 5)), ((40, 40), (30, 33), (20, 2))],
)
@pytest.mark.parametrize("seed", range(3))
def test_perfect_tiles_make_the_whole_again_in_any_order(shape, size, overlap, seed):
    instances = truth(shape, seed)
    tiles = tiles_of(shape, size=size, overlap=overlap)
    order = np.random.default_rng(seed).permutation(len(tiles))
    out = np.zeros(shape, np.int32)
    count = stitch(((tiles[at], seen_by(tiles[at], instances, at)) for at in order), out)
    assert count == instances.max() == out.max()
    assert same_partition(out, instances)


def _meet(one: tuple[slice, ...], other: tuple[slice, ...]) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shape", [(100, 37), (64, 64), (65, 64), (500, 40)])
def test_cores_make_up_the_image_and_neighbours_share_the_overlap(shape):
    tiles = tiles_of(shape, size=(64, 30), overlap=(16, 10))
    times = np.zeros(shape, int)
    for tile in tiles:
        times[tile.core] += 1
        assert all(e.start <= c.start < c.stop <= e.stop for e, c in zip(tile.extent, tile.core, strict=True))
        near = {other.index for other in tiles if _meet(other.core, tile.extent)}
        assert near == {(i, j) for i in tile.near[0] for j in tile.near[1]}
    assert (times == 1).all()
    rows = sorted({(tile.extent[0].start, tile.extent[0].stop) for tile in tiles})
    assert all(first[1] - second[0] >= 16 for first, second in pairwise(rows))


def test_an_object_that_passes_through_many_tiles_is_one_and_what_touches_it_another():
    instances = np.zeros((20, 200), np.int32)
    instances[5:10], instances[10:15] = 1, 2
    tiles = tiles_of((20, 200), size=(20, 16), overlap=(4, 4))
    out = np.zeros((20, 200), np.uint16)
    assert stitch(((tile, seen_by(tile, instances, at)) for at, tile in enumerate(tiles)), out) == 2
    assert len(tiles) > 10
    assert same_partition(out, instances)


def test_objects_that_overlap_by_less_than_asked_stay_apart():
    tiles = tiles_of((8, 20), size=(8, 12), overlap=(2, 4))
    assert [tile.core[1] for tile in tiles] == [slice(0, 10), slice(10, 20)]
    first, second = np.zeros((8, 12), np.int32), np.zeros((8, 12), np.int32)
    first[0:4, 6:], second[2:6, :6] = 1, 1  # seen twice are columns 8 and 9: 4 of 12 voxels are shared
    for min_iou, expected in ((0.33, 1), (0.34, 2)):
        out = np.zeros((8, 20), np.int32)
        assert stitch(zip(tiles, (first, second), strict=True), out, min_iou=min_iou) == expected


def test_what_a_tile_sees_in_the_core_of_another_alone_is_no_object():
    tiles = tiles_of((8, 20), size=(8, 12), overlap=(2, 4))
    first, second = np.zeros((8, 12), np.int32), np.zeros((8, 12), np.int32)
    second[2:4, 0:2] = 1
    out = np.zeros((8, 20), np.int32)
    assert stitch(zip(tiles, (first, second), strict=True), out) == 0
    assert not out.any()


class Parts:
    """An array that tells how much of it was held at a time, as a store on disk would give it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.array = np.zeros(shape, np.int32)
        self.dtype = self.array.dtype
        self.largest = 0

    def __getitem__(self, part):
        found = self.array[part].copy()
        self.largest = max(self.largest, found.size)
        return found

    def __setitem__(self, part, values):
        self.array[part] = values


def test_never_more_than_a_tile_is_read():
    instances = truth((120, 110), 4)
    tiles = tiles_of(instances.shape, size=(32, 32), overlap=(8, 8))
    out = Parts(instances.shape)
    stitch(((tile, seen_by(tile, instances, at)) for at, tile in enumerate(tiles)), out)
    assert same_partition(out.array, instances)
    assert out.largest == 32 * 32


def test_a_zarr_array_is_written_in_place(tmp_path):
    zarr = pytest.importorskip("zarr")
    instances = truth((50, 40), 1)
    tiles = tiles_of(instances.shape, size=(24, 24), overlap=(8, 8))
    out = zarr.create_array(store=str(tmp_path / "ids.zarr"), shape=(50, 40), chunks=(16, 16), dtype="int32")
    assert stitch(((tile, seen_by(tile, instances, at)) for at, tile in enumerate(tiles)), out) == instances.max()
    assert same_partition(zarr.open_array(str(tmp_path / "ids.zarr"))[:], instances)


def test_what_does_not_fit_is_told():
    with pytest.raises(UsageError, match=r"need an overlap from 2 to below their size, got \(0, 4\)"):
        tiles_of((40, 40), size=(16, 16), overlap=(0, 4))
    with pytest.raises(UsageError, match="a size and an overlap for each axis"):
        tiles_of((40, 40, 40), size=(16, 16), overlap=(4, 4))
    (tile,) = tiles_of((8, 8), size=(16, 16), overlap=(4, 4))
    with pytest.raises(DataError, match=r"tile \(0, 0\) needs shape \(8, 8\), got \(4, 4\)"):
        stitch([(tile, np.zeros((4, 4), np.int32))], np.zeros((8, 8), np.int32))
    with pytest.raises(UsageError, match="min_iou of tiles needs a value above 0 and up to 1, got 0"):
        stitch([], np.zeros((8, 8), np.int32), min_iou=0.0)
    with pytest.raises(DataError, match="over 255 objects, more than uint8 holds"):
        stitch([(tile, np.full((8, 8), 300, np.int32))], np.zeros((8, 8), np.uint8))

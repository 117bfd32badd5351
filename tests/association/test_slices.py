from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medexp.association.slices import SliceJoiner
from medexp.core.errors import UsageError


def _balls() -> np.ndarray:
    """A volume of balls whose outlines in consecutive slices overlap by more than a third, as far as radius 6 goes."""
    grid = np.moveaxis(np.indices((24, 32, 32)), 0, -1)
    volume = np.zeros((24, 32, 32), dtype=np.int32)
    for identity, centre in enumerate([(6, 8, 8), (10, 8, 23), (12, 23, 12), (17, 14, 25)], start=1):
        volume[((grid - np.array(centre)) ** 2).sum(axis=-1) <= 6.2**2] = identity
    return volume


def _shuffled(volume: np.ndarray, seed: int = 0) -> np.ndarray:
    """The objects of each slice, with ids that say nothing of other slices."""
    rng = np.random.default_rng(seed)
    slices = np.zeros_like(volume)
    for depth, plane in enumerate(volume):
        ids = np.unique(plane[plane > 0])
        for old, new in zip(ids, rng.permutation(100)[: len(ids)] + 1, strict=True):
            slices[depth][plane == old] = new
    return slices


def _same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two label images differ in the names of objects only."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_slices_of_a_volume_are_joined_to_its_objects() -> None:
    volume = _balls()

    joined = SliceJoiner(min_iou=0.1)(_shuffled(volume))

    assert _same_partition(joined, volume)
    assert np.unique(joined).tolist() == [0, 1, 2, 3, 4]


def test_joining_does_not_depend_on_the_ids_of_slices() -> None:
    volume = _balls()

    first, second = (SliceJoiner(min_iou=0.1)(_shuffled(volume, seed)) for seed in (1, 2))

    assert _same_partition(first, second)


def test_touching_objects_stay_apart_where_connected_components_would_merge_them() -> None:
    volume = np.zeros((4, 8, 16), dtype=np.int32)
    volume[:, :, :8], volume[:, :, 8:] = 1, 2

    joined = SliceJoiner()(_shuffled(volume))

    assert ndimage.label(volume > 0)[1] == 1
    assert _same_partition(joined, volume)


@pytest.mark.parametrize(("min_iou", "objects"), [(1 / 3, 1), (0.34, 2)])
def test_outlines_are_joined_from_the_threshold_on(min_iou: float, objects: int) -> None:
    slices = np.zeros((2, 4, 8), dtype=np.int32)
    slices[0, :, 0:4], slices[1, :, 2:6] = 1, 1  # 8 voxels shared of 24

    assert SliceJoiner(min_iou=min_iou)(slices).max() == objects


@pytest.mark.parametrize(("gap_slices", "objects"), [(0, 3), (1, 2), (2, 1)])
def test_a_gap_is_bridged_up_to_its_length(gap_slices: int, objects: int) -> None:
    slices = np.zeros((7, 6, 6), dtype=np.int32)
    slices[[0, 2, 5], 1:5, 1:5] = 1  # one slice is missing, then two

    assert SliceJoiner(gap_slices=gap_slices)(slices).max() == objects


def test_what_was_seen_in_the_slice_before_is_paired_first() -> None:
    slices = np.zeros((3, 4, 8), dtype=np.int32)
    slices[0, :, 0:6] = 1  # the same as in slice 2
    slices[1, :, 4:8] = 1  # too little of slice 0, and enough of slice 2
    slices[2, :, 2:8] = 1

    joined = SliceJoiner(min_iou=0.3, gap_slices=1)(slices)

    assert [int(joined[depth].max()) for depth in range(3)] == [1, 2, 2]


def test_the_sum_of_overlaps_decides_between_neighbours() -> None:
    slices = np.zeros((2, 1, 12), dtype=np.int32)
    slices[0, 0, 0:4], slices[0, 0, 4:10] = 1, 2
    slices[1, 0, 2:8], slices[1, 0, 8:10] = 1, 2
    # IoU of 1 with 1 is 2/8, of 2 with 1 it is 4/8, of 2 with 2 it is 2/6: 1-1 and 2-2 sum to more than 2-1 alone.

    joined = SliceJoiner(min_iou=0.2)(slices)

    assert joined[1, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 0, 0]


def test_empty_slices_have_no_objects() -> None:
    assert not SliceJoiner(gap_slices=3)(np.zeros((3, 4, 4), dtype=np.int32)).any()


@pytest.mark.parametrize("knobs", [{"min_iou": 0.0}, {"min_iou": 1.5}, {"gap_slices": -1}, {"gap_slices": True}])
def test_unfit_knobs_are_refused(knobs: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(knobs))):
        SliceJoiner(**knobs)

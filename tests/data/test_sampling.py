from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medexp.data.sampling import SampleOrder, StreamBatches, balanced_order, draw_center

NOTHING = np.zeros((0, 4), dtype=np.int32)


def test_every_case_occurs_once_in_each_pass():
    order = SampleOrder(n_cases=7, seed=3)
    for number in range(5):
        cases = [order.case_of(sample) for sample in range(number * 7, number * 7 + 7)]
        assert sorted(cases) == list(range(7))


def test_passes_are_shuffled_anew():
    order = SampleOrder(n_cases=20, seed=3)
    passes = {tuple(order.case_of(number * 20 + place) for place in range(20)) for number in range(10)}
    assert len(passes) == 10


def test_the_case_of_a_sample_depends_on_seed_and_number_alone():
    forward = SampleOrder(n_cases=7, seed=3)
    expected = [forward.case_of(sample) for sample in range(50)]
    backward = SampleOrder(n_cases=7, seed=3)
    assert [backward.case_of(sample) for sample in reversed(range(50))] == expected[::-1]
    assert [SampleOrder(n_cases=7, seed=3).case_of(sample) for sample in range(50)] == expected
    assert [SampleOrder(n_cases=7, seed=4).case_of(sample) for sample in range(50)] != expected


def test_seed_zero_is_a_seed():
    zero, other = (SampleOrder(n_cases=30, seed=seed).hash(60) for seed in (0, 1))
    assert zero == SampleOrder(n_cases=30, seed=0).hash(60) != other


@settings(deadline=None, database=None)
@given(
    batch_size=st.integers(1, 5), per_epoch=st.integers(1, 9), start=st.integers(0, 30), world_size=st.integers(1, 3)
)
def test_batches_go_on_at_any_position_and_give_exactly_the_tail(batch_size, per_epoch, start, world_size):
    def batches(position: int, rank: int = 0) -> list[list[int]]:
        knobs = {"batch_size": batch_size, "batches_per_epoch": per_epoch, "world_size": world_size}
        return list(StreamBatches(**knobs, position=lambda: position, rank=rank))

    epoch, done = divmod(start, per_epoch)
    assert batches(start) == batches(epoch * per_epoch)[done:]
    assert len(batches(start)) == per_epoch - done
    of_ranks = zip(*(batches(start, rank) for rank in range(world_size)), strict=True)
    together = [list(itertools.chain(*batch)) for batch in of_ranks]
    alone = StreamBatches(batch_size=batch_size * world_size, batches_per_epoch=per_epoch, position=lambda: start)
    assert together == list(alone)


def test_epochs_follow_each_other_without_gap():
    position = 0
    batches = StreamBatches(batch_size=2, batches_per_epoch=3, position=lambda: position)
    seen = []
    for _ in range(3):
        for batch in batches:
            seen += batch
            position += 1
    assert seen == list(range(18))
    assert len(batches) == 3


def centers(count: int, *, shape, patch_size, foreground=NOTHING, fraction=0.0, seed=0) -> np.ndarray:
    random = np.random.default_rng(seed)
    knobs = {"shape": shape, "patch_size": patch_size, "foreground": foreground, "foreground_fraction": fraction}
    return np.array([draw_center(random, **knobs) for _ in range(count)])


@settings(deadline=None, database=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    patch_size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    fraction=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 100),
)
def test_the_patch_stays_inside_and_covers_what_is_smaller(shape, patch_size, fraction, seed):
    corner = np.array([[1, 0, 0], [1, shape[0] - 1, shape[1] - 1]], dtype=np.int32)
    for center in centers(4, shape=shape, patch_size=patch_size, foreground=corner, fraction=fraction, seed=seed):
        for middle, n, size in zip(center, shape, patch_size, strict=True):
            if n <= size:
                assert middle == (n - 1) / 2
            else:
                assert (size - 1) / 2 <= middle <= n - 1 - (size - 1) / 2
                assert (2 * middle) % 1 == 0


def test_every_place_is_as_likely_as_any_other():
    found = centers(6000, shape=(8, 9), patch_size=(6, 9))
    counts = Counter(found[:, 0])
    assert set(counts) == {2.5, 3.5, 4.5}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert set(found[:, 1]) == {4.0}


@pytest.mark.parametrize("fraction", [0.0, 0.33, 1.0])
def test_patches_are_centred_on_foreground_as_often_as_asked(fraction):
    voxel = np.array([[2, 40, 50]], dtype=np.int32)
    found = centers(4000, shape=(1000, 1000), patch_size=(5, 5), foreground=voxel, fraction=fraction)
    share = (found == (40, 50)).all(axis=1).mean()
    # Four standard deviations of the share.
    assert abs(share - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / 4000)


def test_labels_are_drawn_alike_however_many_voxels_they_have():
    rare = [[1, 10, 10]]
    common = [[7, 50, column] for column in range(10, 90)]
    found = centers(4000, shape=(100, 100), patch_size=(3, 3), foreground=np.array(rare + common), fraction=1.0)
    assert abs((found[:, 0] == 10).mean() - 0.5) < 4 * np.sqrt(0.25 / 4000)
    columns = Counter(found[found[:, 0] == 50, 1])
    assert stats.chisquare([columns[column] for column in range(10, 90)]).pvalue > 1e-3


def test_a_case_without_foreground_is_sampled_like_a_patch_without():
    knobs = {"shape": (30, 30), "patch_size": (4, 4)}
    assert np.array_equal(centers(50, **knobs, fraction=1.0), centers(50, **knobs, fraction=0.0))


def test_the_foreground_fraction_does_not_disturb_the_draws_that_follow():
    voxel = np.array([[1, 3, 3]])
    for fraction in (0.0, 1.0):
        random = np.random.default_rng(0)
        draw_center(random, shape=(9, 9), patch_size=(3, 3), foreground=voxel, foreground_fraction=fraction)
        assert random.random() == np.random.default_rng(0).random(6)[5]


NAMES = [("rare",), ("common",), ("common",), ("common", "other"), ("common",), ("other",), ("common",)]


@settings(deadline=None, database=None, max_examples=30)
@given(start=st.integers(0, 60), blocks=st.integers(1, 8), seed=st.integers(0, 50))
def test_each_class_is_drawn_as_often_as_any_other_from_any_place_on(start, blocks, seed):
    order = balanced_order([own[:1] for own in NAMES], seed=seed)
    drawn = Counter(NAMES[order.case_of(sample)][0] for sample in range(3 * start, 3 * (start + blocks)))
    assert set(drawn.values()) == {blocks}


def test_the_cases_of_a_class_are_drawn_alike():
    order = balanced_order([own[:1] for own in NAMES], seed=0)
    common = [i for i, own in enumerate(NAMES) if own[0] == "common"]
    for number in range(4):
        per_pass = 3 * len(common)
        drawn = Counter(order.case_of(sample) for sample in range(number * per_pass, (number + 1) * per_pass))
        assert [drawn[case] for case in common] == [1] * len(common)


def test_a_case_of_several_classes_is_drawn_for_each():
    order = balanced_order(NAMES, seed=1)
    drawn = Counter(order.case_of(sample) for sample in range(3 * 10))
    assert drawn[3] == 10 / 5 + 10 / 2


def test_a_balanced_case_depends_on_seed_and_number_alone():
    expected = [balanced_order(NAMES, seed=3).case_of(sample) for sample in range(50)]
    one = balanced_order(NAMES, seed=3)
    assert [one.case_of(sample) for sample in reversed(range(50))] == expected[::-1]
    assert one.hash(50) == balanced_order(NAMES, seed=3).hash(50) != balanced_order(NAMES, seed=4).hash(50)

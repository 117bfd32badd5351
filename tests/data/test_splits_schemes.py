"""Hold-out, leave one group out, the dataset's own parts, and draws of training cases."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.splits import HoldOut, KFold, LeaveOneGroupOut, Parts, Prescribed


def cases_of(groups: Sequence[str], **fields: Any) -> list[Case]:
    return [Case(f"case_{i:03}", group, (Path(f"{i}.nii"),), **fields) for i, group in enumerate(groups)]


def patients(count: int) -> list[Case]:
    return cases_of([f"p{i:03}" for i in range(count)])


def ids(cases: Sequence[Case]) -> list[str]:
    return [case.case_id for case in cases]


def groups_of(cases: Sequence[Case]) -> set[str]:
    return {case.group for case in cases}


def with_parts(parts: Sequence[str | None]) -> list[Case]:
    return [replace(case, split=part) for case, part in zip(patients(len(parts)), parts, strict=True)]


@settings(deadline=None, database=None)
@given(
    groups=st.lists(st.integers(0, 20), min_size=3, max_size=60),
    val=st.one_of(st.floats(0.05, 0.5), st.integers(1, 10)),
    test=st.one_of(st.none(), st.floats(0.05, 0.3)),
    seed=st.integers(0, 3),
)
def test_a_hold_out_has_each_case_once_and_cuts_no_group(groups, val, test, seed):
    cases = cases_of([f"p{group}" for group in groups])
    try:
        parts = HoldOut(val=val, test=test, seed=seed)(cases, fold=0)
    except DataError:  # nothing is left to learn from, see below
        reject()
    assert Counter(ids([*parts.train, *parts.val, *parts.test])) == Counter(ids(cases))
    assert groups_of(parts.train).isdisjoint(groups_of([*parts.val, *parts.test]))
    assert groups_of(parts.val).isdisjoint(groups_of(parts.test))
    largest = max(Counter(groups).values())
    wanted = round(val * len(cases)) if isinstance(val, float) else val
    assert abs(len(parts.val) - wanted) <= largest


@pytest.mark.parametrize(("val", "test", "sizes"), [(0.2, None, (40, 10, 0)), (7, 0.1, (38, 7, 5)), (1, 1, (48, 1, 1))])
def test_shares_and_numbers_are_met_exactly_where_each_case_is_a_group(val, test, sizes):
    parts = HoldOut(val=val, test=test, seed=0)(patients(50), fold=0)
    assert (len(parts.train), len(parts.val), len(parts.test)) == sizes


def test_a_hold_out_depends_on_its_seed_alone_and_not_on_the_order_of_the_dataset():
    cases = patients(30)
    first = HoldOut(val=0.3, test=None, seed=1)(cases, fold=0)
    assert first.hash == HoldOut(val=0.3, test=None, seed=1)(cases[::-1], fold=0).hash
    assert first.hash != HoldOut(val=0.3, test=None, seed=2)(cases, fold=0).hash
    assert ids(first.val) == sorted(ids(first.val))


def test_a_hold_out_leaves_the_datasets_test_part_where_it_is():
    cases = with_parts([None] * 10 + ["test"] * 4)
    parts = HoldOut(val=0.2, test=None, seed=0)(cases, fold=0)
    assert (len(parts.val), ids(parts.test)) == (2, ids(cases[10:]))
    with pytest.raises(UsageError, match=r"dataset\.split\.test=0\.1 would be a second test part .* own of 4 cases"):
        HoldOut(val=0.2, test=0.1, seed=0)(cases, fold=0)


@pytest.mark.parametrize("size", [0.0, 1.0, 0, -3, 1.5])
def test_a_size_of_a_held_out_part_that_is_none_is_refused(size):
    with pytest.raises(UsageError, match=r"dataset\.split\.val needs a share above 0 and below 1, or a whole number"):
        HoldOut(val=size, test=None, seed=0)


def test_a_hold_out_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="leave nothing to learn from of 4 cases in 4 groups"):
        HoldOut(val=9, test=None, seed=0)(patients(4), fold=0)


@pytest.mark.parametrize("split", [HoldOut(val=0.5, test=None, seed=0), Prescribed()])
def test_a_split_with_one_division_has_fold_0_alone(split):
    cases = with_parts(["train", "train", "val", "val"])
    assert split(cases, fold=0).train
    with pytest.raises(UsageError, match=r"fold needs 0 with dataset/split=\w+, which has one division, got 1"):
        split(cases, fold=1)


def test_each_group_is_left_out_once():
    cases = [*cases_of(["b", "a", "c", "a", "b"]), Case("t", "t", (), split="test")]
    folds = [LeaveOneGroupOut(n_groups=None)(cases, fold=fold) for fold in range(3)]
    assert [groups_of(parts.val) for parts in folds] == [{"a"}, {"b"}, {"c"}]
    assert all(groups_of(parts.train) | groups_of(parts.val) == {"a", "b", "c"} for parts in folds)
    assert all(ids(parts.test) == ["t"] for parts in folds)
    with pytest.raises(UsageError, match=r"fold needs 0\.\.2, an index of the 3 groups, got 3"):
        LeaveOneGroupOut(n_groups=3)(cases, fold=3)
    with pytest.raises(UsageError, match=r"n_groups needs 3 or null, got 4"):
        LeaveOneGroupOut(n_groups=4)(cases, fold=0)


def test_the_datasets_own_parts_are_taken_as_they_are():
    cases = with_parts(["train", "val", "test", None, "train"])
    parts = Prescribed()(cases, fold=0)
    assert [ids(part) for part in (parts.train, parts.val, parts.test)] == [
        ["case_000", "case_003", "case_004"],
        ["case_001"],
        ["case_002"],
    ]


def test_a_dataset_that_prescribes_nothing_is_told():
    with pytest.raises(DataError, match="prescribes neither a val nor a test part; choose dataset/split=kfold"):
        Prescribed()(with_parts(["train", None]), fold=0)
    with pytest.raises(DataError, match="prescribes the part valid; a part is train, val, test"):
        Prescribed()(with_parts(["train", "valid"]), fold=0)


def test_a_dataset_whose_own_parts_cut_a_group_is_refused():
    cases = [replace(case, group="same") for case in with_parts(["train", "test"])]
    with pytest.raises(
        DataError, match=r"case_001: it needs the part of its group same, train \(case case_000\), got test"
    ):
        Prescribed()(cases, fold=0)


def drawn(n_train: int | None, draw: int, **fields: Any) -> Parts:
    cases = with_parts([None] * 100 + ["test"] * 100)
    return Prescribed(n_train=n_train, draw=draw, **fields)(cases, fold=0)


def test_draws_of_the_vgg_protocol():
    """N = 32 of the first 100 images, 5 draws, the last 100 are tested."""
    draws = [drawn(32, draw) for draw in range(5)]
    assert all(len(parts.train) == 32 and max(ids(parts.train)) < "case_100" for parts in draws)
    assert len({parts.hash for parts in draws}) == 5
    assert all(ids(parts.test) == [f"case_{i}" for i in range(100, 200)] for parts in draws)
    assert drawn(32, 0).hash == draws[0].hash
    assert drawn(32, 0, seed=1).hash != draws[0].hash


@pytest.mark.parametrize("draw", [0, 3])
def test_smaller_draws_are_among_larger_ones_of_the_same_number(draw):
    sizes = [1, 8, 16, 32, 99, 100]
    training = [set(ids(drawn(size, draw).train)) for size in sizes]
    assert [len(part) for part in training] == sizes
    assert all(smaller < larger for smaller, larger in itertools.pairwise(training))
    assert training[-1] == set(ids(drawn(None, 0).train))


def test_a_draw_does_not_touch_what_is_held_out_and_takes_whole_groups_first():
    cases = cases_of([f"p{number // 3}" for number in range(45)])
    whole = KFold(n_folds=5, seed=0)(cases, fold=2)
    parts = KFold(n_folds=5, seed=0, n_train=10, draw=1)(cases, fold=2)
    assert parts.val == whole.val
    assert set(ids(parts.train)) < set(ids(whole.train))
    assert sorted(Counter(case.group for case in parts.train).values()) == [1, 3, 3, 3]


def test_draws_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"dataset\.split\.n_train=101 needs as many training cases, got 100"):
        drawn(101, 0)
    with pytest.raises(UsageError, match="n_train needs at least 1 case"):
        drawn(0, 0)
    with pytest.raises(UsageError, match="draw needs 0 or more, got -1"):
        drawn(3, -1)
    with pytest.raises(UsageError, match=r"draw=2 draws nothing without dataset\.split\.n_train"):
        drawn(None, 2)


def test_the_parts_tell_their_cases_and_hash_as_plain_values():
    parts = HoldOut(val=2, test=None, seed=0)(patients(5), fold=0)
    plain = parts.as_plain()
    assert plain == {"hash": parts.hash, "train": ids(parts.train), "val": ids(parts.val), "test": []}

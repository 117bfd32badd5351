from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.splits import KFold, Parts


def cases_of(*groups: str, **fields) -> list[Case]:
    return [Case(f"case_{i}", group, (Path(f"{i}.nii"),), **fields) for i, group in enumerate(groups)]


def patients(count: int, **fields) -> list[Case]:
    return cases_of(*(f"p{i}" for i in range(count)), **fields)


def all_folds(cases, *, n_folds=5, seed=0) -> list[Parts]:
    split = KFold(n_folds=n_folds, seed=seed)
    return [split(cases, fold=fold) for fold in range(n_folds)]


@settings(deadline=None, database=None)
@given(
    groups=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    n_folds=st.integers(2, 6),
    seed=st.integers(0, 5),
)
def test_every_case_is_held_out_once_and_no_group_is_cut(groups, n_folds, seed):
    cases = cases_of(*map(str, groups))
    if len(set(groups)) < n_folds:
        with pytest.raises(DataError, match=f"{n_folds} folds need as many groups, got {len(set(groups))}"):
            KFold(n_folds=n_folds, seed=seed)(cases, fold=0)
        return
    folds = all_folds(cases, n_folds=n_folds, seed=seed)
    held_out = Counter(case.case_id for parts in folds for case in parts.val)
    assert held_out == Counter(case.case_id for case in cases)
    for parts in folds:
        assert {case.group for case in parts.train}.isdisjoint(case.group for case in parts.val)
        assert len(parts.train) + len(parts.val) == len(cases)
    sizes = [len({case.group for case in parts.val}) for parts in folds]
    assert max(sizes) - min(sizes) <= 1


def test_the_shuffle_depends_on_its_seed_alone():
    cases = patients(20)
    assert all_folds(cases, seed=3) == all_folds(cases, seed=3)
    assert all_folds(cases, seed=3) != all_folds(cases, seed=4)
    assert [parts.hash for parts in all_folds(cases)] == [parts.hash for parts in all_folds(cases[::-1])]


def test_cases_stay_in_the_order_of_the_dataset():
    for parts in all_folds(patients(20)):
        for part in (parts.train, parts.val):
            assert [int(case.group[1:]) for case in part] == sorted(int(case.group[1:]) for case in part)


def test_prescribed_folds_are_kept():
    prescribed = [replace(case, fold=index % 4) for index, case in enumerate(patients(12))]
    for fold, parts in enumerate(all_folds(prescribed, n_folds=4)):
        assert {case.fold for case in parts.val} == {fold}
        assert len(parts.val) == 3


def test_cases_without_a_fold_are_dealt_out_beside_prescribed_ones():
    cases = patients(10)
    cases[0] = replace(cases[0], fold=3)
    folds = all_folds(cases)
    assert cases[0] in folds[3].val
    assert Counter(case.case_id for parts in folds for case in parts.val) == Counter(case.case_id for case in cases)


def test_the_test_part_stays_apart_in_every_fold():
    cases = patients(10) + [
        replace(case, case_id=f"t{i}", group=f"t{i}", split="test") for i, case in enumerate(patients(3))
    ]
    for parts in all_folds(cases):
        assert {case.case_id for case in parts.test} == {"t0", "t1", "t2"}
        assert all(case.split != "test" for case in (*parts.train, *parts.val))
        assert parts.evaluated == ("test", parts.test)


def test_the_datasets_own_val_takes_part_in_the_folds():
    cases = [replace(case, split="val" if index < 4 else "train") for index, case in enumerate(patients(10))]
    held_out = Counter(case.case_id for parts in all_folds(cases) for case in parts.val)
    assert held_out == Counter(case.case_id for case in cases)


def test_results_are_of_the_held_out_fold_where_there_is_no_test_part():
    parts = all_folds(patients(10))[2]
    assert parts.evaluated == ("val", parts.val)


def test_a_group_in_training_and_test_is_refused():
    cases = patients(10)
    cases += [replace(cases[number], case_id=f"again_{number}", split="test") for number in (4, 7)]
    with pytest.raises(DataError, match=r"case again_4: it needs the part of its group p4, (train|val)") as told:
        KFold(n_folds=5, seed=0)(cases, fold=0)
    assert [fault.case_id for fault in told.value.faults] == ["again_4", "again_7"]
    assert {fault.check for fault in told.value.faults} == {"group_in_two_parts"}


def test_a_group_in_two_prescribed_folds_is_refused():
    cases = [replace(case, fold=index % 5) for index, case in enumerate(cases_of("a", "b", "c", "d", "e", "a"))]
    cases[5] = replace(cases[5], fold=1)
    with pytest.raises(DataError, match=r"group a stands in folds 0 and 1 \(case case_5\)"):
        KFold(n_folds=5, seed=0)(cases, fold=0)


def test_a_prescribed_fold_that_is_never_held_out_is_refused():
    cases = [replace(case, fold=index % 6) for index, case in enumerate(patients(12))]
    with pytest.raises(DataError, match=r"case case_5 belongs to fold 5 .*n_folds=5 never holds that out"):
        KFold(n_folds=5, seed=0)(cases, fold=0)


def test_a_fold_without_cases_is_refused():
    cases = [replace(case, fold=index % 4) for index, case in enumerate(patients(12))]
    with pytest.raises(DataError, match=r"fold 4 of dataset\.split\.n_folds=5 has no case"):
        KFold(n_folds=5, seed=0)(cases, fold=0)


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_there_is_not_is_refused(fold):
    with pytest.raises(UsageError, match=rf"fold needs 0\.\.4 with dataset\.split\.n_folds=5, got {fold}"):
        KFold(n_folds=5, seed=0)(patients(10), fold=fold)


def test_one_fold_is_refused():
    with pytest.raises(UsageError, match="n_folds needs at least 2, got 1"):
        KFold(n_folds=1, seed=0)


def test_parts_without_training_cases_are_refused():
    with pytest.raises(DataError, match="training part is empty"):
        Parts(train=(), val=tuple(patients(2)), test=())


def test_the_hash_tells_which_cases_stand_in_which_part():
    a, b, c = patients(3)
    assert Parts((a, b), (c,), ()).hash == Parts((b, a), (c,), ()).hash
    assert len({Parts((a, b), (c,), ()).hash, Parts((a, c), (b,), ()).hash, Parts((a, b), (), (c,)).hash}) == 3


def test_folds_beside_a_random_test_part_share_it_and_divide_the_rest() -> None:
    cases = cases_of(*(f"g{n // 2}" for n in range(20)))
    parts = [KFold(n_folds=4, test=0.2, seed=0)(cases, fold=fold) for fold in range(4)]
    tests = {tuple(case.case_id for case in part.test) for part in parts}
    assert len(tests) == 1
    (apart,) = tests
    assert len(apart) == 4
    held_out = [case.case_id for part in parts for case in part.val]
    assert sorted([*held_out, *apart]) == sorted(case.case_id for case in cases)
    with pytest.raises(UsageError, match=r"dataset\.split\.test=0\.2 would be a second test part"):
        KFold(n_folds=4, test=0.2, seed=0)([*cases, Case("t", "t", (), split="test")], fold=0)

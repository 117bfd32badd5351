"""Splits whose parts show what all cases show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.splits import Contents, HoldOut, KFold, Known, LeaveOneGroupOut, Prescribed, Split, informed

LABELS = {0: "healthy", 1: "benign", 2: "malignant"}


def cases_of(groups: Sequence[str]) -> list[Case]:
    return [Case(f"case_{i:03}", group, (Path(f"{i}.nii"),)) for i, group in enumerate(groups)]


def told(split: Split, contents: Mapping[str, Contents], labels: Mapping[int, str] = LABELS) -> Split:
    return informed(split, Known(labels=labels, contents=lambda cases: {c.case_id: contents[c.case_id] for c in cases}))


def with_labels(labels: Sequence[int | tuple[int, ...]]) -> tuple[list[Case], dict[str, Contents]]:
    cases = cases_of([f"p{i:03}" for i in range(len(labels))])
    as_tuples = [label if isinstance(label, tuple) else (label,) for label in labels]
    return cases, {case.case_id: Contents(image_labels=label) for case, label in zip(cases, as_tuples, strict=True)}


def with_amounts(amounts: Sequence[Mapping[int, float]]) -> tuple[list[Case], dict[str, Contents]]:
    cases = cases_of([f"p{i:03}" for i in range(len(amounts))])
    return cases, {case.case_id: Contents(amounts=amount) for case, amount in zip(cases, amounts, strict=True)}


@settings(deadline=None, database=None)
@given(labels=st.lists(st.integers(0, 2), min_size=6, max_size=60), n_folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_single_cases_of_each_label_are_dealt_out_evenly(labels, n_folds, seed):
    cases, contents = with_labels(labels)
    split = told(KFold(n_folds=n_folds, seed=seed, stratify="label"), contents)
    folds = [Counter(contents[c.case_id].image_labels for c in split(cases, fold=f).val) for f in range(n_folds)]
    for label in set(labels):
        counts = [fold[(label,)] for fold in folds]
        assert max(counts) - min(counts) <= 1
    sizes = [fold.total() for fold in folds]
    assert sum(sizes) == len(cases)
    assert max(sizes) - min(sizes) <= 1


def test_whole_groups_are_dealt_out_as_evenly_as_by_scikit_learn():
    selection = pytest.importorskip("sklearn.model_selection", reason="needs scikit-learn as the reference")
    mine, theirs = [], []
    for seed in range(60):
        groups, labels = _random_groups(np.random.default_rng(seed))
        cases = cases_of(groups)
        contents = {case.case_id: Contents(image_labels=(label,)) for case, label in zip(cases, labels, strict=True)}
        split = told(KFold(n_folds=4, seed=0, stratify="label"), contents)
        folds = [[int(case.case_id[5:]) for case in split(cases, fold=fold).val] for fold in range(4)]
        reference = selection.StratifiedGroupKFold(4).split(np.zeros(len(cases)), labels, groups)
        mine.append(_unevenness(folds, labels))
        theirs.append(_unevenness([held_out.tolist() for _, held_out in reference], labels))
        assert sorted(place for fold in folds for place in fold) == list(range(len(cases)))
        assert len({(groups[place], number) for number, fold in enumerate(folds) for place in fold}) == len(set(groups))
    assert np.mean(mine) <= 1.02 * np.mean(theirs)


def _random_groups(random: np.random.Generator) -> tuple[list[str], list[int]]:
    """30 patients of 1 to 6 images, most of which have the patient's own label."""
    groups, labels = [], []
    for patient in range(30):
        own = int(random.choice(3, p=[0.6, 0.3, 0.1]))
        for _ in range(random.integers(1, 7)):
            groups.append(f"p{patient}")
            labels.append(own if random.random() < 0.8 else int(random.integers(3)))
    return groups, labels


def _unevenness(folds: Sequence[Sequence[int]], labels: Sequence[int]) -> float:
    """Mean over the labels of the SD, over the folds, of the share of its images that a fold has."""
    shares = [
        [np.mean([place in fold for place in np.flatnonzero(np.array(labels) == label)]) for fold in folds]
        for label in set(labels)
    ]
    return float(np.mean(np.std(shares, axis=1)))


def test_each_of_several_labels_of_an_image_is_dealt_out():
    random = np.random.default_rng(0)
    rows = [
        tuple(int(i) for i in np.flatnonzero(random.random(6) < [0.5, 0.3, 0.2, 0.1, 0.1, 0.05])) for _ in range(400)
    ]
    cases, contents = with_labels(rows)
    split = told(KFold(n_folds=5, seed=0, stratify="label"), contents, dict(enumerate("abcdef")))
    for label in range(6):
        counts = [sum(label in contents[c.case_id].image_labels for c in split(cases, fold=f).val) for f in range(5)]
        assert max(counts) - min(counts) <= 2


def test_presence_of_the_chosen_class_decides_and_nothing_else():
    amounts = [{1: 5.0 * (i % 2), 2: 3.0 * (i < 10)} for i in range(40)]
    cases, contents = with_amounts(amounts)
    split = told(KFold(n_folds=5, seed=3, stratify="presence", stratify_classes=["malignant"]), contents)
    malignant = [sum(contents[c.case_id].amounts[2] > 0 for c in split(cases, fold=f).val) for f in range(5)]
    assert malignant == [2] * 5


def test_the_load_is_dealt_out_in_quantiles_beside_the_cases_without_any():
    random = np.random.default_rng(1)
    loads = np.where(random.random(80) < 0.25, 0.0, random.lognormal(size=80))
    cases, contents = with_amounts([{0: 1e6, 1: float(load)} for load in loads])
    split = told(KFold(n_folds=4, seed=0, stratify="load", stratify_quantiles=5), contents)
    ends = np.quantile(loads[loads > 0], [0.2, 0.4, 0.6, 0.8])
    strata = np.where(loads > 0, 1 + np.searchsorted(ends, loads), 0)
    for stratum in range(6):
        counts = [np.sum([strata[int(c.case_id[5:])] == stratum for c in split(cases, fold=f).val]) for f in range(4)]
        assert max(counts) - min(counts) <= 1


def test_prescribed_folds_are_kept_and_the_rest_is_dealt_out_around_them():
    cases, contents = with_labels([1] * 10 + [2] * 10)
    cases = [Case(c.case_id, c.group, c.images, fold=0 if i < 2 else None) for i, c in enumerate(cases)]
    split = told(KFold(n_folds=5, seed=0, stratify="label"), contents)
    folds = [Counter(contents[c.case_id].image_labels for c in split(cases, fold=f).val) for f in range(5)]
    assert {"case_000", "case_001"} <= {case.case_id for case in split(cases, fold=0).val}
    assert all(fold == {(1,): 2, (2,): 2} for fold in folds)


@pytest.mark.parametrize("seed", range(3))
def test_a_hold_out_has_its_share_of_every_label(seed):
    cases, contents = with_labels([0] * 60 + [1] * 30 + [2] * 10)
    parts = told(HoldOut(val=0.2, test=0.1, seed=seed, stratify="label"), contents)(cases, fold=0)
    for part, share in ((parts.test, 0.1), (parts.val, 0.2), (parts.train, 0.7)):
        counts = Counter(contents[case.case_id].image_labels for case in part)
        for label, number in ((0, 60), (1, 30), (2, 10)):
            assert abs(counts[(label,)] - share * number) <= 2


@pytest.mark.parametrize("split", [Prescribed, lambda **k: LeaveOneGroupOut(n_groups=None, **k)])
def test_every_draw_has_its_share_of_every_label(split):
    cases, contents = with_labels([0] * 50 + [1] * 25 + [2] * 25)
    cases = [*cases, Case("tested", "tested", (), split="test")]
    contents["tested"] = Contents(image_labels=(0,))
    for n_train in (4, 8, 16, 60):
        parts = told(split(n_train=n_train, draw=2, stratify="label"), contents)(cases, fold=0)
        counts = Counter(contents[case.case_id].image_labels for case in parts.train)
        for label, share in ((0, 0.5), (1, 0.25), (2, 0.25)):
            assert abs(counts[(label,)] - share * n_train) <= 1


def test_stratified_parts_depend_on_the_seed_and_not_on_the_order_of_the_dataset():
    cases, contents = with_labels([0, 1] * 15)
    parts = [told(KFold(n_folds=3, seed=s, stratify="label"), contents) for s in (0, 0, 1)]
    hashes = [split(order, fold=1).hash for split, order in zip(parts, (cases, cases[::-1], cases), strict=True)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_nothing_is_asked_where_nothing_is_stratified():
    def refuse(cases: Sequence[Case]) -> Mapping[str, Contents]:
        raise AssertionError("asked")

    cases, _ = with_labels([0] * 10)
    known = Known(labels=LABELS, contents=refuse)
    plain = KFold(n_folds=5, seed=0)
    assert informed(plain, known)(cases, fold=1) == plain(cases, fold=1)
    with pytest.raises(AssertionError, match="asked"):
        informed(KFold(n_folds=5, seed=0, stratify="load"), known)(cases, fold=1)


def test_labels_that_a_table_gives_are_not_asked_for():
    def refuse(cases: Sequence[Case]) -> Mapping[str, Contents]:
        raise AssertionError("asked")

    cases = [Case(f"{i}", f"{i}", (), facts={"image_labels": [i % 2]}) for i in range(20)]
    split = informed(KFold(n_folds=5, seed=0, stratify="label"), Known(labels=LABELS, contents=refuse))
    for fold in range(5):
        assert sum(case.facts["image_labels"][0] for case in split(cases, fold=fold).val) == 2
    with pytest.raises(AssertionError, match="asked"):
        split([*cases, Case("a", "a", ())], fold=0)


def test_a_split_of_the_users_own_that_asks_nothing_stays_as_it_is():
    class Own:
        def __call__(self, cases, *, fold):
            return KFold(n_folds=2, seed=0)(cases, fold=fold)

    own = Own()
    assert informed(own, Known(labels=LABELS, contents=lambda cases: {})) is own


def test_only_the_cases_that_are_divided_are_asked_about():
    cases, contents = with_labels([0, 1] * 5)
    cases.append(Case("tested", "tested", (), split="test"))
    parts = told(KFold(n_folds=2, seed=0, stratify="label"), contents)(cases, fold=0)
    assert [case.case_id for case in parts.test] == ["tested"]


def test_what_cannot_be_stratified_is_told():
    cases, contents = with_amounts([{1: 1.0}] * 6)
    with pytest.raises(
        DataError, match=r"case case_000: dataset\.split\.stratify=label needs labels of images, got none"
    ):
        told(KFold(n_folds=2, seed=0, stratify="label"), contents)(cases, fold=0)
    with pytest.raises(UsageError, match="names bening, which is no label of the dataset; did you mean benign"):
        told(KFold(n_folds=2, seed=0, stratify="load", stratify_classes=["bening"]), contents)(cases, fold=0)
    with pytest.raises(UsageError, match="stratify=load needs the dataset's annotation; none was given"):
        KFold(n_folds=2, seed=0, stratify="load")(cases, fold=0)
    with pytest.raises(UsageError, match=r"stratify needs label, presence, load or null, got lables"):
        KFold(n_folds=2, seed=0, stratify="lables")
    with pytest.raises(UsageError, match="stratify_quantiles needs at least 2, got 1"):
        KFold(n_folds=2, seed=0, stratify="load", stratify_quantiles=1)

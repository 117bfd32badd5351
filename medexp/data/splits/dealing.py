"""Dealing whole groups out to folds, and bringing them into an order whose every beginning shows what all show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from medexp.core.types import Case

StrataOf = Mapping[str, tuple[str, ...]]


def members_of_groups(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """The cases of each group in the order of their ids, groups by name: whatever the order of the dataset."""
    members: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: (case.group, case.case_id)):
        members[case.group].append(case)
    return members


def dealt(
    cases: Sequence[Case], strata: StrataOf, *, n_folds: int, seed: int, prescribed: Mapping[str, int]
) -> dict[str, int]:
    """Deal groups out to folds so that each fold has its share of every stratum, as far as whole groups allow.

    The largest groups go first, each to the fold that has least of what the group shows (in the sense of squares, as
    scikit-learn's StratifiedGroupKFold has it in the sense of standard deviations); of equal folds to the one that
    has fewest cases.

    Args:
        cases: The cases.
        strata: Strata of each case, by case id.
        n_folds: Number of folds.
        seed: Decides between groups that are alike.
        prescribed: Folds that are given, by group.

    Returns:
        Fold by group.
    """
    members = members_of_groups(cases)
    counts = _counts(members, strata)
    share = np.maximum(sum(counts.values()), 1.0)
    held = np.zeros((n_folds, len(share)))
    for group, fold in prescribed.items():
        held[fold] += counts[group]
    folds = dict(prescribed)
    for group in _largest_first([group for group in members if group not in prescribed], members, strata, seed=seed):
        count = counts[group]
        growth = ((2 * held + count) * count / share)[:, 1:].sum(axis=1)
        fold = min(range(n_folds), key=lambda fold: (round(growth[fold], 9), held[fold, 0], fold))
        folds[group] = fold
        held[fold] += count
    return folds


def _counts(members: Mapping[str, Sequence[Case]], strata: StrataOf) -> dict[str, Float[np.ndarray, "strata_and_one"]]:
    """How many cases each group has: in all, then by stratum."""
    names = sorted({name for of_case in strata.values() for name in of_case})
    column = {name: place for place, name in enumerate(names, start=1)}
    counts = {group: np.zeros(len(names) + 1) for group in members}
    for group, of_group in members.items():
        counts[group][0] = len(of_group)
        for case in of_group:
            for name in strata[case.case_id]:
                counts[group][column[name]] += 1
    return counts


def _largest_first(
    groups: Sequence[str], members: Mapping[str, Sequence[Case]], strata: StrataOf, *, seed: int
) -> list[str]:
    """Groups by size; groups of a size stand together with those that show the same."""
    kinds = {group: _kind(members[group], strata) for group in groups}
    shuffled = [groups[place] for place in np.random.default_rng(seed).permutation(len(groups))]
    return sorted(shuffled, key=lambda group: (-len(members[group]), kinds[group]))


def spread(cases: Sequence[Case], strata: StrataOf, random: np.random.Generator) -> list[str]:
    """Groups in a random order of which every beginning has its share of every kind of group.

    Args:
        cases: The cases.
        strata: Strata of each case, by case id; where they are all alike the order is a plain shuffle.
        random: Source of randomness.

    Returns:
        The groups.
    """
    members = members_of_groups(cases)
    by_kind: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for group, of_group in members.items():
        by_kind[_kind(of_group, strata)].append(group)
    placed: list[tuple[float, str]] = []
    for _, groups in sorted(by_kind.items()):
        places = (np.arange(len(groups)) + random.random()) / len(groups)
        order = random.permutation(len(groups))
        placed += [(float(place), groups[index]) for place, index in zip(places, order, strict=True)]
    return [group for _, group in sorted(placed)]


def _kind(cases: Sequence[Case], strata: StrataOf) -> tuple[str, ...]:
    """What most cases of a group show; of what equally many show, the first by name."""
    count = Counter(strata[case.case_id] for case in cases)
    return min(count, key=lambda kind: (-count[kind], kind))

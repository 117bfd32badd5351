"""Which cases train and which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.hashing import hash_plain
from medexp.core.types import Case


@dataclass(frozen=True)
class Parts:
    """The parts of a dataset in one fold.

    Attributes:
        train: Cases that the network learns from.
        val: Held-out cases of this fold.
        test: Cases that the dataset sets apart, if it does.
    """

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def __post_init__(self) -> None:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        home: dict[str, str] = {}
        for name, cases in parts.items():
            for case in cases:
                if home.setdefault(case.group, name) != name:
                    raise DataError(
                        f"group {case.group} stands in {home[case.group]} and in {name} (case {case.case_id}); "
                        "a group (patient) must not be cut by a split"
                    )
        if not self.train:
            raise DataError("the training part is empty; check the split and the dataset's folder")

    @property
    def evaluated(self) -> tuple[str, tuple[Case, ...]]:
        """Name and cases of the part that results are reported on: test where there is one, else val."""
        return ("test", self.test) if self.test else ("val", self.val)

    @property
    def hash(self) -> str:
        """Hash of the case ids of each part."""
        return hash_plain(
            {name: sorted(case.case_id for case in getattr(self, name)) for name in ("train", "val", "test")}
        )


@runtime_checkable
class Split(Protocol):
    """Divides the cases of a dataset."""

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts of one fold."""
        ...


class KFold:
    """k folds over groups; fold `fold` is held out. Cases that the dataset sets apart as "test" stay apart.

    A fold that the cases themselves carry wins over the shuffle. The dataset's own "val" is not kept: its cases take
    part in the folds.

    Args:
        n_folds: Number of folds, at least 2.
        seed: Seed of the shuffle of the groups; the same for every run, whatever its training seed.
    """

    def __init__(self, *, n_folds: int, seed: int) -> None:
        if n_folds < 2:
            raise UsageError(f"dataset.split.n_folds needs at least 2, got {n_folds}")
        self.n_folds = n_folds
        self.seed = seed

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts of one fold.

        Args:
            cases: All cases of the dataset.
            fold: Number of the fold that is held out.

        Returns:
            The parts, with the cases in the order of the dataset.

        Raises:
            UsageError: There is no such fold.
            DataError: There are too few groups, or the folds that the cases carry do not make `n_folds` folds.
        """
        if not 0 <= fold < self.n_folds:
            raise UsageError(f"fold needs 0..{self.n_folds - 1} with dataset.split.n_folds={self.n_folds}, got {fold}")
        learning = [case for case in cases if case.split != "test"]
        folds = _fold_of_group(learning, n_folds=self.n_folds, seed=self.seed)
        return Parts(
            train=tuple(case for case in learning if folds[case.group] != fold),
            val=tuple(case for case in learning if folds[case.group] == fold),
            test=tuple(case for case in cases if case.split == "test"),
        )


def _fold_of_group(cases: Sequence[Case], *, n_folds: int, seed: int) -> dict[str, int]:
    prescribed = _prescribed_folds(cases, n_folds=n_folds)
    groups = sorted({case.group for case in cases} - prescribed.keys())
    if len(groups) + len(prescribed) < n_folds:
        raise DataError(f"{n_folds} folds need as many groups, got {len(groups) + len(prescribed)}")
    order = np.random.default_rng(seed).permutation(len(groups))
    folds = prescribed | {groups[index]: place % n_folds for place, index in enumerate(order)}
    empty = sorted(set(range(n_folds)) - set(folds.values()))
    if empty:
        raise DataError(
            f"fold {empty[0]} of dataset.split.n_folds={n_folds} has no case; the dataset prescribes the folds"
        )
    return folds


def _prescribed_folds(cases: Sequence[Case], *, n_folds: int) -> dict[str, int]:
    """The fold of each group whose cases carry one."""
    prescribed: dict[str, int] = {}
    for case in cases:
        if case.fold is None:
            continue
        if not 0 <= case.fold < n_folds:
            raise DataError(
                f"case {case.case_id} belongs to fold {case.fold} of its dataset, and dataset.split.n_folds={n_folds} "
                "never holds that out; give the dataset's own number of folds"
            )
        if prescribed.setdefault(case.group, case.fold) != case.fold:
            raise DataError(
                f"group {case.group} stands in folds {prescribed[case.group]} and {case.fold} (case {case.case_id}); "
                "a group (patient) must not be cut by a split"
            )
    return prescribed

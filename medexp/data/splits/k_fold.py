"""k folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.splits.dealing import dealt, spread
from medexp.data.splits.drawing import Draw
from medexp.data.splits.held_out import check_only_test_part, check_sizes, first_groups
from medexp.data.splits.parts import Parts, set_apart
from medexp.data.splits.strata import Strata


class KFold:
    """k folds over groups; fold `fold` is held out. Cases that the dataset sets apart as "test" stay apart.

    A fold that the cases themselves carry wins over the shuffle. The dataset's own "val" is not kept: its cases take
    part in the folds.

    Args:
        n_folds: Number of folds, at least 2.
        test: A test part beside the folds, where the dataset has none of its own: a share of the cases (below 1), or
            their number; None for none.
        seed: Seed of the shuffle of the groups; the same for every run, whatever its training seed.
        stratify: Give each fold its share of the images of each "label", of those that show each class ("presence"),
            or of each "load" of the classes; None deals the groups out without looking.
        stratify_classes: Names of the labels that are looked at; None: all but the background.
        stratify_quantiles: Number of strata of the load.
        n_train: How many training cases are drawn of each fold; None for all.
        draw: Number of the draw.
    """

    def __init__(
        self,
        *,
        n_folds: int,
        test: float | int | None = None,
        seed: int,
        stratify: str | None = None,
        stratify_classes: Sequence[str] | None = None,
        stratify_quantiles: int = 4,
        n_train: int | None = None,
        draw: int = 0,
    ) -> None:
        if n_folds < 2:
            raise UsageError(f"dataset.split.n_folds needs at least 2, got {n_folds}")
        check_sizes(test=test)
        self.n_folds = n_folds
        self.test = test
        self.seed = seed
        self.strata = Strata(by=stratify, classes=stratify_classes, quantiles=stratify_quantiles)
        self.draw = Draw(n_train=n_train, draw=draw, seed=seed)

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts of one fold.

        Args:
            cases: All cases of the dataset.
            fold: Number of the fold that is held out.

        Returns:
            The parts, with the cases in the order of the dataset.

        Raises:
            UsageError: There is no such fold, or a test part is asked for beside the dataset's own.
            DataError: There are too few groups, or the folds that the cases carry do not make `n_folds` folds.
        """
        if not 0 <= fold < self.n_folds:
            raise UsageError(f"fold needs 0..{self.n_folds - 1} with dataset.split.n_folds={self.n_folds}, got {fold}")
        learning: Sequence[Case]
        test: Sequence[Case]
        learning, test = set_apart(cases)
        check_only_test_part(test, self.test)
        if self.test is not None:
            learning, test = self._with_test_part(learning)
        folds = self._fold_of_group(learning)
        parts = Parts(
            train=tuple(case for case in learning if folds[case.group] != fold),
            val=tuple(case for case in learning if folds[case.group] == fold),
            test=tuple(test),
        )
        return self.draw(parts, self.strata)

    def _with_test_part(self, cases: Sequence[Case]) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """The cases to learn from, and a test part that is the same for all folds."""
        assert self.test is not None
        order = spread(cases, self.strata(cases), np.random.default_rng(self.seed))
        apart = set(first_groups(order, cases, size=self.test))
        return tuple(case for case in cases if case.group not in apart), tuple(
            case for case in cases if case.group in apart
        )

    def _fold_of_group(self, cases: Sequence[Case]) -> dict[str, int]:
        prescribed = _prescribed_folds(cases, n_folds=self.n_folds)
        groups = sorted({case.group for case in cases} - prescribed.keys())
        if len(groups) + len(prescribed) < self.n_folds:
            raise DataError(
                f"{self.n_folds} folds need as many groups, got {len(groups) + len(prescribed)}; choose a smaller "
                "dataset.split.n_folds"
            )
        if self.strata.by is None:
            order = np.random.default_rng(self.seed).permutation(len(groups))
            folds = prescribed | {groups[index]: place % self.n_folds for place, index in enumerate(order)}
        else:
            strata = self.strata(cases)
            folds = dealt(cases, strata, n_folds=self.n_folds, seed=self.seed, prescribed=prescribed)
        empty = sorted(set(range(self.n_folds)) - set(folds.values()))
        if empty:
            raise DataError(
                f"fold {empty[0]} of dataset.split.n_folds={self.n_folds} has no case; the dataset prescribes the folds"
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

"""Each group is held out once."""

from __future__ import annotations

from collections.abc import Sequence

from medexp.core.errors import UsageError
from medexp.core.types import Case
from medexp.data.splits.drawing import Draw
from medexp.data.splits.parts import Parts, set_apart
from medexp.data.splits.strata import Strata


class LeaveOneGroupOut:
    """Fold `fold` holds out the group of that index, groups by name. Cases set apart as "test" stay apart.

    Args:
        n_groups: Number of groups, where it is known beforehand (`fold=all` needs it); None: as many as there are.
        seed: Seed of the draws.
        stratify: What each draw has its share of, as in `KFold`.
        stratify_classes: Names of the labels that are looked at; None: all but the background.
        stratify_quantiles: Number of strata of the load.
        n_train: How many training cases are drawn of each fold; None for all.
        draw: Number of the draw.
    """

    def __init__(
        self,
        *,
        n_groups: int | None,
        seed: int = 0,
        stratify: str | None = None,
        stratify_classes: Sequence[str] | None = None,
        stratify_quantiles: int = 4,
        n_train: int | None = None,
        draw: int = 0,
    ) -> None:
        self.n_groups = n_groups
        self.strata = Strata(by=stratify, classes=stratify_classes, quantiles=stratify_quantiles)
        self.draw = Draw(n_train=n_train, draw=draw, seed=seed)

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts of one fold.

        Args:
            cases: All cases of the dataset.
            fold: Index of the group that is held out.

        Returns:
            The parts, with the cases in the order of the dataset.

        Raises:
            UsageError: There is no such group, or another number of groups than was given.
        """
        learning, test = set_apart(cases)
        groups = sorted({case.group for case in learning})
        if self.n_groups not in (None, len(groups)):
            raise UsageError(f"dataset.split.n_groups needs {len(groups)} or null, got {self.n_groups}")
        if not 0 <= fold < len(groups):
            raise UsageError(f"fold needs 0..{len(groups) - 1}, an index of the {len(groups)} groups, got {fold}")
        parts = Parts(
            train=tuple(case for case in learning if case.group != groups[fold]),
            val=tuple(case for case in learning if case.group == groups[fold]),
            test=test,
        )
        return self.draw(parts, self.strata)
